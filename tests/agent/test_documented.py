"""docs/json.md has every field of what `status` and `plan` print, and no other."""

import json
import re
from pathlib import Path

import pytest

from istio_hostagent.agent import causes, recent
from istio_hostagent.agent.examination import finding
from istio_hostagent.cli import answer, plan
from tests.agent.host import MemoryHost

DOCUMENT = Path(__file__).parents[2] / "docs" / "json.md"
OBJECTS = {"longest_turn_s"}  # named as a whole: what is in it has names of its own


def documented_fields(what: str) -> list[str]:
    """Every field of its table; one that begins with a dot belongs to the object before it."""
    _, _, text = DOCUMENT.read_text().partition(f"## `istio-hostagent {what}, version 1\n")
    documented = []
    for row in re.findall(r"^\| (`[^|]+`) \|", text.partition("\n## ")[0], re.MULTILINE):
        first, *others = re.findall("`([^`]+)`", row)
        head = first.rpartition(".")[0]
        documented += [first, *(head + other if other[0] == "." else other for other in others)]
    return documented


def test_every_field_of_the_status_is_documented_once(host: MemoryHost) -> None:
    documented = documented_fields("status --json`")
    host.start()
    report = host.status
    found = [
        f"{name}.{field}" if field else name
        for name, value in report.items()
        for field in (value if isinstance(value, dict) and name not in OBJECTS else [""])
        if field != "trouble"
    ]
    parts = [
        f"certificate.credentials[].{field}" for field in report["certificate"]["credentials"][0]
    ]
    parts += [f"causes[].{field}" for field in (*causes.Cause._fields, "hint")]
    parts += [f"last_events[].{field}" for field in recent.Happening._fields]
    assert sorted(documented) == sorted(found + parts)


def test_every_field_of_the_plan_is_documented_once(
    host: MemoryHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the running agent answers, as the command line prints it."""
    host.start()
    monkeypatch.setattr(answer, "ask", lambda verb, **fields: host.answer(verb, **fields))
    assert plan.execute({"json": True}) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {each["kind"] for each in shown["changes"]} > {"table", "chain", "set"}
    fields = {f"changes[].{field}" for each in shown["changes"] for field in each}
    assert sorted(documented_fields("plan --json`")) == sorted({*shown} | fields)


def test_what_the_agent_publishes_is_documented(host: MemoryHost) -> None:
    host.join()
    state = host.published.state
    assert state is not None
    _, _, text = DOCUMENT.read_text().partition("of users who are not root\n")
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", text.partition("\n## ")[0], re.MULTILINE)
    documented = {head.strip("`"): set(re.findall("`([a-z_]+)`", fields)) for head, fields in rows}
    whole = {"control_plane", *documented["at the top"]} - {"causes"}
    for name in whole:
        assert name in state
    for name in state.keys() - whole - {"causes"}:
        assert documented[name] == state[name].keys(), name


def test_every_field_of_doctor_is_documented_once() -> None:
    shown = finding.Finding("token", finding.Level.OK, "readable").to_json()
    fields = {f"findings[].{field}" for field in shown}
    assert sorted(documented_fields("doctor --json`")) == sorted(
        {"version", "fine"} | fields | {"findings"}
    )
