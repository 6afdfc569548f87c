"""Agents with very many networks beside somebody who changes nf_tables all the time.

One adds elements to a set of its own, as blocklists do, another one rules; both at the same time,
each beside an agent of its own. What counts is the agent's CPU with that of its workers, also of
those who send packets again because something may have come before our rules.
"""

import contextlib
import time

from istio_hostagent.host.nfnetlink import connection, elements, messages
from istio_hostagent.redirect import expressions, model

from . import cost, files, rows, site
from .host import Host, Proxy, join

KEYS = ("storm-elements", "storm-rules")
RATE = 20
SECONDS, LONG_SECONDS = 40.0, 120.0
SETTLE_S = 3.0
_TABLE, _CHAIN, _SET = "blocklist", "input", "addresses"
_LOCAL_IN = 1  # NF_INET_LOCAL_IN
_FIRST_ADDRESS = 0xC0000200  # 192.0.2.0


class _Stranger:
    """Somebody else in a host's namespace: nft(8) would read our sets at each of its changes."""

    def __init__(self, host: Host) -> None:
        """Make a table of its own."""
        self._connection = host.place.namespace.inside(connection.Connection)
        self._commit(
            messages.new_table(_TABLE, is_owned=False),
            messages.new_set(_TABLE, self._set(), 1),
            messages.new_chain(_TABLE, _CHAIN, model.Hook("filter", _LOCAL_IN, 0)),
        )

    def close(self) -> None:
        self._connection.socket.close()

    def add_element(self, number: int) -> None:
        # Every other one: neighbours would be one interval.
        address = _FIRST_ADDRESS + 2 * number
        self._commit(*elements.new_elements(_TABLE, self._set((address, address)), 0))

    def add_rule(self, number: int) -> None:
        port = model.Match(model.Field.DPORT, model.Operator.EQ, number + 1)
        rule = model.Rule((port,), model.Verdict(model.Action.RETURN))
        self._commit(messages.new_rule(_TABLE, _CHAIN, expressions.compile_rule(rule)))

    def _set(self, *ranges: tuple[int, int]) -> model.NamedSet:
        return model.make_set(_SET, model.SetKind.IPV4, ranges)

    def _commit(self, *parts: messages.Message) -> None:
        self._connection.commit(parts)


def measure(here: site.Site, *, is_long: bool) -> rows.Outcomes:
    """All rows of KEYS, in percent of a core. Raises NotMeasured, LabError."""
    seconds = LONG_SECONDS if is_long else SECONDS
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(Host(here, keys=files.large())) for _ in KEYS]
        join(hosts, Proxy.ENVOY)
        of_elements, of_rules = strangers = [_Stranger(host) for host in hosts]
        for stranger in strangers:
            stack.callback(stranger.close)
        time.sleep(SETTLE_S)
        before = [cost.used_ms(host.pid) for host in hosts]
        began = cost.now_ms()
        for number in range(int(seconds * RATE)):
            of_elements.add_element(number)
            of_rules.add_rule(number)
            time.sleep(max(0.0, (number + 1) / RATE - (cost.now_ms() - began) / 1000.0))
        took_ms = cost.now_ms() - began
        after = [cost.used_ms(host.pid) for host in hosts]
    note = f"the first {seconds:g} s, {RATE * seconds / took_ms * 1000:.1f} commits/s"
    return {
        key: rows.make_result([(end - start) / took_ms * 100.0], notes=[note])
        for key, start, end in zip(KEYS, before, after, strict=True)
    }
