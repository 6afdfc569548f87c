"""The guard and other people's destination NAT: what was asked for decides, not where it went.

Somebody else's table comes right behind the main table and before the guard, as docker's and
kube-proxy's do. Addresses that it takes away from are nobody's: who answers tells where it led.
"""

import contextlib
from collections.abc import Iterator

import pytest

from istio_hostagent.config.model import Redirection
from istio_hostagent.redirect import guard, model, policy
from tests.lab import servers
from tests.netns import rig as rigs
from tests.netns.rig import APP, CAPTURED_V4, CAPTURED_V6, PROXY_USER, UNLISTED_V4, Rig, words
from tests.unit.samples import cidrs, ports

GUARDED = Redirection(
    outbound=cidrs("10.96.0.0/12", "fd00:10::/64"),
    outbound_exclude=cidrs("10.96.1.0/24", "fd00:10::1:0/112"),
    outbound_ports=ports(3306),
    outbound_ports_exclude=ports(22),
)
EXCLUDED_V4, EXCLUDED_V6 = "10.96.1.77", "fd00:10::1:77"
ELSEWHERE_V4, ELSEWHERE_V6 = UNLISTED_V4, rigs.UNLISTED_V6
NO_GUARD, NO_MAIN = slice(0, 1), slice(1, 2)


@pytest.fixture
def guarded(rig: Rig, served: rigs.Servers) -> Iterator[model.Ruleset]:
    yield rig.install(GUARDED)
    rig.clean()


def keep(rig: Rig, ruleset: model.Ruleset, which: slice) -> None:
    """Have only some of the tables."""
    with rig.kernel() as kernel:
        rig.apply(kernel, model.Ruleset(ruleset.tables[which], ruleset.loopback_addresses))


@contextlib.contextmanager
def stranger(
    rig: Rig, *rules: str, hook: str = "type nat hook output priority -100"
) -> Iterator[None]:
    """Somebody else's table."""
    rig.nft(text=f"table inet stranger {{ chain c {{ {hook}; {'; '.join(rules)}; }}; }}\n")
    try:
        yield
    finally:
        rig.nft("delete", "table", "inet", "stranger")


def dnat(address: str, port: int, instead: str, other_port: int) -> str:
    if ":" in address:
        return f"ip6 daddr {address} tcp dport {port} dnat ip6 to [{instead}]:{other_port}"
    return f"ip daddr {address} tcp dport {port} dnat ip to {instead}:{other_port}"


def ask(rig: Rig, address: str, port: int = 80, user: int = APP) -> str:
    (reply,) = servers.ask_all(rig.host, [rigs.target(address, port)], user=user)
    return words(reply)


Place = tuple[str, int]
Cases = dict[str, tuple[Place, Place]]
TO_CAPTURED: Cases = {
    "excluded": ((EXCLUDED_V4, 80), (CAPTURED_V4, 80)),
    "excluded-v6": ((EXCLUDED_V6, 80), (CAPTURED_V6, 80)),
    "unlisted": (("203.0.113.77", 80), (CAPTURED_V4, 80)),
    "unlisted-v6": (("fd00:20::77", 80), (CAPTURED_V6, 80)),
    "excluded-port": ((CAPTURED_V4, 22), (CAPTURED_V4, 80)),
    "excluded-port-v6": ((CAPTURED_V6, 22), (CAPTURED_V6, 80)),
    "to-captured-port": ((ELSEWHERE_V4, 80), (ELSEWHERE_V4, 3306)),
}
FROM_CAPTURED: Cases = {
    "to-unlisted": ((CAPTURED_V4, 80), (ELSEWHERE_V4, 80)),
    "to-unlisted-v6": ((CAPTURED_V6, 80), (ELSEWHERE_V6, 80)),
    "to-excluded": ((CAPTURED_V4, 80), (rigs.EXCLUDED_V4, 80)),
    "to-excluded-port": ((CAPTURED_V4, 80), (CAPTURED_V4, 22)),
    "to-excluded-port-v6": ((CAPTURED_V6, 80), (CAPTURED_V6, 22)),
    "captured-port": ((ELSEWHERE_V4, 3306), (ELSEWHERE_V4, 80)),
    "within": ((CAPTURED_V4, 80), (CAPTURED_V4, 3306)),
}


@pytest.mark.parametrize(("asked_for", "instead"), TO_CAPTURED.values(), ids=TO_CAPTURED)
@pytest.mark.parametrize("which", [slice(2), NO_MAIN], ids=["both-tables", "guard-alone"])
def test_what_is_left_alone_arrives_wherever_others_take_it(
    rig: Rig,
    guarded: model.Ruleset,
    asked_for: Place,
    instead: Place,
    which: slice,
) -> None:
    keep(rig, guarded, which)
    with stranger(rig, dnat(*asked_for, *instead)):
        assert ask(rig, *asked_for) == "neighbour"


@pytest.mark.parametrize(("asked_for", "instead"), FROM_CAPTURED.values(), ids=FROM_CAPTURED)
def test_what_is_captured_does_not_get_around_by_being_translated(
    rig: Rig,
    guarded: model.Ruleset,
    served: rigs.Servers,
    asked_for: Place,
    instead: Place,
) -> None:
    with stranger(rig, dnat(*asked_for, *instead)):
        assert ask(rig, *asked_for) == f"{asked_for[0]} {asked_for[1]}"
        keep(rig, guarded, NO_MAIN)
        before = served.neighbour.accepted()
        assert ask(rig, *asked_for) == "refused"
        assert served.neighbour.accepted() == before
        assert ask(rig, *asked_for, user=PROXY_USER) == "neighbour"


@pytest.mark.parametrize(
    ("address", "instead"), [(CAPTURED_V4, ELSEWHERE_V4), (CAPTURED_V6, ELSEWHERE_V6)]
)
def test_a_translation_that_comes_before_ours_is_refused(
    rig: Rig, guarded: model.Ruleset, served: rigs.Servers, address: str, instead: str
) -> None:
    """Nothing translates twice: the main table never sees the connection."""
    before = served.neighbour.accepted()
    hook = "type nat hook output priority -150"
    with stranger(rig, dnat(address, 80, instead, 80), hook=hook):
        assert ask(rig, address) == "refused"
    assert served.neighbour.accepted() == before


@pytest.mark.parametrize("which", [slice(2), NO_MAIN], ids=["both-tables", "guard-alone"])
@pytest.mark.parametrize("address", [CAPTURED_V4, CAPTURED_V6])
def test_what_is_not_tracked_is_told_by_the_packet(
    rig: Rig, guarded: model.Ruleset, served: rigs.Servers, address: str, which: slice
) -> None:
    """Nobody translates it, so that it would go around the proxy."""
    keep(rig, guarded, which)
    before = served.neighbour.accepted()
    hook = "type filter hook output priority -300"
    with stranger(rig, "tcp dport { 80, 3306 } notrack", hook=hook):
        assert ask(rig, address) == "refused"
        assert ask(rig, ELSEWHERE_V4, 3306) == "refused"
        assert served.neighbour.accepted() == before
        assert ask(rig, ELSEWHERE_V4) == "neighbour"
        assert ask(rig, rigs.EXCLUDED_V4) == "neighbour"


def test_without_the_guard_others_translate_as_with_it(rig: Rig, guarded: model.Ruleset) -> None:
    """What the guard must not change: the main table's view of the same connections."""
    keep(rig, guarded, NO_GUARD)
    for asked_for, instead in TO_CAPTURED.values():
        with stranger(rig, dnat(*asked_for, *instead)):
            assert ask(rig, *asked_for) == "neighbour"


def test_a_guard_of_an_older_version_is_replaced_without_a_gap(
    rig: Rig, guarded: model.Ruleset, served: rigs.Servers
) -> None:
    """It had no second chain: no captured connection may get out between the two."""
    older = older_guard(guarded.tables[1])
    assert [chain.name for chain in older.chains] == ["ISTIO_GUARD", "output"]
    both = (model.Ruleset((older,)), model.Ruleset((guarded.tables[1],)))
    before = served.neighbour.accepted()
    with rig.kernel() as kernel:
        rig.apply(kernel, both[0])
        with contextlib.ExitStack() as stack:
            flows = [
                stack.enter_context(
                    servers.Traffic(rig.host, rigs.target(each, 80), interval_s=0.0, user=APP)
                )
                for each in (CAPTURED_V4, CAPTURED_V6)
            ]
            for turn in range(1, 201):
                assert rig.apply(kernel, both[turn % 2]), "there was something to do"
            tallies = [flow.stop() for flow in flows]
    for tally in tallies:
        assert tally.made > 50
        assert tally.failed == tally.made
        assert {failure["outcome"] for failure in tally.failures} == {"refused"}
    assert served.neighbour.accepted() == before


def older_guard(table: model.Table) -> model.Table:
    chains = {chain.name: chain for chain in table.chains}
    inner, base = chains["ISTIO_GUARD"], chains["output"]
    rules = tuple(r for r in inner.rules if r.verdict.action is not model.Action.GOTO)
    older = (inner._replace(rules=rules), base._replace(rules=base.rules[:1]))
    return table._replace(chains=older)


def test_the_rules_decide_as_the_text_for_early_boot(rig: Rig, served: rigs.Servers) -> None:
    """What nft(8) loads before any interface is up is the same guard."""
    desired = policy.build_ruleset(GUARDED, rigs.FACTS)
    rig.nft(text=guard.render_guard(desired))
    rig.nft(text=guard.render_guard(desired))
    try:
        with stranger(
            rig,
            dnat(EXCLUDED_V4, 80, CAPTURED_V4, 80),
            dnat(CAPTURED_V6, 80, ELSEWHERE_V6, 80),
        ):
            assert ask(rig, EXCLUDED_V4) == "neighbour"
            assert ask(rig, CAPTURED_V6) == "refused"
            assert ask(rig, CAPTURED_V4) == "refused"
        with rig.kernel() as kernel:
            assert rig.apply(kernel, model.Ruleset(desired.tables[1:])).write == ()
    finally:
        rig.clean()
