"""A packet, and what became of it by rules of ours: values.

Not here: what makes it so (`evaluator`).
"""

import enum
from collections.abc import Collection
from ipaddress import ip_address
from typing import NamedTuple

from ..config import model as config
from . import model, names

SYN, ACK = 0x02, 0x10
FLAGS = 0x17  # FIN, SYN, RST, ACK: those that rules look at

Address = config.Address


class Tracking(enum.Enum):
    """What connection tracking makes of a packet."""

    NEW = "new"  # it begins a connection, so that chains of type nat decide
    ESTABLISHED = "established"  # what they decided of the connection's first packet stays so
    INVALID = "invalid"  # it belongs to no connection and begins none


class Packet(NamedTuple):
    """A packet where it meets the first hook: sent by this host, or come in by `iif`.

    `uid`, `gid`: of the socket that sends it (fsuid and fsgid), None: it belongs to no socket.
    `oif`: by which interface the route of its destination leaves. `flags`: of TCP.
    `asked_for`: the connection's destination before somebody else translated it.
    `groups`: the numbers of the control groups in which that socket was made, from below the root
    of their tree downwards.
    `tracking`: None: what the kernel makes of it where it knows no connection of these addresses.
    `mark`, `connection_mark`: its own, and that of its connection. `is_awaited`: a socket listens
    where TPROXY leads it. `is_bridged`: it came in by a bridge that calls the packet filter, and
    loses on its way up the socket that TPROXY gives it (skb_orphan() in ip_rcv_core()).
    `has_proxy_socket`: it still has that. `about_port`: of an ICMP error, the destination port of
    the packet that it is about.
    """

    destination: str
    port: int
    source: str
    source_port: int = 40000
    protocol: int = names.TCP
    flags: int = SYN
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    iif: str = ""
    oif: str = ""
    asked_for: tuple[str, int] | None = None
    tracking: Tracking | None = None
    zone: int = 0
    mark: int = 0
    connection_mark: int = 0
    is_awaited: bool = True
    is_bridged: bool = False
    has_proxy_socket: bool = False
    about_port: int | None = None

    @property
    def address(self) -> Address:
        """The destination."""
        return ip_address(self.destination)

    def group_at(self, level: int) -> int | None:
        """The control group of its socket at a level of the tree; None: it is not so deep."""
        return self.groups[level - 1] if 0 < level <= len(self.groups) else None

    @property
    def state(self) -> Tracking:
        """What connection tracking makes of it.

        Of TCP the first packet begins a connection, and so does one with an ACK alone (sysctl
        nf_conntrack_tcp_loose); see tcp_conntracks.
        """
        if self.tracking is not None:
            return self.tracking
        is_valid = self.protocol != names.TCP or self.flags & FLAGS in (SYN, ACK)
        return Tracking.NEW if is_valid else Tracking.INVALID


class Step(NamedTuple):
    """A rule that the packet met all conditions of; its number in the chain counts from 1.

    Number 0 without a rule: the end of the chain was reached, and no rule had decided.
    """

    table: str
    chain: str
    number: int
    rule: model.Rule | None
    hook: int


class End(enum.Enum):
    """How far a packet gets."""

    PASSED = "passed"
    REJECTED = "rejected"  # the sender is told
    DROPPED = "dropped"


class Way(NamedTuple):
    """What became of a packet: how it looks after the last hook, and the rules on its way.

    `decider`: what decided where it goes: the rule that captured, refused or returned it; None: no
    chain that could was called. `captured_at`: the local port to which it was redirected, or whose
    socket got it as it was (TPROXY), or 0.
    """

    packet: Packet
    end: End
    steps: tuple[Step, ...]
    decider: Step | None
    captured_at: int = 0


def is_local(address: Address, own: Collection[Address]) -> bool:
    """Whether a packet to this address stays on this host."""
    return address.is_loopback or address in own
