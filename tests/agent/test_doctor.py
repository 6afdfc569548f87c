"""What `doctor` says of a host: all well, and each thing wrong by itself."""

from collections.abc import Callable

import pytest

from istio_hostagent import __version__
from istio_hostagent.agent import examination
from istio_hostagent.agent.examination import way
from istio_hostagent.agent.examination.finding import Finding, Level
from istio_hostagent.agent.examination.machine import UNITS
from istio_hostagent.agent.examination.seen import Seen, Target
from istio_hostagent.config import build, model
from istio_hostagent.host import survey
from istio_hostagent.host.answers import reach
from tests.agent import machine
from tests.agent.host import MemoryHost
from tests.agent.texts import FACTS

ISTIOD = "istiod.istio-system.svc"
CLUSTER = f"""
CA_ADDR={ISTIOD}:15012
ISTIO_SERVICE_CIDR=10.96.0.0/12
ISTIO_INBOUND_PORTS=8080
"""
NOW = 1_700_000_000.0
DAY = 86_400.0
CALL = reach.Call(
    addresses=("10.0.0.1",),
    address="10.0.0.1",
    took_s=0.01,
    stage="done",
    error="",
    name=ISTIOD,
    since=NOW - DAY,
    until=NOW + DAY,
    date=None,
    shown="",
)
REACHED = reach.Reached(reach.Roots(1, NOW + 300 * DAY, ""), reach.Token("", NOW + 3600), (CALL,))
VERIFIED = {
    **{"differences": [], "second_reader": [], "broken": [], "kept": ["a"], "not_testable": []},
    "proxy": {"required": True, "last_error": ""},
}


def configured(text: str) -> model.Config:
    layer = model.Layer("/etc/hostagent.env", text.encode(), model.Trust(is_root_only=True))
    config = build.build_config([layer], FACTS).config
    assert config is not None
    return config


def unit(name: str, known: str = "", active: str = "active") -> survey.Unit:
    return survey.Unit(name, known or name, "loaded", active, "enabled")


TARGETS = way.find_targets(configured(CLUSTER), is_pilot_agent=True)
GOOD_UNITS = (
    unit(UNITS[0]),
    unit(UNITS[1], UNITS[0]),
    unit(UNITS[2]),
    unit(UNITS[3], "istio-hostagent-node-agent.service", "inactive"),
    unit(UNITS[4]),
)


@pytest.fixture
def well(host: MemoryHost) -> Seen:
    """All that is seen of a host in the mesh; its clock is that of the report."""
    host.join()
    host.until(lambda: host.status["served_certificate"]["state"] == "held", 60.0, "it is asked")
    now = host.clock.now()
    call = CALL._replace(since=now - DAY, until=now + DAY)
    reached = REACHED._replace(
        roots=REACHED.roots._replace(until=now + 300 * DAY),
        token=reach.Token("", now + 3600),
        calls=(call,),
    )
    return Seen(
        now=now,
        version=__version__,
        status=host.status,
        config=configured(CLUSTER),
        verification=VERIFIED,
        targets=TARGETS,
        reached=reached,
        hosts=((ISTIOD, (survey.HostsLine(3, "10.0.0.1"),)),),
        units=GOOD_UNITS,
        features=(survey.Feature("kernel", True, "nf_tables answers"),),
    )


def look(seen: Seen) -> dict[str, Finding]:
    """By subject, the worst of each."""
    found: dict[str, Finding] = {}
    order = (Level.UNSEEN, Level.OK, Level.WARNING, Level.WRONG)
    for each in examination.examine(seen):
        before = found.get(each.subject)
        if before is None or order.index(each.level) > order.index(before.level):
            found[each.subject] = each
    return found


def test_of_a_host_in_the_mesh_every_line_is_good_and_says_what_was_seen(well: Seen) -> None:
    found = look(well)
    bad = {name: each for name, each in found.items() if each.level is not Level.OK}
    assert not bad
    assert examination.is_fine(list(found.values()))
    assert "10.0.0.1 (/etc/hosts:3)" in found[f"name {ISTIOD}"].words
    assert "TLS as istiod" in found["CA and control plane"].words
    assert "1 expectations met by packets just now" in found["packet rules"].words
    assert "shows the certificate that is held" in found["proxy"].words


def call(seen: Seen, **changed: object) -> Seen:
    assert seen.reached is not None
    made = seen.reached.calls[0]._replace(**changed)  # type: ignore[arg-type] # by the table
    return seen._replace(reached=seen.reached._replace(calls=(made,)))


def part(seen: Seen, name: str, **changed: object) -> Seen:
    assert seen.status is not None
    return seen._replace(status={**seen.status, name: {**seen.status[name], **changed}})


def with_unit(seen: Seen, changed: survey.Unit) -> Seen:
    assert seen.units is not None
    units = tuple(changed if each.name == changed.name else each for each in seen.units)
    return seen._replace(units=units)


def with_roots(seen: Seen, roots: reach.Roots) -> Seen:
    assert seen.reached is not None
    return seen._replace(reached=seen.reached._replace(roots=roots))


def with_token(seen: Seen, token: reach.Token) -> Seen:
    assert seen.reached is not None
    return seen._replace(reached=seen.reached._replace(token=token))


def without_certificate(seen: Seen) -> Seen:
    return part(seen, "certificate", not_after=None, not_before=None, last_error="refused")


Change = Callable[[Seen], Seen]
# What is changed of a host that is well; the subject that is worse for it, how much, and a word
# that has to be said.
FAULTS: dict[str, tuple[Change, str, Level, str]] = {
    "agent-away": (
        lambda s: s._replace(status=None, silence="no agent runs"),
        *("agent", Level.WRONG, "no agent runs"),
    ),
    "agent-of-before": (
        lambda s: s._replace(version="9.0"),
        *("agent", Level.WARNING, "but 9.0 is installed"),
    ),
    "unit-stopped": (
        lambda s: with_unit(s, unit(UNITS[0], active="inactive")),
        *(f"unit {UNITS[0]}", Level.WRONG, "inactive"),
    ),
    "unit-disabled": (
        lambda s: with_unit(s, unit(UNITS[0])._replace(enabled="disabled")),
        *(f"unit {UNITS[0]}", Level.WARNING, "next boot"),
    ),
    "unit-masked": (
        lambda s: with_unit(s, unit(UNITS[0])._replace(load="masked", active="inactive")),
        *(f"unit {UNITS[0]}", Level.WRONG, "masked"),
    ),
    "name-of-others": (
        lambda s: with_unit(s, unit(UNITS[1])),
        *(f"unit {UNITS[1]}", Level.WARNING, "another package"),
    ),
    "guard-away": (
        lambda s: with_unit(s, unit(UNITS[2], active="failed")),
        *(f"unit {UNITS[2]}", Level.WRONG, "failed"),
    ),
    "node-agent-of-others": (
        lambda s: with_unit(s, unit(UNITS[3])),
        *(f"unit {UNITS[3]}", Level.WARNING, "another package"),
    ),
    "secrets-socket-away": (
        lambda s: with_unit(s, unit(UNITS[4], active="failed")),
        *(f"unit {UNITS[4]}", Level.WARNING, "failed"),
    ),
    "no-systemd": (
        lambda s: s._replace(units=None),
        *("units", Level.UNSEEN, "systemd"),
    ),
    "file-wrong": (
        lambda s: part(s, "configuration", state="kept", problems=["/c.env:2: no network"]),
        *("configuration", Level.WRONG, "/c.env:2"),
    ),
    "file-warning": (
        lambda s: part(s, "configuration", warnings=["/c.env:3: has no effect"]),
        *("configuration", Level.WARNING, "/c.env:3"),
    ),
    "name-unknown": (
        lambda s: call(s, stage="name", error="no address", addresses=(), address=""),
        *(f"name {ISTIOD}", Level.WRONG, "no address"),
    ),
    "two-hosts-lines": (
        lambda s: s._replace(
            hosts=((ISTIOD, (survey.HostsLine(3, "10.0.0.1"), survey.HostsLine(5, "10.0.0.2"))),)
        ),
        *(f"name {ISTIOD}", Level.WARNING, "lines 3 and 5"),
    ),
    "ca-refuses": (
        lambda s: call(s, stage="connection", error="Connection refused"),
        *("CA and control plane", Level.WRONG, "(/etc/hosts:3): no connection"),
    ),
    "ca-is-another": (
        lambda s: call(s, stage="tls", error="Hostname mismatch", name="", shown="other.svc"),
        *("CA and control plane", Level.WRONG, "it answers as other.svc"),
    ),
    "clock-behind": (
        lambda s: call(s, stage="tls", error="not valid yet", since=s.now + DAY),
        *("clock", Level.WRONG, "it is behind"),
    ),
    "clock-ahead": (
        lambda s: call(s, stage="tls", error="has ended", until=s.now - DAY),
        *("clock", Level.WARNING, "either it is ahead"),
    ),
    "clock-of-pilot": (
        lambda s: call(s, date=s.now + 3600),
        *("clock", Level.WRONG, "60 min behind"),
    ),
    "roots-missing": (
        lambda s: with_roots(s, reach.Roots(0, None, "root-cert.pem does not exist")),
        *("root certificates", Level.WRONG, "does not exist"),
    ),
    "roots-ended": (
        lambda s: with_roots(s, reach.Roots(1, s.now - 1, "")),
        *("root certificates", Level.WRONG, "ended"),
    ),
    "token-expired": (
        lambda s: with_token(without_certificate(s), reach.Token("it expired", s.now - 1)),
        *("token", Level.WRONG, "expired"),
    ),
    "token-expired-and-not-needed": (
        lambda s: with_token(s, reach.Token("it expired", s.now - 1)),
        *("token", Level.WARNING, "shown instead"),
    ),
    "certificate-none": (
        without_certificate,
        *("certificate", Level.WRONG, "none is held: refused"),
    ),
    "certificate-ended": (
        lambda s: part(s, "certificate", not_after=s.now - 120),
        *("certificate", Level.WRONG, "has ended 2 min ago"),
    ),
    "renewal-fails": (
        lambda s: part(s, "certificate", renewal="failing", failing_since=s.now - 60),
        *("certificate", Level.WARNING, "renewal fails since"),
    ),
    "rules-differ": (
        lambda s: s._replace(verification={**VERIFIED, "differences": ["a rule is gone"]}),
        *("packet rules", Level.WRONG, "a rule is gone"),
    ),
    "packets-elsewhere": (
        lambda s: s._replace(verification={**VERIFIED, "broken": ["10.96.0.1 leaves"]}),
        *("packet rules", Level.WRONG, "10.96.0.1 leaves"),
    ),
    "nothing-shown": (
        lambda s: s._replace(
            verification={**VERIFIED, "kept": [], "not_testable": ["no route to 10.96.0.0/12"]}
        ),
        *("packet rules", Level.WARNING, "no packet could show"),
    ),
    "not-verified": (
        lambda s: s._replace(verification=None, unverified="the kernel is busy"),
        *("packet rules", Level.WARNING, "no packets could be sent now: the kernel is busy"),
    ),
    "not-searched": (
        lambda s: s._replace(unsearched="rules were not looked at: no"),
        *("other agents", Level.UNSEEN, "rules were not looked at"),
    ),
    "rules-away": (
        lambda s: s._replace(verification={**VERIFIED, "kept": []}),
        *("packet rules", Level.WRONG, "there are none"),
    ),
    "firewall": (
        lambda s: part(s, "redirection", last_error="the firewall drops 15006"),
        *("packet rules", Level.WRONG, "the firewall drops"),
    ),
    "nobody-shows-rules": (
        lambda s: part(s._replace(verification=None), "redirection", state="installed"),
        *("packet rules", Level.WRONG, "installed"),
    ),
    "proxy-closed": (
        lambda s: part(s, "proxy", closed_ports=[15001]),
        *("proxy", Level.WRONG, "does not listen on 15001"),
    ),
    "proxy-waits": (
        lambda s: part(s, "proxy", state="backoff", last_error="segfault"),
        *("proxy", Level.WRONG, "backoff: segfault"),
    ),
    "other-certificate": (
        lambda s: part(s, "served_certificate", state="other", last_error="it shows 77"),
        *("proxy", Level.WRONG, "it shows 77"),
    ),
    "certificate-not-asked": (
        lambda s: part(s, "served_certificate", state="unknown", last_error="no answer"),
        *("proxy", Level.WARNING, "not known: no answer"),
    ),
    "control-plane-away": (
        lambda s: part(s, "control_plane", state="away", away_since=s.now - 60, last_error="x"),
        *("control plane", Level.WRONG, "has had no connection"),
    ),
    "control-plane-silent": (
        lambda s: part(s, "control_plane", state="unknown"),
        *("control plane", Level.WARNING, "does not tell"),
    ),
    "port-taken": (
        lambda s: s._replace(holders=(survey.Holder(15001, 1000, 4711, "nc"),)),
        *("ports", Level.WRONG, "15001 belongs to nc (pid 4711"),
    ),
    "feature-away": (
        lambda s: s._replace(features=(survey.Feature("kernel", False, "refused", "modprobe"),)),
        *("kernel", Level.WRONG, "refused"),
    ),
    "kubedns": (
        lambda s: s._replace(kubedns=(("istio-pilot", "no address"),)),
        *("kubedns istio-pilot", Level.WRONG, "no address"),
    ),
    "predecessor": (
        lambda s: s._replace(predecessors=("istio.service",)),
        *("other agents", Level.WARNING, "istio.service"),
    ),
    "stranger": (
        lambda s: s._replace(strangers=(survey.Process(9, "node_agent", "/x"),)),
        *("other agents", Level.WARNING, "node_agent (pid 9"),
    ),
    "left": (
        lambda s: s._replace(left="23 rules"),
        *("other agents", Level.WRONG, "23 rules"),
    ),
    "without-root": (
        lambda s: s._replace(reached=None, unreached="only root sees that"),
        *("way to the control plane", Level.UNSEEN, "only root"),
    ),
}


@pytest.mark.parametrize(
    ("change", "subject", "level", "word"), FAULTS.values(), ids=FAULTS.keys()
)
def test_each_fault_is_a_line(
    well: Seen, change: Change, subject: str, level: Level, word: str
) -> None:
    found = look(change(well))
    assert found[subject].level is level, found[subject]
    assert word in found[subject].words
    if level is Level.WRONG:
        assert not examination.is_fine(list(found.values()))
        assert all(each.advice for each in found.values() if each.level is level)


def test_whatever_the_agent_finds_wrong_is_said_once(host: MemoryHost, well: Seen) -> None:
    host.ca = machine.Ca.REFUSING
    assert not host.answer("renew")["ok"]
    seen = well._replace(status=host.status, now=host.clock.now())
    causes = [
        *seen.status["causes"],  # type: ignore[index] # it is there
        {"part": "stuck", "code": "stuck", "text": "4711 hangs"},
        {"part": "watching", "code": "not-watched", "text": "no watch left"},
    ]
    lines = list(examination.examine(seen._replace(status={**host.status, "causes": causes})))
    assert [each.code for each in lines].count("stuck") == 1
    assert "4711 hangs" in " ".join(each.words for each in lines)
    (watching,) = [each for each in lines if each.code == "not-watched"]
    assert "sysctl" in watching.advice


def test_a_host_that_does_not_join_is_wrong_by_its_reason(host: MemoryHost, well: Seen) -> None:
    host.kill()
    host.proxy = machine.Proxy.CRASHING
    host.start()
    host.until(lambda: bool(host.status["causes"]), 30.0, "it is said")
    found = look(well._replace(status=host.status, now=host.clock.now()))
    assert found["proxy"].level is Level.WRONG
    assert found["mesh"].level is Level.WRONG


def test_what_is_published_is_enough_for_users_who_are_not_root(
    host: MemoryHost, well: Seen
) -> None:
    seen = well._replace(
        status=host.published.state,
        is_whole=False,
        is_root=False,
        verification=None,
        reached=None,
        unreached="only root sees that",
    )
    found = look(seen)
    assert not [each for each in found.values() if each.level is Level.WRONG]
    assert found["packet rules"].words.startswith("shown by packets")
    assert found["way to the control plane"].level is Level.UNSEEN
    assert found["other agents"].level is Level.UNSEEN


@pytest.mark.parametrize(
    ("text", "is_pilot_agent", "expected"),
    [
        pytest.param(CLUSTER, True, [("CA and control plane", 15012, "tls")], id="today"),
        pytest.param(
            "CA_ADDR=ca:15012\nISTIO_HOSTAGENT_CONTROL_PLANE=none\n",
            False,
            [("CA", 15012, "tls")],
            id="no-control-plane",
        ),
        pytest.param(
            "CA_ADDR=istio-ca:8060\nPILOT_ADDRESS=istio-pilot:8080\n",
            True,
            [("CA", 8060, "tls"), ("control plane", 8080, "pilot")],
            id="0.2",
        ),
        pytest.param(
            "CA_ADDR=istio-citadel:8060\nPILOT_ADDRESS=istio-pilot:15011\n",
            True,
            [("CA", 8060, "tls"), ("control plane", 15011, "plain")],
            id="1.0",
        ),
    ],
)
def test_whom_a_host_has_to_reach(
    text: str, is_pilot_agent: bool, expected: list[tuple[str, int, str]]
) -> None:
    found: tuple[Target, ...] = way.find_targets(configured(text), is_pilot_agent=is_pilot_agent)
    assert [(each.subject, each.port, each.kind) for each in found] == expected
