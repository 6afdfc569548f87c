"""A table for the time of a few probes: it records where each packet is going, and drops it.

Not here: sending (`workers.probes`). The table comes after every destination NAT of anybody and
belongs to this process's socket: whatever happens to the process, the kernel removes it. Nothing
but packets of the given source ports is touched, and of those from outside only packets on `lo`
that claim to come from an address of a network reserved for documentation.
"""

import ipaddress
import os
from collections.abc import Iterator, Sequence

from ..redirect import expressions, model
from ..redirect.model import Action, Expr, Field, Match, Operator, Rule, Verdict
from . import nftables
from .nfnetlink import connection, framing, messages

NEIGHBOUR_V4 = ipaddress.IPv4Address("192.0.2.1")  # TEST-NET-1
NEIGHBOUR_V6 = ipaddress.IPv6Address("2001:db8::1")
# All destination NAT happens at -100, whatever the priority of its chains.
_PRIORITY = -90
_PREROUTING, _OUTPUT = 0, 3
_LOCAL_PORTS, _WIRE_PORTS = "local_ports", "wire_ports"
_V4, _V6 = "seen_v4", "seen_v6"
# Registers of four bytes; number 1 is the first four of them together.
_FIRST, _SECOND, _THIRD = 1, 9, 10


class ProbeTable:
    """Records the packets of some source ports from its making until `close`."""

    def __init__(self, local_ports: Sequence[int], wire_ports: Sequence[int]) -> None:
        """Watch packets that leave from `local_ports` and packets on `lo` from `wire_ports`.

        Raises ApplyRejected, KernelBusy, NotPermitted.
        """
        self._name = f"istio_hostagent_probe_{os.getpid()}"
        self._connection = connection.Connection()
        try:
            parts = list(self._build(local_ports, wire_ports))
            nftables.commit_soon(self._connection, lambda: parts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the table with the socket that owns it."""
        self._connection.socket.close()

    def read(self) -> dict[int, tuple[str, int]]:
        """Give address and port that the packets of each source port were going to."""
        seen: dict[int, tuple[str, int]] = {}
        for name in (_V4, _V6):
            of_set = framing.pack_text(1, self._name) + framing.pack_text(2, name)
            for body in self._connection.dump(messages.GETSETELEM, of_set):
                for key in messages.read_keys(body):
                    source, port = (int.from_bytes(key[at : at + 2], "big") for at in (0, 4))
                    seen[source] = (str(ipaddress.ip_address(key[8:])), port)
        return seen

    def _build(
        self, local_ports: Sequence[int], wire_ports: Sequence[int]
    ) -> Iterator[messages.Message]:
        yield messages.new_table(self._name, is_owned=True)
        yield messages.new_recording_set(self._name, _V4, 101, 12)
        yield messages.new_recording_set(self._name, _V6, 102, 24)
        on_lo = Match(Field.IIFNAME, Operator.EQ, "lo")
        from_v4 = Match(Field.IP_SADDR, Operator.EQ, int(NEIGHBOUR_V4))
        from_v6 = Match(Field.IP6_SADDR, Operator.EQ, int(NEIGHBOUR_V6))
        sides = (
            ("output", _OUTPUT, _LOCAL_PORTS, local_ports, (), ()),
            (
                "prerouting",
                _PREROUTING,
                _WIRE_PORTS,
                wire_ports,
                (on_lo, from_v4),
                (on_lo, from_v6),
            ),
        )
        for number, (chain, hook, name, ports, match_v4, match_v6) in enumerate(sides, 1):
            if not ports:
                continue
            content = tuple((port, port) for port in sorted(ports))
            ports_set = model.NamedSet(name, model.SetKind.PORT.value, content)
            yield messages.new_set(self._name, ports_set, number)
            yield from messages.new_elements(self._name, ports_set, number)
            yield messages.new_chain(self._name, chain, model.Hook("filter", hook, _PRIORITY))
            ours = Match(Field.SPORT, Operator.IN, name)
            yield self._rule(chain, (*match_v4, ours), Field.IP_DADDR, _V4)
            yield self._rule(chain, (*match_v6, ours), Field.IP6_DADDR, _V6)

    def _rule(
        self, chain: str, matches: tuple[Match, ...], daddr: Field, seen: str
    ) -> messages.Message:
        """Record source port, destination port and address; then drop."""
        found = expressions.compile_rule(Rule(matches, Verdict(Action.DROP)))
        *conditions, _, drop = found.expressions
        load = expressions.LOADS[daddr]
        record = (
            *(load.condition if load.condition[1] not in conditions else ()),
            _into(expressions.LOADS[Field.SPORT].expressions[0], _FIRST),
            _into(expressions.LOADS[Field.DPORT].expressions[0], _SECOND),
            _into(load.expressions[0], _THIRD),
            Expr("dynset", (("sreg", _FIRST), ("op", 0), ("set", seen))),
        )
        return messages.new_rule(
            self._name, chain, model.RuleState((*conditions, *record, drop), "probe")
        )


def _into(load: Expr, register: int) -> Expr:
    """Load the same thing elsewhere."""
    return Expr(
        load.name,
        tuple((key, register if key == "dreg" else value) for key, value in load.attributes),
    )
