"""Everything that can happen to the agent, as frozen values; the loop has no other input."""

from ..host import changes, ports, rtmonitor
from ..values import dataclass


@dataclass(frozen=True)
class FilesChanged:
    """A watched file may have changed."""


@dataclass(frozen=True)
class KernelChanged:
    """Somebody else committed changes of nf_tables; `changes` say who, and of what."""

    changes: tuple[changes.Change, ...]


@dataclass(frozen=True)
class MachineChanged:
    """Links, addresses, routes or IPv6 have changed."""

    change: rtmonitor.Change


@dataclass(frozen=True)
class TaskEnded:
    """A process started for a result has ended."""

    name: str


@dataclass(frozen=True)
class ProxyEnded:
    """The proxy has ended."""


@dataclass(frozen=True)
class ProxyAnswered:
    """The proxy has answered whether it lives and is ready."""


@dataclass(frozen=True)
class Signalled:
    """A signal arrived."""

    number: int


@dataclass(frozen=True)
class Asked:
    """A verb of the command line wants an answer."""

    caller: ports.Caller


Event = (
    FilesChanged
    | KernelChanged
    | MachineChanged
    | TaskEnded
    | ProxyEnded
    | ProxyAnswered
    | Signalled
    | Asked
)
