"""Packet rules as values: what we want (`Ruleset`) and what the kernel holds (`Observed`).

Not here: which rules Istio needs (`policy`), and how they look to the kernel (`expressions`) or to
people (`nft`).
Everything is frozen and compares by value. Addresses and ports are plain integers: ten thousand of
them must stay cheap. Whatever lies in a table with one of our names is ours: the name is the mark.
"""

import enum
from collections.abc import Iterable
from typing import NamedTuple

from ..config.packed import PackedRanges, pack

MAIN_TABLE = "istio_hostagent"
GUARD_TABLE = "istio_guard"
# A copy of the main table, for the moment in which the kernel changes the owner of that one.
STAND_IN_TABLE = "istio_hostagent_stand_in"
# Before the netlink port of the socket that owns the table, for the time of some probes.
PROBE_TABLE_PREFIX = "istio_hostagent_probe_"
OUR_TABLES = (MAIN_TABLE, GUARD_TABLE, STAND_IN_TABLE)
# In legacy tables a comment of ours is this, and behind a colon why the rule is there.
LEGACY_MARK = "istio-hostagent"
# In tables of others' firewalls: where rules of ours lead there.
OPENINGS_CHAIN = "istio-hostagent"
# Between the name of a set and what tells its content.
STAMP_SEPARATOR = "."
CT_TIMEOUT = 7  # NFT_OBJECT_CT_TIMEOUT
# Of our routing rules and routes: the number by which the kernel keeps them apart (rtm_protocol),
# and where the rules come: behind the table `local`, before what others choose a table by.
ROUTING_PROTOCOL, RULE_PRIORITY = 137, 137
EVERY_BIT = 0xFFFFFFFF  # of a mark
# On `lo`: the proxy binds it as the source of what it hands to applications (Istio's choice).
PASSTHROUGH_ADDRESS = "::6/128"


def is_mark(comment: str) -> bool:
    """Whether the comment of a rule in a legacy table says that it is ours."""
    return comment == LEGACY_MARK or comment.startswith(f"{LEGACY_MARK}: ")


class Field(enum.Enum):
    """What a rule may look at."""

    L4PROTO = "meta l4proto"
    IIFNAME = "iifname"
    OIFNAME = "oifname"
    SKUID = "meta skuid"
    SKGID = "meta skgid"
    # the control group in which the sending socket was made, or one above it: at some level
    CONTROL_GROUP = "socket cgroupv2"
    # 1: the socket that the packet has, or would be given, is one of a transparent proxy
    SOCKET_TRANSPARENT = "socket transparent"
    IP_SADDR = "ip saddr"
    IP_DADDR = "ip daddr"
    IP6_SADDR = "ip6 saddr"
    IP6_DADDR = "ip6 daddr"
    SPORT = "tcp sport"
    DPORT = "tcp dport"
    UDP_SPORT = "udp sport"
    UDP_DPORT = "udp dport"
    # of an ICMP error, the destination port of the packet that it is about (without IP options)
    ICMP_DPORT = "@th,240,16"
    ICMP6_DPORT = "@th,400,16"
    # only the bits FIN, SYN, RST and ACK: what tells the first packet of a connection
    TCP_FLAGS = "tcp flags"
    # what the routes of this host make of an address: RTN_LOCAL is one of its own
    FIB_DADDR_TYPE = "fib daddr type"
    FIB_SADDR_TYPE = "fib saddr type"
    MARK = "meta mark"
    CT_MARK = "ct mark"
    # only the bit that says whether anybody has translated the connection's destination
    CT_STATUS_DNAT = "ct status & dnat"
    # only the bit that says that the packet belongs to no connection and begins none
    CT_STATE_INVALID = "ct state & invalid"
    # the connection's destination before anybody translated it; no value without an entry
    ORIGINAL_IP_DADDR = "ct original ip daddr"
    ORIGINAL_IP6_DADDR = "ct original ip6 daddr"
    ORIGINAL_DPORT = "ct original proto-dst"


class Operator(enum.Enum):
    """How a field is compared. IN and NOT_IN take the name of a set of the same table."""

    EQ = "=="
    NE = "!="
    IN = "in"
    NOT_IN = "not in"


class Match(NamedTuple):
    """One condition. The value is a number, an interface name, or the name of a set.

    An interface name that ends with `*` is the beginning of names. `prefix`: so many leading bits
    of the field are looked at, and the others count as zero; with 0 all are. `path`: of a control
    group, whose number is the value; how deep it lies is the level that is looked at.
    """

    field: Field
    operator: Operator
    value: int | str
    prefix: int = 0
    path: str = ""

    @property
    def level(self) -> int:
        """How far below the root of their tree control groups are compared."""
        return self.path.count("/")


class Action(enum.Enum):
    """What happens to a packet that meets all conditions of a rule."""

    RETURN = "return"
    JUMP = "jump"  # target: a chain of the same table
    GOTO = "goto"  # the same, but its end is the end of this chain too
    REDIRECT = "redirect"  # target: a local port
    KEEP = "keep"  # where it is going, whatever translation comes later; target: ip or ip6
    REJECT = "reject"  # with a TCP reset
    DROP = "drop"
    ZONE = "zone"  # target: the tracking zone of the packet, then the next rule
    TPROXY = "tproxy"  # target: a local port, whose socket gets the packet as it is
    SAVE_MARK = "save mark"  # for the connection, then the next rule
    RESTORE_MARK = "restore mark"  # of the connection, then the next rule


class Verdict(NamedTuple):
    """An action and the chain, port or zone that it names."""

    action: Action
    target: int | str = ""


class Rule(NamedTuple):
    """All conditions, then the verdict. The comment says why the rule is there.

    `timeout`: the timeout policy of the same table that the tracking entry gets before.
    """

    matches: tuple[Match, ...]
    verdict: Verdict
    comment: str = ""
    timeout: str = ""


class Hook(NamedTuple):
    """Where a base chain is called: `number` is NF_INET_*; the policy accepts (1) or drops (0)."""

    kind: str
    number: int
    priority: int
    policy: int = 1


class Chain(NamedTuple):
    """Rules in order; with a hook the kernel calls the chain, without one a rule must."""

    name: str
    rules: tuple[Rule, ...]
    hook: Hook | None = None


class SetKind(enum.Enum):
    """What a set holds, in the words of nft."""

    IPV4 = "ipv4_addr"
    IPV6 = "ipv6_addr"
    PORT = "inet_service"
    # of single values, which the kernel finds by a hash; nft has no word for that
    IPV4_VALUES = "ipv4_addr values"
    IPV6_VALUES = "ipv6_addr values"


# How many bytes a value of each kind has.
WIDTHS = {
    SetKind.IPV4.value: 4,
    SetKind.IPV6.value: 16,
    SetKind.PORT.value: 2,
    SetKind.IPV4_VALUES.value: 4,
    SetKind.IPV6_VALUES.value: 16,
}
VALUES = " values"


class NamedSet(NamedTuple):
    """A set of intervals: inclusive, ascending, neither overlapping nor touching.

    One of single values has each as an interval of its own; these may touch.
    `kind` is a text other than those of `SetKind` only where somebody else made the set; what is
    in it is not told then. `room`: how many values it can hold, 0: as many as come.
    """

    name: str
    kind: str
    ranges: PackedRanges
    room: int = 0


def make_set(name: str, kind: SetKind, ranges: Iterable[tuple[int, int]]) -> NamedSet:
    """Make a set of ours. One that is found by hash has room for an eighth more."""
    content = pack(WIDTHS[kind.value], ranges)
    room = len(content) * 9 // 8 + 1 if kind.value.endswith(VALUES) else 0
    return NamedSet(name, kind.value, content, room)


class Timeout(NamedTuple):
    """A timeout policy: how long the tracking entry of a connection stays in some TCP states.

    `seconds` is by state, in the words of nft; states that are not named keep what the host has.
    `kind` is a number of NFT_OBJECT_*; another one is of somebody else, and not read.
    """

    name: str
    seconds: tuple[tuple[str, int], ...]
    kind: int = CT_TIMEOUT


class Table(NamedTuple):
    """One table of family inet. `may_be_owned`: a socket of ours may keep others' hands off it."""

    name: str
    sets: tuple[NamedSet, ...]
    chains: tuple[Chain, ...]
    may_be_owned: bool = False
    timeouts: tuple[Timeout, ...] = ()


class Routing(NamedTuple):
    """A rule for choosing a routing table, or the one route of that table.

    `version`: of IP. A rule is for packets with the mark; the route takes every destination for an
    address of this host. What follows the table is 0 for a route.
    """

    kind: str  # rule or route, or changed route: somebody's in our place
    version: int
    mark: int
    table: int
    priority: int = 0
    mask: int = 0

    def __str__(self) -> str:
        """In the words of ip-rule(8) and ip-route(8)."""
        family = "" if self.version == 4 else "-6 "
        if self.kind == "rule":
            mark = f"{self.mark:#x}"
            mark += f"/{self.mask:#x}" if self.mask != EVERY_BIT else ""
            priority = f" priority {self.priority}" if self.priority != RULE_PRIORITY else ""
            return f"ip {family}rule fwmark {mark} lookup {self.table}{priority}"
        words = "local default dev lo" if self.kind == "route" else "other than ours"
        return f"ip {family}route {words} table {self.table}"


def make_routing(mark: int, table: int, version: int) -> tuple[Routing, Routing]:
    """Take packets with a mark for this host's own, whatever their destination."""
    rule = Routing("rule", version, mark, table, RULE_PRIORITY, EVERY_BIT)
    return rule, Routing("route", version, 0, table)


class Ruleset(NamedTuple):
    """Everything we want in the kernel. Empty: we want nothing there."""

    tables: tuple[Table, ...] = ()
    loopback_addresses: tuple[str, ...] = ()  # on `lo`, as `address/prefix length`
    routing: tuple[Routing, ...] = ()


class Expr(NamedTuple):
    """One expression of the nf_tables machine.

    Attributes that have their default value are left out, so that kernels which report more of
    them still compare equal; an attribute or expression that we do not know appears under a name
    that starts with `?` and equals nothing of ours.
    """

    name: str
    attributes: tuple[tuple[str, int | str | bytes], ...] = ()


class RuleState(NamedTuple):
    """A rule as the kernel has it."""

    expressions: tuple[Expr, ...]
    comment: str = ""


class ChainState(NamedTuple):
    """A chain as the kernel has it."""

    name: str
    rules: tuple[RuleState, ...]
    hook: Hook | None = None


class Owner(enum.Enum):
    """Whose table it is: nobody's, our socket's, or another socket's (NFT_TABLE_F_OWNER)."""

    NOBODY = "nobody"
    WE = "we"
    OTHER = "other"


class TableState(NamedTuple):
    """A table as the kernel has it: sets and chains in order of name, rules in order."""

    name: str
    sets: tuple[NamedSet, ...]
    chains: tuple[ChainState, ...]
    owner: Owner = Owner.NOBODY
    is_dormant: bool = False
    timeouts: tuple[Timeout, ...] = ()


class Observed(NamedTuple):
    """What is there of ours, as of one generation of nf_tables (0: unknown)."""

    tables: tuple[TableState, ...] = ()
    loopback_addresses: tuple[str, ...] = ()
    generation: int = 0
    routing: tuple[Routing, ...] = ()


class Plan(NamedTuple):
    """One change: tables in `write` become what they say, those in `delete` go, all together.

    False when there is nothing to do. `observed` is what was there when it was made.
    """

    write: tuple[TableState, ...] = ()
    delete: tuple[str, ...] = ()
    add_addresses: tuple[str, ...] = ()
    delete_addresses: tuple[str, ...] = ()
    observed: Observed = Observed()
    add_routing: tuple[Routing, ...] = ()
    delete_routing: tuple[Routing, ...] = ()

    def __bool__(self) -> bool:
        """Whether applying it would change anything."""
        return any((*self[:4], self.add_routing, self.delete_routing))


class Drift(NamedTuple):
    """One difference: where, what is desired there, and what is there. Empty: nothing."""

    place: str
    desired: str
    observed: str

    def __str__(self) -> str:
        """One line that names the place and both sides."""
        if not self.observed:
            return f"{self.place}: missing: {self.desired}"
        if not self.desired:
            return f"{self.place}: not ours: {self.observed}"
        return f"{self.place}: is {self.observed}, must be {self.desired}"
