"""Time that passes only when somebody waits, and what is to happen then."""

import heapq
import itertools
from collections.abc import Callable

START = 1_800_000_000.0  # unix seconds


class FakeClock:
    """Both clocks of a host, and the things that will happen on it by themselves."""

    def __init__(self) -> None:
        self._at = 100.0
        self._ahead = START - self._at
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._lasting: set[int] = set()  # the numbers of those that a kill does not end
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self._at

    def now(self) -> float:
        return self._at + self._ahead

    def set_wall(self, seconds: float) -> None:
        """Somebody sets the clock of this host forward, or back."""
        self._ahead += seconds

    def later(
        self, delay_s: float, action: Callable[[], None], *, is_lasting: bool = False
    ) -> None:
        """Let something happen; `is_lasting`: whatever becomes of the agent."""
        number = next(self._numbers)
        heapq.heappush(self._due, (self._at + delay_s, number, action))
        if is_lasting:
            self._lasting.add(number)

    def step(self, until: float) -> None:
        """Go on to the next thing that happens, at most to `until`."""
        if self._due and self._due[0][0] <= until:
            at, _, action = heapq.heappop(self._due)
            self._at = max(self._at, at)
            action()
        else:
            self._at = max(self._at, until)

    def forget(self) -> None:
        """Nothing of what was to happen does, but what is lasting."""
        self._due = [each for each in self._due if each[1] in self._lasting]
        heapq.heapify(self._due)
