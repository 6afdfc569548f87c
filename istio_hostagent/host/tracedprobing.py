"""One probe packet whose way through everybody's rules the kernel tells (nftables trace).

Not here: sending (`probing`), what the kernel says (`tracing`). The packet is recorded and dropped
like every probe: what comes behind that point is not told.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..redirect import expressions, model
from ..redirect.expectations import Expectation
from ..redirect.model import Action, Field, Match, Operator, Rule, Verdict
from . import probetable, probing, tracing
from .nfnetlink import connection, framing, messages

_PREROUTING, _OUTPUT = 0, 3
_FIRST = -(1 << 31) + 1  # NF_IP_PRI_FIRST is the one before


class Met(NamedTuple):
    """A rule that the packet met.

    `number` counts from 1 in its chain; 0: the rule has gone meanwhile.
    """

    family: str
    table: str
    chain: str
    handle: int
    number: int


class TracedPackets(probing.Packets):
    """Sends like `probing.Packets`, and hears of the first packet of the last round."""

    def __init__(self) -> None:
        """Start listening; raises NotPermitted."""
        super().__init__()
        self._tracer = tracing.Tracer()
        self._source_port = 0

    def send(self, made: Sequence[Expectation]) -> probing.Round:
        """Send packets as `probing.Packets` does, traced."""
        sent = probing.Round(made, self._pool, self._connect(), _build)
        self._source_port = sent.source_ports.get(0, 0)
        return sent

    def read_way(self) -> list[Met]:
        """Give the rules that the packet met, without those of probes; once.

        Raises KernelBusy, NotPermitted.
        """
        events = [
            event
            for event in self._tracer.read_way(self._source_port)
            if event.handle and not event.table.startswith(model.PROBE_TABLE_PREFIX)
        ]
        link = self._connect()
        handles = {event[:3]: _number_rules(link, event) for event in events}
        return [Met(*event[:4], handles[event[:3]].get(event.handle, 0)) for event in events]

    def close(self) -> None:
        """Close everything."""
        self._tracer.close()
        super().close()


def _build(
    local: Sequence[probetable.Source], wire: Sequence[probetable.Source], table: str
) -> Iterator[messages.Message]:
    """Trace these packets from the first hook on, and those from outside only if they are ours."""
    by_lo = Match(Field.IIFNAME, Operator.EQ, "lo")
    from_v4 = Match(Field.IP_SADDR, Operator.EQ, int(probetable.NEIGHBOUR_V4))
    from_v6 = Match(Field.IP6_SADDR, Operator.EQ, int(probetable.NEIGHBOUR_V6))
    for name, hook, sources in (
        ("traced_output", _OUTPUT, local),
        ("traced_prerouting", _PREROUTING, wire),
    ):
        yield messages.new_chain(table, name, model.Hook("filter", hook, _FIRST))
        for source in sources:
            field = Field.UDP_SPORT if source.is_udp else Field.SPORT
            matches = [Match(field, Operator.EQ, source.port)]
            if hook == _PREROUTING:
                matches = [by_lo, from_v6 if source.is_v6 else from_v4, *matches]
            found = expressions.compile_rule(Rule(tuple(matches), Verdict(Action.DROP)))
            *conditions, _counter, _drop = found.expressions
            rule = model.RuleState((*conditions, *expressions.TRACE), "probe")
            yield messages.new_rule(table, name, rule)


def _number_rules(link: connection.Connection, event: tracing.Event) -> Mapping[int, int]:
    """The number of each rule of a chain, by its handle."""
    of_chain = framing.pack_text(1, event.table) + framing.pack_text(2, event.chain)
    family = tracing.NUMBERS.get(event.family)
    if family is None:
        return {}
    found = link.dump(messages.GETRULE, of_chain, is_strict=False, family=family)
    handles = (framing.be32(framing.read(body).get(3, b"")) for body in found)
    return {handle: number for number, handle in enumerate(handles, 1)}
