"""One thread that waits for sockets and moments, for processes that serve: epoll(7) and a heap.

Always: nothing wakes it but what it was asked to wait for. Not here: what is done then.
"""

import heapq
import select
import time
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class EventPoll:
    """What is waited for, and what is done when it comes."""

    def __init__(self) -> None:
        """Wait for nothing yet."""
        self._poll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0  # so that two timers of one moment are told apart

    def watch(self, descriptor: int, act: Callable[[], object], mask: int = READ) -> None:
        """Do this whenever it is ready; a descriptor that is watched gets another mask."""
        if descriptor in self._watched:
            self._poll.modify(descriptor, mask)
        else:
            self._poll.register(descriptor, mask)
        self._watched[descriptor] = act

    def forget(self, descriptor: int) -> None:
        """Wait for it no more: to be called before it is closed."""
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Do this once, so many seconds from now."""
        self._count += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._count, act))

    def turn(self) -> None:
        """Wait until something is ready or due, and do what was asked for."""
        for descriptor, _ in self._poll.poll(self._timeout_s()):
            act = self._watched.get(descriptor)
            if act is not None:  # one of those before may have ended it
                act()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _timeout_s(self) -> float | None:
        if not self._timers:
            return None
        return max(self._timers[0][0] - time.monotonic(), 0.0)
