"""Probe packets in memory: where each was going is told by `outcome`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from istio_hostagent.host import probepool
from istio_hostagent.redirect import expectations
from tests.fakes.inbox import new_descriptor


class FakeHandover:
    """The way on which a worker hands sockets over: numbers."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def fileno(self) -> int:
        return new_descriptor()

    def started(self) -> None:
        pass

    def take(self) -> list[Any]:
        return self.made


class FakeRound:
    def __init__(self, outcomes: Sequence[expectations.Outcome]) -> None:
        self.outcomes = outcomes

    def look(self) -> bool:
        return True

    def close(self) -> None:
        pass


class FakePackets:
    def __init__(
        self,
        outcome: Callable[[expectations.Expectation], expectations.Outcome],
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self._outcome = outcome
        self._step = step
        self._has: dict[probepool.Kind, int] = {}

    def open_channel(self) -> FakeHandover:
        return FakeHandover()

    def fill(
        self, counts: Mapping[probepool.Kind, int], errnos: Sequence[int], made: Sequence[Any]
    ) -> bool:
        self._has = dict(counts)
        return True

    def has(self, counts: Mapping[probepool.Kind, int]) -> bool:
        return all(self._has.get(kind, 0) >= count for kind, count in counts.items())

    def send(self, made: Sequence[expectations.Expectation]) -> FakeRound:
        self._step()
        return FakeRound(list(map(self._outcome, made)))

    def close(self) -> None:
        self._has = {}
