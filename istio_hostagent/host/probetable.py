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
from .nfnetlink import connection, framing, messages

NEIGHBOUR_V4 = ipaddress.IPv4Address("192.0.2.1")  # TEST-NET-1
NEIGHBOUR_V6 = ipaddress.IPv6Address("2001:db8::1")
# All destination NAT happens at -100, whatever the priority of its chains.
_PRIORITY = -90
_PREROUTING, _OUTPUT = 0, 3
_V4, _V6, _ZONES = "seen_v4", "seen_v6", "zones"
# Registers of four bytes; number 1 is the first four of them together.
_FIRST, _SECOND, _THIRD = 1, 9, 10
# NFT_CT_ZONE of the direction IP_CT_DIR_REPLY: there original destinations are looked for.
_REPLY_ZONE = Expr("ct", (("dreg", 1), ("key", 17), ("direction", 1)))


class Source(NamedTuple):
    """Where a probe comes from. Each family has source ports of its own."""

    is_v6: bool
    port: int


class ProbeTable:
    """Records the packets of some sources from its making until `close`."""

    def __init__(
        self,
        link: connection.Connection,
        local: Sequence[Source],
        wire: Sequence[Source],
        answers: Sequence[Source] = (),
        more: Callable[[str], Iterable[messages.Message]] = lambda _name: (),
    ) -> None:
        """Watch packets that leave from `local`, packets on `lo` from `wire`, and `answers`.

        An answer leaves from whatever port; the source that tells which one it is is its client's.
        `more`: further parts of the table, which has this name.
        `link` has no other such table. Raises ApplyRejected, KernelBusy, NotPermitted.
        """
        self.name = f"{model.PROBE_TABLE_PREFIX}{link.port}"
        self._connection = link
        parts = [*self._build(local, wire, answers), *more(self.name)]
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

    def read(self) -> dict[Source, tuple[str, int]]:
        """Give address and port that the packets of each source were going to.

        Of an answer: the address that it was going to, and the port that it came from.
        """
        seen: dict[Source, tuple[str, int]] = {}
        for name in (_V4, _V6):
            for key in self.read_keys(name):
                source, port = (int.from_bytes(key[at : at + 2], "big") for at in (0, 4))
                address = str(ipaddress.ip_address(key[8:]))
                seen[Source(name == _V6, source)] = (address, port)
        return seen

    def read_keys(self, name: str) -> Iterator[bytes]:
        """Give what a set of the table has recorded; raises KernelBusy, NotPermitted."""
        of_set = framing.pack_text(1, self.name) + framing.pack_text(2, name)
        for body in self._connection.dump(messages.GETSETELEM, of_set):
            yield from messages.read_keys(body)

    def read_zones(self) -> dict[Source, int]:
        """Give the tracking zone of each source whose answers are not in the default zone."""
        zones: dict[Source, int] = {}
        for key in self.read_keys(_ZONES):
            source = Source(key[0] == socket.AF_INET6, int.from_bytes(key[4:6], "big"))
            zones[source] = int.from_bytes(key[8:10], sys.byteorder)
        return zones

    def _build(
        self, local: Sequence[Source], wire: Sequence[Source], answers: Sequence[Source]
    ) -> Iterator[messages.Message]:
        yield messages.new_table(self.name, is_owned=True)
        yield messages.new_recording_set(self.name, _V4, 101, 12)
        yield messages.new_recording_set(self.name, _V6, 102, 24)
        yield messages.new_recording_set(self.name, _ZONES, 103, 12)
        on_lo = Match(Field.IIFNAME, Operator.EQ, "lo")
        from_v4 = Match(Field.IP_SADDR, Operator.EQ, int(NEIGHBOUR_V4))
        from_v6 = Match(Field.IP6_SADDR, Operator.EQ, int(NEIGHBOUR_V6))
        yield messages.new_chain(self.name, "output", model.Hook("filter", _OUTPUT, _PRIORITY))
        yield from self._watch("output", local, (), ())
        yield from self._watch("output", answers, (), (), is_answer=True)
        hook = model.Hook("filter", _PREROUTING, _PRIORITY)
        yield messages.new_chain(self.name, "prerouting", hook)
        yield from self._watch("prerouting", wire, (on_lo, from_v4), (on_lo, from_v6))

    def _watch(
        self,
        chain: str,
        sources: Sequence[Source],
        match_v4: tuple[Match, ...],
        match_v6: tuple[Match, ...],
        *,
        is_answer: bool = False,
    ) -> Iterator[messages.Message]:
        ours, other = Field.SPORT, Field.DPORT
        if is_answer:
            ours, other = other, ours
        for number, (is_v6, matches) in enumerate(((False, match_v4), (True, match_v6)), 1):
            ports = sorted({source.port for source in sources if source.is_v6 is is_v6})
            if not ports:
                continue
            name = f"{'answers' if is_answer else chain}_{'v6' if is_v6 else 'v4'}"
            seen = _V6 if is_v6 else _V4
            content = ((port, port) for port in ports)
            ports_set = model.make_set(name, model.SetKind.PORT, content)
            number += 4 if is_answer else 2 if chain == "output" else 0
            yield messages.new_set(self.name, ports_set, number)
            yield from messages.new_elements(self.name, ports_set, number)
            is_ours = Match(ours, Operator.IN, name)
            daddr = Field.IP6_DADDR if is_v6 else Field.IP_DADDR
            yield from self._rules(chain, (*matches, is_ours), (ours, other, daddr), seen)

    def _rules(
        self,
        chain: str,
        matches: tuple[Match, ...],
        recorded: tuple[Field, Field, Field],
        seen: str,
    ) -> Iterator[messages.Message]:
        """Record the zone, if there is one; our port, the other port and the destination; drop.

        What is not tracked meets the second rule alone.
        """
        ours, other, daddr = recorded
        found = expressions.compile_rule(Rule(matches, Verdict(Action.DROP)))
        *conditions, _, drop = found.expressions
        load = expressions.LOADS[daddr]
        family = () if load.condition[1] in conditions else load.condition
        # The family first: the ports of the other one are other people's.
        record = (
            _into(expressions.LOADS[ours].expressions[0], _FIRST),
            _into(expressions.LOADS[other].expressions[0], _SECOND),
            _into(load.expressions[0], _THIRD),
            Expr("dynset", (("sreg", _FIRST), ("op", 0), ("set", seen))),
        )
        our_port = _into(expressions.LOADS[ours].expressions[0], _SECOND)
        zone = (
            _into(_REPLY_ZONE, _THIRD),
            Expr("cmp", (("sreg", _THIRD), ("op", expressions.NE), ("data", bytes(2)))),
            _into(expressions.IS_IPV4[0], _FIRST),
            our_port,
            Expr("dynset", (("sreg", _FIRST), ("op", 0), ("set", _ZONES))),
        )
        for steps in ((*zone,), (*record, drop)):
            rule = model.RuleState((*family, *conditions, *steps), "probe")
            yield messages.new_rule(self.name, chain, rule)


def _into(load: Expr, register: int) -> Expr:
    """Load the same thing elsewhere."""
    return Expr(
        load.name,
        tuple((key, register if key == "dreg" else value) for key, value in load.attributes),
    )
