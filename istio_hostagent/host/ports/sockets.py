"""What the agent may ask of sockets: probe packets, questions at doors, ports that are held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ...redirect import expectations
    from ...supervise import liveness
    from .. import probepool


class Handover(Protocol):
    """Takes the sockets that a worker has made."""

    def fileno(self) -> int:
        """The worker's end, to be inherited."""

    def started(self) -> None:
        """The worker has its end now, or will never have it."""

    def take(self) -> list[Any]:
        """Give all that has come, once the worker has ended, and close our end."""


class Round(Protocol):
    """Probe packets that were sent at once."""

    @property
    def outcomes(self) -> Sequence[expectations.Outcome]:
        """Where each was going, as far as it was seen."""

    def look(self) -> bool:
        """Whether every packet has been seen now; raises KernelBusy, NotPermitted."""

    def close(self) -> None:
        """Look no more."""


class Packets(Protocol):
    """Sends probe packets, from sockets that a worker made once."""

    def open_channel(self) -> Handover:
        """Make the way on which the worker hands them over; raises OSError."""

    def fill(
        self, counts: Mapping[probepool.Kind, int], errnos: Sequence[int], made: Sequence[Any], /
    ) -> bool:
        """Take the sockets made for `counts`; False if they are others than asked for."""

    def has(self, counts: Mapping[probepool.Kind, int], /) -> bool:
        """Whether there are so many of each kind."""

    def send(self, made: Sequence[expectations.Expectation], /) -> Round:
        """Send one packet for each promise; raises HostAgentError, OSError with none sent."""

    def close(self) -> None:
        """Send no more."""


class Doors(Protocol):
    """Asks loopback ports whether somebody answers, one round at a time."""

    @property
    def is_answered(self) -> bool:
        """Whether every question of the round has its answer."""

    def ask(
        self, doors: Iterable[liveness.Door], answered: Callable[[], object] | None = None, /
    ) -> None:
        """Begin a round, without waiting; one that was open is dropped.

        `answered` is called when all have answered, and its result is an event.
        """

    def look(self) -> dict[liveness.Door, liveness.Answer]:
        """What has been answered until now; SILENT for the rest. The round goes on."""

    def text(self, door: liveness.Door, /) -> bytes:
        """What a door answered last, as far as it was read."""

    def read(self) -> dict[liveness.Door, liveness.Answer]:
        """End the round: what has been answered; SILENT for the rest."""

    def close(self) -> None:
        """Drop the round."""


class HeldPorts(Protocol):
    """Keeps TCP ports from everybody but the proxy's user."""

    @property
    def useless(self) -> Sequence[str]:
        """Names under which the service manager keeps what is of no use."""

    @property
    def ports(self) -> frozenset[int]:
        """Those that nobody else can bind now, at any address."""

    def hold(self, port: int) -> Mapping[str, int]:
        """Hold one; gives its descriptors by the names under which they are to be kept.

        Raises PortTaken, NotPermitted, KernelBusy with nothing more held than before.
        """

    def let_go(self, port: int) -> Sequence[str]:
        """Hold one no longer; gives the names of its descriptors."""

    def find_listening(self, port: int) -> bool | None:
        """Whether the proxy's user, and nobody else, listens there; None: there is no telling."""

    def is_in_use(self, port: int) -> bool:
        """Whether connections are under way there."""
