"""Names and forms of what is logged, in one place to be searched for."""

from collections.abc import Sequence
from typing import Any

from ..host import clock

NAMES = (
    "ATTEMPT",
    "CA_PROTOCOL",
    "CODE",
    "COUNT",
    "CULPRIT",
    "DETAIL",
    "EPOCH",
    "FAILURES",
    "FILE",
    "HELD_UNTIL",
    "HINT",
    "IDENTITY",
    "LINE",
    "NEXT_TRY",
    "PROXY",
    "PROXY_PID",
    "PROXY_UNIT",
    "SECONDS",
    "SERIAL",
    "VIA",
)


def of(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` argument of a logging call; only names of `NAMES`, empty values left out."""
    unknown = values.keys() - set(NAMES)
    if unknown:
        raise KeyError(f"not a field name: {', '.join(sorted(unknown))}")
    return {"fields": {name: value for name, value in values.items() if value not in ("", None)}}


def moment(unix_s: float) -> str:
    """An instant as people and programs read it: UTC, ISO 8601, whole seconds."""
    return clock.utc_text(unix_s, "%Y-%m-%dT%H:%M:%SZ")


def name_ports(numbers: Sequence[int]) -> str:
    """One port or several in a sentence."""
    return f"port{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
