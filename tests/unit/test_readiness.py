"""What the one line says, and what ready means."""

from dataclasses import replace

from istio_hostagent.agent.join import Rules
from istio_hostagent.agent.readiness import Knowledge, describe
from istio_hostagent.errors import Problem
from istio_hostagent.supervise.child import State
from tests.unit.test_join import COMPLETE, NOTHING

EMPTY = Knowledge(
    situation=NOTHING,
    is_empty=True,
    is_kept=False,
    is_changing=False,
    cluster_file="/var/lib/istio/envoy/cluster.env",
    problems=(),
    identity="",
    held_until="",
    certificate_trouble="",
    rules_trouble="",
    state_trouble="",
    attempt_trouble="",
    proxy_name="envoy",
    proxy_trouble="",
    searched=("/usr/local/bin/envoy", "/usr/bin/envoy"),
)
JOINED = replace(
    EMPTY,
    is_empty=False,
    situation=replace(COMPLETE, is_joined=True, rules=Rules.PROVEN, proxy=State.READY),
    identity="spiffe://cluster.local/ns/default/sa/web",
    held_until="2026-11-22T10:00:00Z",
)


def test_without_configuration_the_agent_is_in_control_and_names_the_file() -> None:
    report = describe(EMPTY)
    assert report.is_in_control
    assert not report.is_in_mesh
    assert report.summary == "not in the mesh: waiting for /var/lib/istio/envoy/cluster.env"


def test_a_problem_is_named_with_file_and_line_and_the_number_of_the_others() -> None:
    problems = (Problem("/c.env", 4, "70000 is not a port"), Problem("/c.env", 9, "no"))
    report = describe(replace(EMPTY, is_empty=False, problems=problems))
    assert report.is_in_control
    assert "/c.env:4: 70000 is not a port (and 1 more)" in report.summary


def test_a_missing_proxy_is_named_with_the_places_searched() -> None:
    now = replace(EMPTY, is_empty=False, situation=replace(NOTHING, has_config=True))
    assert "no envoy found; searched /usr/local/bin/envoy, /usr/bin/envoy" in describe(now).summary


def test_in_the_mesh_names_identity_and_end_of_the_certificate() -> None:
    report = describe(JOINED)
    assert report.is_in_mesh
    assert report.is_in_control
    assert "spiffe://cluster.local/ns/default/sa/web" in report.summary
    assert "2026-11-22T10:00:00Z" in report.summary


def test_a_kept_configuration_is_said_while_in_the_mesh() -> None:
    problem = Problem("/s.env", 1, "unknown escape")
    report = describe(replace(JOINED, problems=(problem,), is_kept=True))
    assert report.is_in_mesh
    assert "/s.env:1: unknown escape, keeping the last accepted configuration" in report.summary


def test_while_things_only_take_their_time_the_agent_is_not_in_control_yet() -> None:
    waiting = replace(EMPTY, is_empty=False, situation=replace(COMPLETE, has_certificate=False))
    report = describe(waiting)
    assert not report.is_in_control
    assert "waiting for the first certificate" in report.summary


def test_in_the_mesh_needs_each_of_its_parts() -> None:
    whole = JOINED.situation
    for broken in (
        replace(whole, is_joined=False),
        replace(whole, has_certificate=False),
        replace(whole, rules=Rules.IN),
        replace(whole, proxy=State.STARTING),
    ):
        assert not describe(replace(JOINED, situation=broken)).is_in_mesh
