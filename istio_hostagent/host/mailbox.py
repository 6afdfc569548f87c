"""One place where everything that happens arrives: descriptors, other threads, time-outs.

The thread that decides waits here and nowhere else. Other threads only post. What an event means
is not known here.
"""

import collections
import os
import select
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Event = TypeVar("Event")

# A source whose reader fails is left alone for so long.
MUTE_S = 1.0


class Mailbox(Generic[Event]):
    """Events from registered descriptors and from `post`, in order of arrival."""

    def __init__(self) -> None:
        """Open an epoll instance and a wake-up counter (eventfd(2))."""
        self._poll = select.epoll()
        self._sources: dict[int, Callable[[], Event | None]] = {}
        self._muted: dict[int, float] = {}  # until when (monotonic seconds)
        self._posted: collections.deque[Event] = collections.deque()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wakeup, select.EPOLLIN)

    def watch(self, descriptor: int, read: Callable[[], Event | None]) -> None:
        """Call `read` when `descriptor` is readable or closed; its result, if any, is an event.

        `read` must take away what made it readable, or `forget` the descriptor.
        """
        self._sources[descriptor] = read
        self._poll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor, before it is closed."""
        is_known = self._sources.pop(descriptor, None) is not None
        if self._muted.pop(descriptor, None) is None and is_known:
            self._poll.unregister(descriptor)

    def post(self, event: Event) -> None:
        """Add an event; from any thread."""
        self._posted.append(event)
        os.eventfd_write(self._wakeup, 1)

    def wait(self, timeout_s: float | None) -> list[Event]:
        """Wait until something happened or the time is over; then it may return nothing.

        What a descriptor has to say that is no event does not end the waiting: a proxy that
        writes its log costs no turn.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            events = self._collect(0.0 if self._posted else left)
            if events or left == 0.0:
                return events

    def _collect(self, timeout_s: float | None) -> list[Event]:
        timeout_s = self._unmute(timeout_s)
        events: list[Event] = []
        for descriptor, _ in self._poll.poll(timeout_s):
            if descriptor == self._wakeup:
                os.eventfd_read(self._wakeup)
                continue
            read = self._sources.get(descriptor)
            if read is None:
                continue
            is_read = False
            try:
                event = read()
                is_read = True
            finally:
                if not is_read:
                    # What came before is not lost, and what fails is not asked again at once.
                    self._posted.extendleft(reversed(events))
                    self._mute(descriptor)
            if event is not None:
                events.append(event)
        while self._posted:
            events.append(self._posted.popleft())
        return events

    def _mute(self, descriptor: int) -> None:
        if descriptor in self._sources and descriptor not in self._muted:
            self._poll.unregister(descriptor)
            self._muted[descriptor] = time.monotonic() + MUTE_S

    def _unmute(self, timeout_s: float | None) -> float | None:
        """Ask those again whose time is over; gives how long may be waited."""
        now = time.monotonic()
        for descriptor in [each for each, until in self._muted.items() if until <= now]:
            del self._muted[descriptor]
            self._poll.register(descriptor, select.EPOLLIN)
        left = min(self._muted.values(), default=None)
        if left is None:
            return timeout_s
        return left - now if timeout_s is None else min(timeout_s, left - now)
