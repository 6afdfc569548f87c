"""An inbox on which time passes at once: waiting moves a fake clock."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from tests.fakes.clock import FakeClock

Told = TypeVar("Told")
_NUMBERS = itertools.count(10_000)


def new_descriptor() -> int:
    """A number that no other fake has."""
    return next(_NUMBERS)


class FakeInbox:
    """Descriptors are numbers here; a fake says when one is readable."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._sources: dict[int, Callable[[], Any]] = {}
        self._readable: dict[int, None] = {}
        self._posted: deque[Any] = deque()
        self.until = float("inf")  # no wait ends later (monotonic seconds)

    def ready(self, descriptor: int) -> None:
        """There is something to read, until `quiet`."""
        self._readable[descriptor] = None

    def quiet(self, descriptor: int) -> None:
        """There is nothing more to read, or the descriptor is closed."""
        self._readable.pop(descriptor, None)

    def is_readable(self, descriptor: int) -> bool:
        return descriptor in self._readable

    def watch(self, descriptor: int, read: Callable[[], Any]) -> None:
        assert descriptor not in self._sources, "epoll refuses a descriptor that it has"
        self._sources[descriptor] = read

    def forget(self, descriptor: int) -> None:
        self._sources.pop(descriptor, None)

    def post(self, event: Any) -> None:
        self._posted.append(event)

    def wait(self, timeout_s: float | None) -> list[Any]:
        end = self.until
        if timeout_s is not None:
            end = min(end, self._clock.monotonic() + timeout_s)
        while True:
            events = self._collect()
            if events or self._clock.monotonic() >= end:
                return events
            self._clock.step(end)

    def _collect(self) -> list[Any]:
        events = []
        for descriptor in [each for each in self._readable if each in self._sources]:
            read = self._sources.get(descriptor)
            event = read() if read is not None else None
            if event is not None:
                events.append(event)
        events += self._posted
        self._posted.clear()
        return events


class FakeSource(Generic[Told]):
    """Tells of changes; `join` makes one value of all that came."""

    def __init__(self, inbox: FakeInbox, join: Callable[[Sequence[Told]], Told]) -> None:
        self._inbox = inbox
        self._join = join
        self._come: list[Told] = []
        self._descriptor = new_descriptor()

    def fileno(self) -> int:
        return self._descriptor

    def tell(self, change: Told) -> None:
        self._come.append(change)
        self._inbox.ready(self._descriptor)

    def read(self) -> Told:
        come, self._come = self._come, []
        self._inbox.quiet(self._descriptor)
        return self._join(come)
