"""Users and units that are left alone: which keys mean whom, which rules that makes, what is said."""

import pytest

from istio_hostagent.agent import verdict
from istio_hostagent.config import build, model, settings, units
from istio_hostagent.errors import Problem
from istio_hostagent.lifecycle import redirection as states
from istio_hostagent.redirect import (
    evaluator,
    expectations,
    explanation,
    expressions,
    guard,
    names,
    nft,
    policy,
    probes,
    xtables,
    xtrender,
)
from istio_hostagent.redirect import model as rules
from istio_hostagent.redirect import units as unit_rules
from istio_hostagent.redirect.expectations import Sender, State
from istio_hostagent.redirect.model import Field, Match, Operator
from istio_hostagent.redirect.packets import End, Packet
from tests.unit.samples import ALL, FACTS, STANDARD

FILE = "hostagent.env"
CRON = model.ControlGroup("cron.service", "/system.slice/cron.service", 4711)
BATCH = model.ControlGroup("/batch.slice", "/batch.slice", 815)
AGENT = "/system.slice/istio-hostagent.service"
HERE = FACTS._replace(control_groups=(CRON, BATCH), own_group=AGENT)
EXCLUDING = ALL._replace(
    owners=model.Owners(users_exclude=(5000,), units=model.Units(("cron.service", "/batch.slice")))
)
WITH_NAMES = EXCLUDING._replace(dns=model.Dns(is_captured=True))
ELSEWHERE = Packet("203.0.113.5", 443, "10.1.0.2", uid=6000, gid=6000, oif="eth0")
QUERY = ELSEWHERE._replace(destination="10.1.0.53", port=53, protocol=names.UDP, flags=0)


def owners_of(text: str, trust: model.Trust = model.Trust(True)) -> model.Owners | Problem:  # noqa: B008 - a constant
    layer = model.Layer(FILE, text.encode(), trust)
    outcome = build.build_config([layer], HERE)
    if outcome.config is None:
        (problem,) = outcome.problems
        return problem
    return outcome.config.redirection.owners


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ()),
        ("cron", ("cron.service",)),
        ("'cron.service, cron,'", ("cron.service",)),
        ("com.example.app", ("com.example.app.service",)),
        ("backup.slice,session-3.scope,ssh.socket", ("backup.slice", "session-3.scope", "ssh.socket")),
        ("app@1.service", ("app@1.service",)),
        (r"'system-a\x2db.slice'", (r"system-a\x2db.slice",)),
        ("/user.slice/user-7.slice/", ("/user.slice/user-7.slice",)),
        ("//system.slice//cron.service", ("/system.slice/cron.service",)),
    ],
)  # fmt: skip
def test_units_are_named_as_for_systemctl_or_by_path(written: str, meant: tuple[str, ...]) -> None:
    found = owners_of(f"ISTIO_HOSTAGENT_EXCLUDE_UNITS={written}\n")
    assert isinstance(found, model.Owners)
    assert found.units.exclude == meant


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("EXCLUDE_UNITS=backup.timer", "'backup.timer' has no processes: name the unit that it starts"),
        ("EXCLUDE_UNITS=app@.service", "'app@.service' is a template: name an instance, or the slice that has all"),
        ("EXCLUDE_UNITS=app@", "'app@' is a template: name an instance, or the slice that has all"),
        ("EXCLUDE_UNITS=-.slice", "'-.slice' has every process of this host"),
        ("EXCLUDE_UNITS=/", "'/' has every process of this host"),
        ("EXCLUDE_UNITS='a b'", "'a b' is neither the name of a unit nor a path"),
        ("EXCLUDE_UNITS='*'", "'*' is neither the name of a unit nor a path"),
        ("EXCLUDE_UNITS=.service", "'.service' is neither the name of a unit nor a path"),
        ("EXCLUDE_UNITS=/a/../b", "'/a/../b' is not the path of a control group"),
        ("EXCLUDE_UNITS='/a b'", "'/a b' is not the path of a control group"),
        ("EXCLUDE_UNITS=/sys/fs/cgroup/a.slice", "'/sys/fs/cgroup/a.slice': write the path below /sys/fs/cgroup, as in /proc/PID/cgroup"),
        ("EXCLUDE_USERS=nobody-here", "there is no user nobody-here in /etc/passwd: write the number"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_error_with_its_line(line: str, message: str) -> None:
    key = "ISTIO_HOSTAGENT_" + line.partition("=")[0]
    assert owners_of(f"\nISTIO_HOSTAGENT_{line}\n") == Problem(FILE, 2, f"{key}: {message}")


@pytest.mark.parametrize("written", ["a" * 248, "/" + "a" * 511, "/a" * 251])
def test_what_is_too_long_for_the_kernel_is_refused(written: str) -> None:
    found = owners_of(f"ISTIO_HOSTAGENT_EXCLUDE_UNITS={written}\n")
    assert isinstance(found, Problem)
    assert "is longer than" in found.message


def test_units_alone_are_captured_by_name_and_path() -> None:
    found = owners_of("ISTIO_HOSTAGENT_INCLUDE_UNITS=app,/a/b\n")
    assert isinstance(found, model.Owners)
    assert found.units == model.Units(include=("app.service", "/a/b"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("EXCLUDE_UNITS=cron,app", "app.service is in ISTIO_HOSTAGENT_EXCLUDE_UNITS, too"),
        ("BACKEND=legacy", "not with rules in legacy tables: every unit that starts or stops would change them, which takes too long"),
        ("EXCLUDE_USERS=", ""),
    ],
)  # fmt: skip
def test_units_alone_cannot_be_captured_beside_some_keys(lines: str, message: str) -> None:
    found = owners_of(f"ISTIO_HOSTAGENT_INCLUDE_UNITS=app\nISTIO_HOSTAGENT_{lines}\n")
    if message:
        key = settings.INCLUDE_UNITS.key
        assert found == Problem(FILE, 1, f"{key}: {message}")
    else:
        assert isinstance(found, model.Owners)


@pytest.mark.parametrize(
    "key", ["INCLUDE_UNITS=cron", "EXCLUDE_UNITS=cron", "EXCLUDE_USERS=envoy"]
)
def test_who_is_left_alone_is_said_by_root(key: str) -> None:
    found = owners_of(f"ISTIO_HOSTAGENT_{key}\n", model.Trust(False, "the proxy's", True))
    assert isinstance(found, Problem)
    assert "counts only from a file that only root can write" in found.message


def test_a_host_without_control_groups_says_that_no_unit_is_left_alone() -> None:
    layer = model.Layer(FILE, b"ISTIO_HOSTAGENT_EXCLUDE_UNITS=cron\n", model.Trust(True))
    (warning,) = build.build_config([layer], FACTS).warnings
    assert "no unit is left alone, since no tree of control groups is mounted" in warning.message
    assert build.build_config([layer], HERE).warnings == ()


def test_whose_group_has_whom() -> None:
    assert CRON.level == 2
    assert CRON.has("/system.slice/cron.service")
    assert CRON.has("/system.slice/cron.service/part")
    assert not CRON.has("/system.slice/cron.service2")
    assert not CRON.has("/system.slice")
    assert not CRON.has("")


# -- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packet", [ELSEWHERE, QUERY], ids=["tcp", "query"])
@pytest.mark.parametrize(
    ("sender", "is_captured"),
    [
        ({"groups": (7, 4711)}, False),
        ({"groups": (7, 4711, 8)}, False),
        ({"groups": (815,)}, False),
        ({"groups": (815, 9, 10), "uid": 0}, False),
        ({"uid": 5000}, False),
        ({"gid": 5000}, True),
        ({"groups": (4711,)}, True),
        ({"groups": (7, 815)}, True),
        ({"groups": (7, 12)}, True),
        ({}, True),
    ],
)
def test_what_is_sent_from_an_excluded_unit_is_left_alone(
    packet: Packet, sender: dict[str, tuple[int, ...]], *, is_captured: bool
) -> None:
    """A group counts at its own level: the number of one elsewhere is another group's."""
    packet = packet._replace(**sender)  # type: ignore[arg-type] # fields of it
    tables = policy.build_ruleset(WITH_NAMES, HERE).tables
    way = evaluator.follow(tables, packet, FACTS.addresses)
    assert way.end is End.PASSED
    assert bool(way.captured_at) is is_captured
    if packet.protocol == names.UDP:
        assert way.packet.zone == (names.CAPTURED_ZONE if is_captured else names.OWN_ZONE)


INCLUDING = ALL._replace(
    owners=model.Owners(units=model.Units(("cron.service",), ("app.service",))),
    dns=model.Dns(is_captured=True),
)
APP = model.ControlGroup("app.service", "/system.slice/app.service", 50, is_captured=True)
SSH = model.ControlGroup("", "/system.slice/ssh.service", 51)
WITH_APP = HERE._replace(control_groups=(CRON, APP, SSH))


@pytest.mark.parametrize("packet", [ELSEWHERE, QUERY], ids=["tcp", "query"])
@pytest.mark.parametrize(
    ("groups", "is_captured"),
    [
        ((7, 50), True),
        ((7, 50, 51), True),
        ((7, 51), False),
        ((7, 51, 9), False),
        ((7, 4711), False),
        ((7, 52), True),
        ((8,), True),
        ((), True),
    ],
)
def test_with_included_units_others_are_left_alone_and_who_is_not_known_is_not(
    packet: Packet, groups: tuple[int, ...], *, is_captured: bool
) -> None:
    tables = policy.build_ruleset(INCLUDING, WITH_APP).tables
    way = evaluator.follow(tables, packet._replace(groups=groups), FACTS.addresses)
    assert bool(way.captured_at) is is_captured


@pytest.mark.parametrize(("redirection", "facts"), [(INCLUDING, WITH_APP), (EXCLUDING, HERE)])
def test_rules_for_units_are_refused_in_legacy_tables(
    redirection: model.Redirection, facts: model.HostFacts
) -> None:
    desired = policy.build_ruleset(redirection, facts)
    for family in xtables.Family:
        with pytest.raises(xtables.NotExpressible, match="the traffic of some units alone"):
            xtrender.render(desired, family)
        assert xtrender.render(unit_rules.without_units(desired), family)


def test_two_names_of_one_group_are_one_rule_and_other_units_none() -> None:
    twice = BATCH._replace(unit="batch.slice")
    other = model.ControlGroup("other.service", "/other.service", 5)
    facts = HERE._replace(control_groups=(CRON, BATCH, twice, other))
    owners = EXCLUDING.owners._replace(
        units=model.Units(("cron.service", "/batch.slice", "batch.slice"))
    )
    made = list(unit_rules.unit_rules(owners, facts, rules.Verdict(rules.Action.RETURN)))
    assert [match.value for rule in made for match in rule.matches] == [4711, 815]


def test_the_guard_in_the_kernel_knows_units_and_that_of_early_boot_does_not() -> None:
    desired = policy.build_ruleset(EXCLUDING, HERE)
    loaded = nft.render_nft(next(t for t in desired.tables if t.name == rules.GUARD_TABLE))
    assert "socket cgroupv2 level 2 4711 counter return" in loaded
    text = guard.render_guard(desired)
    assert "cgroup" not in text
    assert "meta skuid 5000 counter return" in text
    without = policy.build_ruleset(EXCLUDING, HERE._replace(control_groups=()))
    assert text == guard.render_guard(without)
    assert unit_rules.without_units(desired) == without


def test_a_condition_on_a_group_names_its_level() -> None:
    match = Match(Field.CONTROL_GROUP, Operator.NE, 12, path="/a.slice/b.service/c")
    state = expressions.compile_rule(rules.Rule((match,), rules.Verdict(rules.Action.RETURN)))
    assert nft.render_rule(state) == "socket cgroupv2 level 3 != 12 counter return"


# -- what is said -------------------------------------------------------------------------------


def test_it_is_explained_which_unit_is_left_alone() -> None:
    found = explanation.explain(EXCLUDING, HERE, ELSEWHERE._replace(groups=(7, 4711)))
    assert found.verdict is explanation.Verdict.DIRECT
    assert found.decision.endswith("an excluded unit (cron.service)")
    assert found.keys == (settings.EXCLUDE_UNITS.key,)
    assert found.without is not None
    assert "the guard lets it go to its destination" in found.without_text
    found = explanation.explain(EXCLUDING, HERE, ELSEWHERE._replace(uid=5000))
    assert found.decision.endswith("an excluded user")
    assert found.keys == (settings.EXCLUDE_USERS.key,)


def test_it_is_explained_that_a_unit_is_none_of_the_included() -> None:
    found = explanation.explain(INCLUDING, WITH_APP, ELSEWHERE._replace(groups=(7, 51)))
    assert found.decision.endswith("not an included unit (/system.slice/ssh.service)")
    assert found.keys == (settings.INCLUDE_UNITS.key,)
    found = explanation.explain(INCLUDING, WITH_APP, ELSEWHERE._replace(groups=(7, 50)))
    assert found.verdict is explanation.Verdict.PROXY


def test_a_verb_in_a_unit_that_is_not_included_shows_nothing_of_others() -> None:
    facts = WITH_APP._replace(own_group="/system.slice/ssh.service/session")
    assert model.find_own_unit(facts) == "/system.slice/ssh.service"
    assert model.find_own_unit(WITH_APP._replace(own_group=APP.path)) == ""


def test_excluded_users_are_promised_to_be_left_alone() -> None:
    texts = {each.text for each in probes.build_expectations(WITH_NAMES, HERE)}
    assert any(text.endswith("is left alone for user 5000") for text in texts)
    assert "a query of user 5000 to 10.1.0.53 is left alone" in texts


def test_where_nobody_and_root_are_excluded_others_are_tried() -> None:
    owners = model.Owners(users_exclude=(0, 65534))
    made = probes.build_expectations(STANDARD._replace(owners=owners), FACTS)
    captured = [each for each in made if each.captured_at and each.sender is Sender.APPLICATION]
    assert captured
    assert {each.uid for each in captured} == {65533}
    assert not [each for each in made if each.captured_at and each.sender is Sender.ROOT]


def test_what_an_agent_in_an_excluded_unit_sends_shows_nothing_of_others() -> None:
    group = model.ControlGroup("system.slice", "/system.slice", 3)
    facts = HERE._replace(control_groups=(group,))
    redirection = STANDARD._replace(owners=model.Owners(units=model.Units(("system.slice",))))
    made = probes.build_expectations(redirection, facts)
    findings = [
        expectations.evaluate(each, expectations.Outcome(each.destination, each.port))
        for each in made
        if each.captured_at and each.sender in (Sender.APPLICATION, Sender.ROOT)
    ]
    assert findings
    assert {each.state for each in findings} == {State.NOT_TESTABLE}
    assert {each.detail for each in findings} == {"sent from system.slice, which is excluded"}
    assert verdict.sum_up(findings, facts) is states.Proof.NOTHING
    assert "packets of the agent are sent from system.slice" in verdict.find_untestable(findings)
    others = [each for each in made if each.captured_at and each.sender is Sender.NEIGHBOUR]
    assert others
    assert not any(each.untestable for each in others)


def test_without_such_a_unit_no_route_is_what_is_missing() -> None:
    made = probes.build_expectations(STANDARD, FACTS)
    findings = [expectations.evaluate(each, expectations.Outcome(errno=101)) for each in made]
    assert verdict.find_untestable(findings) == ""


# -- what changes while it runs -----------------------------------------------------------------


def test_other_units_take_nothing_back_of_what_packets_have_shown() -> None:
    proven = states.Redirection(desired=1, rules=states.Rules.PROVEN)
    changed = states.amended(proven)
    assert (changed.rules, changed.is_incomplete) == (states.Rules.PROVEN, True)
    assert changed.is_apply_due(0.0)
    asked = states.asked(changed, states.Pending.INSTALLING, 0.0)
    again = states.amended(asked)
    assert states.applied(again, has_changed=True).is_incomplete, "others are desired by now"
    done = states.applied(asked, has_changed=True)
    assert (done.rules, done.is_incomplete, done.is_stale) == (states.Rules.PROVEN, False, True)


def test_rules_that_are_out_go_in_as_a_whole() -> None:
    changed = states.amended(states.Redirection(desired=1))
    assert changed.rules is states.Rules.OUT
    assert not changed.is_partly_out
    assert changed.is_incomplete


def test_parsing_again_what_was_parsed_changes_nothing() -> None:
    once = units.parse_units("cron, /a/b/, x.slice")
    assert units.parse_units(",".join(once)) == once
