"""A service manager that remembers what it was told and keeps what it was given."""

from collections.abc import Callable


class FakeNotifier:
    def __init__(self, stored: dict[str, int], step: Callable[[], None] = lambda: None) -> None:
        """`stored`: the descriptors that the manager keeps."""
        self._stored = stored
        self._step = step
        self.said: dict[str, str] = {}

    def send(self, **fields: str) -> None:
        self.said.update(fields)

    def store(self, name: str, descriptor: int) -> None:
        self._step()
        self._stored[name] = descriptor
