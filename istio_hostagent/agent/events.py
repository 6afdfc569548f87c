"""Everything that can happen to the agent, as frozen values; the loop has no other input."""

from typing import NamedTuple

from ..host import changes, ports, rtmonitor


class FilesChanged(NamedTuple):
    """A watched file may have changed."""


class KernelChanged(NamedTuple):
    """Somebody else committed changes of nf_tables; `changes` say who, and of what."""

    changes: tuple[changes.Change, ...]


class MachineChanged(NamedTuple):
    """Links, addresses, routes or IPv6 have changed."""

    change: rtmonitor.Change


class TaskEnded(NamedTuple):
    """A process started for a result has ended."""

    name: str


class ProxyEnded(NamedTuple):
    """The proxy has ended."""


class ProxyAnswered(NamedTuple):
    """The proxy has answered whether it lives and is ready."""


class Signalled(NamedTuple):
    """A signal arrived."""

    number: int


class Asked(NamedTuple):
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
