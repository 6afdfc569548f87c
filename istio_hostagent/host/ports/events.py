"""What tells the agent that something has happened, and who asks it for something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...config import model

Event = TypeVar("Event")
Told_co = TypeVar("Told_co", covariant=True)


class Inbox(Protocol[Event]):
    """Where everything that happens arrives."""

    def watch(self, descriptor: int, read: Callable[[], Event | None], /) -> None:
        """Call `read` in `wait` while `descriptor` is readable; its result, if any, is an event.

        `read` must take away what made it readable, or `forget` the descriptor.
        """

    def forget(self, descriptor: int, /) -> None:
        """Stop watching; one that is not watched is fine."""

    def post(self, event: Event, /) -> None:
        """Add an event; from any thread."""

    def wait(self, timeout_s: float | None, /) -> list[Event]:
        """Wait until something happened or the time is over; then it may return nothing."""


class Source(Protocol[Told_co]):
    """Something that tells of changes."""

    def fileno(self) -> int:
        """The descriptor; readable when there is something to read."""

    def read(self) -> Told_co:
        """Take what has come; never blocks."""


class Watcher(Protocol):
    """Tells when files change; what it tells arrives as an event."""

    @property
    def last_error(self) -> str:
        """Why some of the files are not watched, or nothing."""

    def mark(self) -> None:
        """Remember how the files look: call it before they are read."""

    def is_stale(self) -> bool:
        """Whether a file has changed since `mark`."""

    def follow(self, paths: Iterable[str]) -> bool:
        """Watch these files and no others; True if something may have changed unseen before."""

    def stop(self) -> None:
        """Watch nothing."""


class Groups(Protocol):
    """Tells when units start and stop; what it tells arrives as an event."""

    @property
    def last_error(self) -> str:
        """Why it does not tell of all, or nothing."""

    def follow(self, units: model.Units, own: str = "", /) -> tuple[model.ControlGroup, ...]:
        """Give the groups that make a difference now, and follow these units and no others.

        To be called again after each event. `own`: a group that is captured, too, where units are
        included.
        """

    def look(self, units: model.Units, own: str = "", /) -> tuple[model.ControlGroup, ...]:
        """Give the groups that would make a difference now; who is followed stays so."""


class Caller(Protocol):
    """Somebody who has asked for something and gets one answer."""

    @property
    def request(self) -> dict[str, Any]:
        """What is asked."""

    def answer(self, value: dict[str, Any]) -> None:
        """Give the answer; one who has gone away is no error."""

    def hang_up(self) -> None:
        """Let go without an answer."""
