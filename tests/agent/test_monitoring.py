"""The alert rules and the dashboard of the documentation name metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from istio_hostagent import gauges
from istio_hostagent.cli import check
from istio_hostagent.host import capturecount, published
from tests.agent.host import MemoryHost

DOCS = Path(__file__).parents[2] / "docs/monitoring"
ALERTS, DASHBOARD = DOCS / "alerts.yaml", DOCS / "dashboard.json"
# They are there only while something is wrong, or with a proxy that this host does not have.
SOMETIMES = {"certificate_failing_since_timestamp_seconds", "cause", "control_plane_connected"}


@pytest.fixture
def metrics(host: MemoryHost) -> set[str]:
    """The names of all that a host in the mesh has, and may have."""
    host.captured = capturecount.Captured(1, 2)
    host.join()
    host.until(lambda: bool(host.status["served_certificate"]["serials"]), 5.0, "it is asked")
    text = gauges.render(host.status)
    assert not any(f"{gauges.PREFIX}{name} " in text for name in SOMETIMES)
    state: dict[str, Any] = dict(host.published.state or {})
    state["causes"] = [{"part": "certificate", "code": "certificate-refused"}]
    state["certificate"] = state["certificate"] | {"failing_since": 1.0}
    state["control_plane"] = {"state": "away", "away_since": 1.0}
    return set(re.findall(r"^# TYPE (\S+) ", gauges.render(state), re.MULTILINE))


def named(expression: str) -> set[str]:
    return set(re.findall(rf"{gauges.PREFIX}\w+", expression))


def test_every_metric_of_an_alert_is_there(metrics: set[str]) -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names) > 8
    for rule in group["rules"]:
        assert named(rule["expr"]), rule["alert"]
        assert named(rule["expr"]) <= metrics, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}


def test_every_metric_of_the_dashboard_is_there(metrics: set[str]) -> None:
    board = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [each["query"] for each in board["templating"]["list"]]
    assert named(" ".join(expressions)) <= metrics
    assert all(named(each) for each in expressions if each != "prometheus")
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_what_is_told_of_a_host_is_on_the_dashboard_or_in_an_alert(metrics: set[str]) -> None:
    used = named(ALERTS.read_text()) | named(DASHBOARD.read_text())
    left = {"info", "in_control", "certificate_info", "certificate_held", "proxy_ready"}
    left.add("certificate_next_attempt_timestamp_seconds")
    assert metrics - used == {gauges.PREFIX + name for name in left}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_prometheus_takes_the_rules() -> None:
    command = ["promtool", "check", "rules", str(ALERTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_names_metrics_that_there_are(metrics: set[str]) -> None:
    text = (DOCS.parent / "monitoring.md").read_text()
    rows = re.findall(r"^\| (`istio_hostagent_[^|]+) \|", text, re.MULTILINE)
    found = set()
    for row in rows:
        first, *others = re.findall("`([^`]+)`", row)
        found.add(first)
        for other in others:
            ends = [name for name in metrics if other.strip("_") in name]
            assert ends, other
            found |= set(ends)
    assert found <= metrics
    assert len(found) > 15


def test_the_checks_of_the_document_can_be_asked_for(host: MemoryHost) -> None:
    text = (DOCS.parent / "monitoring.md").read_text()
    lines = re.findall(r"^    istio-hostagent status --check (.+)$", text, re.MULTILINE)
    assert len(lines) == 5
    host.join()
    found = published.Found(host.published.state, "")
    for line in lines:
        level, said = check.judge(found, check.parse(line.split()), host.clock.now())
        # A certificate of an hour is all that this host's CA gives.
        expected = check.Level.CRITICAL if "cert=" in line else check.Level.OK
        assert level is expected, said
