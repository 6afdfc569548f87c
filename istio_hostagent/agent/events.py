"""Everything that can happen to the agent, as frozen values.

The loop has no other input, and hands each event to every part. The last ones come from the loop
itself, or follow in one part from another event.
"""

from collections.abc import Callable
from typing import NamedTuple

from ..config import model
from ..host import changes, ports, rtmonitor


class FilesChanged(NamedTuple):
    """A watched file may have changed."""


class KernelChanged(NamedTuple):
    """Somebody else committed changes of nf_tables; `changes` say who, and of what."""

    changes: tuple[changes.Change, ...]


class RulesAnswered(NamedTuple):
    """The packet rules have an answer to something asked before; `take` hands it on."""

    take: Callable[[], None]


class MachineChanged(NamedTuple):
    """Links, addresses, routes or IPv6 have changed."""

    change: rtmonitor.Change


class UnitsChanged(NamedTuple):
    """An excluded unit may have started or stopped."""


class TaskEnded(NamedTuple):
    """A process started for a result has ended."""

    name: str


class ProxyEnded(NamedTuple):
    """The proxy has ended."""


class ProxyAnswered(NamedTuple):
    """The proxy has answered whether it lives and is ready."""


class ServerEnded(NamedTuple):
    """A server that the agent runs beside the proxy has ended; `worker` says which."""

    worker: str


class Signalled(NamedTuple):
    """A signal arrived."""

    number: int


class Asked(NamedTuple):
    """A verb of the command line wants an answer."""

    caller: ports.Caller


class DestinationsChanged(NamedTuple):
    """What is captured because a service is there may have changed."""


class TimePassed(NamedTuple):
    """A turn: whatever is due may be done."""


class Heartbeat(NamedTuple):
    """Time to look at what nobody tells of."""


class Reloading(NamedTuple):
    """The files are about to be read again: what else may have changed is looked at, too.

    `is_asked`: an operator wants it, so what failed is tried again at once.
    """

    is_asked: bool = False


class MachineSeen(NamedTuple):
    """The machine was looked at. `moves_packets`: packets may go other ways than before."""

    facts: model.HostFacts
    moves_packets: bool


Event = (
    FilesChanged
    | KernelChanged
    | RulesAnswered
    | MachineChanged
    | UnitsChanged
    | TaskEnded
    | ProxyEnded
    | ProxyAnswered
    | ServerEnded
    | Signalled
    | Asked
    | DestinationsChanged
    | TimePassed
    | Heartbeat
    | Reloading
    | MachineSeen
)
