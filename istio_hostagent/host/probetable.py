"""A table for the time of a few probes: it records where each packet is going, and drops it.

Not here: sending (`probing`). The table comes after every destination NAT of anybody and belongs
to this process's socket: whatever happens to the process, the kernel removes it. Nothing
but packets of the given source ports is touched, and of those from outside only packets on `lo`
that claim to come from an address of a network reserved for documentation.
"""

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import HostAgentError
from ..redirect import expressions, model
from ..redirect.model import Action, Expr, Field, Match, Operator, Rule, Verdict
from . import nftables
from .nfnetlink import connection, elements, framing, messages

NEIGHBOUR_V4 = ipaddress.IPv4Address("192.0.2.1")  # TEST-NET-1
NEIGHBOUR_V6 = ipaddress.IPv6Address("2001:db8::1")
# All destination NAT happens at -100, whatever the priority of its chains.
PRIORITY = -90
# Behind the filters that may refuse, and before our guard; the table filter of x_tables is at 0.
_LATE_PRIORITY = 5
_PREROUTING, _OUTPUT = 0, 3
# Of each protocol: where packets of IPv4 and IPv6 are recorded, and the zones of both.
_RECORDS = {False: ("seen_v4", "seen_v6", "zones"), True: ("udp_v4", "udp_v6", "udp_zones")}
_WATCHED = ("prerouting", "output", "answers", "udp_output", "udp_answers", "output_late")
_LENGTHS = {4: 4 + 4 + 4 + 4, 6: 4 + 4 + 16 + 4}  # two ports, an address, an interface
# Registers of four bytes; number 1 is the first four of them together. Behind an address of
# either family there is one more.
_FIRST, _SECOND, _THIRD, _BEHIND = 1, 9, 10, {4: 11, 6: 14}
_IIF, _OIF = 4, 5  # NFT_META_*
# Before and behind TPROXY, which is at -150.
_ENTERED, _TAKEN = "entered", "taken_by"
_BEFORE_MANGLE = -151
# NFT_SOCKET_TRANSPARENT: the socket that has got the packet is one for any address.
_IS_TRANSPARENT = (
    Expr("socket", (("key", 0), ("dreg", 1))),
    Expr("cmp", (("sreg", 1), ("op", expressions.EQ), ("data", b"\1"))),
)
# NFT_CT_ZONE of the direction IP_CT_DIR_REPLY: there original destinations are looked for.
_REPLY_ZONE = Expr("ct", (("dreg", 1), ("key", 17), ("direction", 1)))


class Source(NamedTuple):
    """Where a probe comes from. Each family and protocol has source ports of its own."""

    is_v6: bool
    port: int
    is_udp: bool = False


class Seen(NamedTuple):
    """Where a packet was going; of an answer, to which address and from which port.

    `interface`: by which it came in or was going out, empty if that is gone.
    """

    address: str
    port: int
    interface: str


class ProbeTable:
    """Records the packets of some sources from its making until `close`."""

    def __init__(
        self,
        link: connection.Connection,
        local: Sequence[Source],
        wire: Sequence[Source],
        answers: Sequence[Source] = (),
        late: Sequence[Source] = (),
        more: Callable[[str], Iterable[messages.Message]] = lambda _name: (),
        transparent: Sequence[Source] = (),
    ) -> None:
        """Watch packets that leave from `local`, packets on `lo` from `wire`, and `answers`.

        `transparent`: those of `wire` of which it is told whether they have come in, and whether a
        transparent socket gets them. An answer leaves from whatever port; the source that tells
        which one it is is its client's.
        Packets from `late` leave as those from `local`, and are recorded behind filters as well.
        `more`: further parts of the table, which has this name.
        `link` has no other such table. Raises ApplyRejected, KernelBusy, NotPermitted.
        """
        self.name = f"{model.PROBE_TABLE_PREFIX}{link.port}"
        self._connection = link
        # Of each protocol that is sent: each set costs a request whenever it is looked at.
        self._records = {
            is_udp: names
            for is_udp, names in _RECORDS.items()
            if not is_udp or any(source.is_udp for source in (*local, *answers))
        }
        self._transparent = bool(transparent)
        parts = [
            *self._build(local, wire, answers, late),
            *self._follow(transparent),
            *more(self.name),
        ]
        nftables.commit_soon(link, lambda: parts)

    def add(self, more: Iterable[messages.Message]) -> None:
        """Add further parts; raises ApplyRejected, KernelBusy, NotPermitted."""
        parts = list(more)
        nftables.commit_soon(self._connection, lambda: parts)

    def close(self) -> None:
        """Remove the table; if that is refused, it goes with the socket that owns it.

        To close the socket is the slow way: the kernel waits for an RCU grace period, 14 ms.
        """
        away = [messages.delete_table(self.name)]
        try:
            nftables.commit_soon(self._connection, lambda: away)
        except HostAgentError:
            self._connection.socket.close()

    def read(self) -> dict[Source, Seen]:
        """Give what was recorded of each source."""
        seen: dict[Source, Seen] = {}
        for is_udp, names in self._records.items():
            for name in names[:2]:
                for key in self.read_keys(name):
                    source, port = (int.from_bytes(key[at : at + 2], "big") for at in (0, 4))
                    is_v6 = len(key) == _LENGTHS[6]
                    address = str(ipaddress.ip_address(key[8:-4]))
                    interface = _interface(int.from_bytes(key[-4:], sys.byteorder))
                    seen[Source(is_v6, source, is_udp)] = Seen(address, port, interface)
        return seen

    def read_keys(self, name: str) -> Iterator[bytes]:
        """Give what a set of the table has recorded; raises KernelBusy, NotPermitted."""
        of_set = framing.pack_text(1, self.name) + framing.pack_text(2, name)
        for body in self._connection.dump(messages.GETSETELEM, of_set):
            yield from elements.read_keys(body)

    def read_zones(self) -> dict[Source, int]:
        """Give the tracking zone of each source whose answers are not in the default zone."""
        zones: dict[Source, int] = {}
        for is_udp, (_, _, name) in self._records.items():
            for key in self.read_keys(name):
                port = int.from_bytes(key[4:6], "big")
                source = Source(key[0] == socket.AF_INET6, port, is_udp)
                zones[source] = int.from_bytes(key[8:10], sys.byteorder)
        return zones

    def read_transparent(self) -> tuple[set[Source], set[Source]]:
        """Give the sources whose packets have come in, and those that a socket has got."""
        if not self._transparent:
            return set(), set()
        found: list[set[Source]] = []
        for name in (_ENTERED, _TAKEN):
            keys = self.read_keys(name)
            ports = ((key[0] == socket.AF_INET6, int.from_bytes(key[4:6], "big")) for key in keys)
            found.append({Source(*each) for each in ports})
        return found[0], found[1]

    def _follow(self, sources: Sequence[Source]) -> Iterator[messages.Message]:
        """See packets before TPROXY, and take out those that it has given to a socket."""
        if not sources:
            return
        for number, (name, chain, priority) in enumerate(
            ((_ENTERED, "before_mangle", _BEFORE_MANGLE), (_TAKEN, "taken", PRIORITY - 1)), 120
        ):
            yield messages.new_recording_set(self.name, name, number, 8)
            hook = model.Hook("filter", _PREROUTING, priority)
            yield messages.new_chain(self.name, chain, hook)
            for is_v6, field, neighbour in (
                (False, Field.IP_SADDR, NEIGHBOUR_V4),
                (True, Field.IP6_SADDR, NEIGHBOUR_V6),
            ):
                ports = sorted({each.port for each in sources if each.is_v6 is is_v6})
                if not ports:
                    continue
                of_ports = f"{chain}_{'v6' if is_v6 else 'v4'}"
                content = ((port, port) for port in ports)
                ports_set = model.make_set(of_ports, model.SetKind.PORT, content)
                set_number = 2 * number + is_v6
                yield messages.new_set(self.name, ports_set, set_number)
                yield from elements.new_elements(self.name, ports_set, set_number)
                matches = (
                    Match(Field.IIFNAME, Operator.EQ, "lo"),
                    Match(field, Operator.EQ, int(neighbour)),
                    Match(Field.SPORT, Operator.IN, of_ports),
                )
                found = expressions.compile_rule(Rule(matches, Verdict(Action.DROP)))
                *conditions, _, drop = found.expressions
                record = (
                    _into(expressions.IS_IPV4[0], _FIRST),
                    _into(expressions.LOADS[Field.SPORT].expressions[0], _SECOND),
                    Expr("dynset", (("sreg", _FIRST), ("op", 0), ("set", name))),
                )
                if chain == "taken":
                    steps = (*conditions, *_IS_TRANSPARENT, *record, drop)
                else:
                    steps = (*conditions, *record)
                yield messages.new_rule(self.name, chain, model.RuleState(steps, "probe"))

    def _build(
        self,
        local: Sequence[Source],
        wire: Sequence[Source],
        answers: Sequence[Source],
        late: Sequence[Source],
    ) -> Iterator[messages.Message]:
        yield messages.new_table(self.name, is_owned=True)
        for number, (v4, v6, zones) in zip((101, 104), self._records.values(), strict=False):
            yield messages.new_recording_set(self.name, v4, number, _LENGTHS[4])
            yield messages.new_recording_set(self.name, v6, number + 1, _LENGTHS[6])
            yield messages.new_recording_set(self.name, zones, number + 2, 12)
        on_lo = Match(Field.IIFNAME, Operator.EQ, "lo")
        from_v4 = Match(Field.IP_SADDR, Operator.EQ, int(NEIGHBOUR_V4))
        from_v6 = Match(Field.IP6_SADDR, Operator.EQ, int(NEIGHBOUR_V6))
        yield messages.new_chain(self.name, "output", model.Hook("filter", _OUTPUT, PRIORITY))
        for is_udp in (False, True):
            made = [each for each in local if each.is_udp is is_udp]
            yield from self._watch("output", made, (), (), is_udp=is_udp)
            made = [each for each in answers if each.is_udp is is_udp]
            yield from self._watch("output", made, (), (), is_answer=True, is_udp=is_udp)
        hook = model.Hook("filter", _OUTPUT, _LATE_PRIORITY)
        yield messages.new_chain(self.name, "output_late", hook)
        yield from self._watch("output_late", late, (), ())
        hook = model.Hook("filter", _PREROUTING, PRIORITY)
        yield messages.new_chain(self.name, "prerouting", hook)
        yield from self._watch("prerouting", wire, (on_lo, from_v4), (on_lo, from_v6))
        yield from self._drop_answers(wire)

    def _drop_answers(self, wire: Sequence[Source]) -> Iterator[messages.Message]:
        """Let no reset leave with which a rule answers to a neighbour who does not exist."""
        for is_v6, field, neighbour in (
            (False, Field.IP_DADDR, NEIGHBOUR_V4),
            (True, Field.IP6_DADDR, NEIGHBOUR_V6),
        ):
            if any(source.is_v6 is is_v6 for source in wire):
                ports = f"prerouting_{'v6' if is_v6 else 'v4'}"
                matches = (
                    Match(field, Operator.EQ, int(neighbour)),
                    Match(Field.DPORT, Operator.IN, ports),
                )
                made = expressions.compile_rule(Rule(matches, Verdict(Action.DROP), "probe"))
                yield messages.new_rule(self.name, "output", made)

    def _watch(
        self,
        chain: str,
        sources: Sequence[Source],
        match_v4: tuple[Match, ...],
        match_v6: tuple[Match, ...],
        *,
        is_answer: bool = False,
        is_udp: bool = False,
    ) -> Iterator[messages.Message]:
        ours, other = (Field.UDP_SPORT, Field.UDP_DPORT) if is_udp else (Field.SPORT, Field.DPORT)
        if is_answer:
            ours, other = other, ours
        for number, (is_v6, matches) in enumerate(((False, match_v4), (True, match_v6)), 1):
            ports = sorted({source.port for source in sources if source.is_v6 is is_v6})
            if not ports:
                continue
            what = "answers" if is_answer else chain
            what = f"udp_{what}" if is_udp else what
            name = f"{what}_{'v6' if is_v6 else 'v4'}"
            content = ((port, port) for port in ports)
            ports_set = model.make_set(name, model.SetKind.PORT, content)
            number += 2 * _WATCHED.index(what)
            yield messages.new_set(self.name, ports_set, number)
            yield from elements.new_elements(self.name, ports_set, number)
            is_ours = Match(ours, Operator.IN, name)
            daddr = Field.IP6_DADDR if is_v6 else Field.IP_DADDR
            yield from self._rules(chain, (*matches, is_ours), (ours, other, daddr), is_udp=is_udp)

    def _rules(
        self,
        chain: str,
        matches: tuple[Match, ...],
        recorded: tuple[Field, Field, Field],
        *,
        is_udp: bool,
    ) -> Iterator[messages.Message]:
        """Record the zone, if there is one; both ports, destination and interface; drop.

        What is not tracked meets the second rule alone.
        """
        ours, other, daddr = recorded
        version = 6 if daddr is Field.IP6_DADDR else 4
        seen, zones = _RECORDS[is_udp][version == 6], _RECORDS[is_udp][2]
        interface = _IIF if chain == "prerouting" else _OIF
        found = expressions.compile_rule(Rule(matches, Verdict(Action.DROP)))
        *conditions, _, drop = found.expressions
        load = expressions.LOADS[daddr]
        family = () if load.condition[1] in conditions else load.condition
        # The family first: the ports of the other one are other people's.
        record = (
            _into(expressions.LOADS[ours].expressions[0], _FIRST),
            _into(expressions.LOADS[other].expressions[0], _SECOND),
            _into(load.expressions[0], _THIRD),
            Expr("meta", (("key", interface), ("dreg", _BEHIND[version]))),
            Expr("dynset", (("sreg", _FIRST), ("op", 0), ("set", seen))),
        )
        our_port = _into(expressions.LOADS[ours].expressions[0], _SECOND)
        zone = (
            _into(_REPLY_ZONE, _THIRD),
            Expr("cmp", (("sreg", _THIRD), ("op", expressions.NE), ("data", bytes(2)))),
            _into(expressions.IS_IPV4[0], _FIRST),
            our_port,
            Expr("dynset", (("sreg", _FIRST), ("op", 0), ("set", zones))),
        )
        for steps in ((*zone,), (*record, drop)):
            rule = model.RuleState((*family, *conditions, *steps), "probe")
            yield messages.new_rule(self.name, chain, rule)


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _into(load: Expr, register: int) -> Expr:
    """Load the same thing elsewhere."""
    return Expr(
        load.name,
        tuple((key, register if key == "dreg" else value) for key, value in load.attributes),
    )
