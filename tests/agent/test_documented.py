"""docs/json.md has every field of the report of `status`, and no other."""

import re
from pathlib import Path

from tests.agent.host import MemoryHost

DOCUMENT = Path(__file__).parents[2] / "docs" / "json.md"
OBJECTS = {"longest_turn_s"}  # named as a whole: what is in it has names of its own


def test_every_field_of_the_status_is_documented_once(host: MemoryHost) -> None:
    _, _, text = DOCUMENT.read_text().partition("## `istio-hostagent status --json`")
    documented = []
    for row in re.findall(r"^\| (`[^|]+`) \|", text.partition("\n## ")[0], re.MULTILINE):
        first, *others = re.findall("`([^`]+)`", row)
        documented += [first, *(first.rpartition(".")[0] + other for other in others)]
    host.start()
    report = host.status
    found = [
        f"{name}.{field}" if field else name
        for name, value in report.items()
        for field in (value if isinstance(value, dict) and name not in OBJECTS else [""])
        if field != "trouble"
    ]
    assert sorted(documented) == sorted(found)
