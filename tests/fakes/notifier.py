"""A service manager that remembers what it was told and keeps what it was given."""

import errno
import os
from collections.abc import Callable

from tests.fakes.clock import FakeClock


class FakeNotifier:
    def __init__(
        self, stored: dict[str, int], clock: FakeClock, step: Callable[[], None] = lambda: None
    ) -> None:
        """`stored`: the descriptors that the manager keeps."""
        self._stored = stored
        self._clock = clock
        self._step = step
        self.is_away = False  # the manager: what is given to it is refused
        self.said: dict[str, str] = {}
        self.said_at: dict[str, float] = {}  # monotonic seconds

    def send(self, **fields: str) -> None:
        self.said |= {name: " ".join(value.split()) for name, value in fields.items()}
        self.said_at.update(dict.fromkeys(fields, self._clock.monotonic()))

    is_behind = False  # this manager takes everything at once

    def flush(self) -> None:
        pass

    def store(self, name: str, descriptor: int) -> None:
        self._step()
        if self.is_away:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._stored[name] = descriptor

    def forget(self, name: str) -> None:
        self._step()
        if not self.is_away:
            self._stored.pop(name, None)
