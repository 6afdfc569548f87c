"""What the agent may ask of the machine it runs on: its clocks, facts and service manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...config import model


class Clock(Protocol):
    """Two clocks: one that never jumps, for durations, and one to compare with certificates."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def now(self) -> float:
        """Unix seconds; may jump when somebody sets the clock."""


class Machine(Protocol):
    """The facts of this host that come and go."""

    def look_again(
        self, known: model.HostFacts, towards: model.Address | None = None, /
    ) -> model.HostFacts:
        """Give the same facts with addresses, routes and IPv6 as they are now."""

    def read_files_again(self, known: model.HostFacts, /) -> model.HostFacts:
        """Give the same facts with name servers, users and groups as files say now.

        Of what they do not say, what is known stays.
        """

    def probe_ssh_ports(self) -> tuple[int, ...]:
        """Give the ports on which an ssh daemon listens now, or may, and always 22."""

    def find_address(self, host: str, /) -> model.Address | None:
        """Give the address that a name stands for, if this host knows it by itself."""


class Notifier(Protocol):
    """The line to the service manager."""

    def send(self, **fields: str) -> None:
        """Send assignments such as READY="1"."""

    def store(self, name: str, descriptor: int) -> None:
        """Have a descriptor kept over restarts and crashes; raises OSError if it is not taken."""

    def forget(self, name: str) -> None:
        """Have the descriptor of this name kept no longer."""

    @property
    def is_behind(self) -> bool:
        """Whether the manager has not taken everything yet: `flush` a little later."""

    def flush(self) -> None:
        """Send what has not been taken yet."""


class Predecessors(Protocol):
    """The units of another Istio agent on this host."""

    @property
    def units(self) -> tuple[str, ...]:
        """All that there may be."""

    def find_running(self) -> tuple[str, ...]:
        """Give those that have processes now; takes no time."""

    def is_held(self) -> bool:
        """Whether an earlier agent was about to take over, and may hold new connections."""

    def find_recorded(self) -> tuple[str, ...]:
        """Give those that it was about to replace; none where that is not known."""
