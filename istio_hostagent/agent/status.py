"""The report behind `istio-hostagent status`: plain JSON values, whose shape is in docs/json.md.

Fields are added, never renamed; what was called "trouble" before is there by both names.
"""

import os
from typing import Any

from ..config import encryption, model
from . import components, configuration
from . import proxy as proxies

VERSION = 1


def report(parts: components.Components) -> dict[str, Any]:
    """Everything a person or a program may want to know, as plain JSON values."""
    words, life, now = parts.report(), parts.life, parts.now()
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "in_control": words.is_in_control or words.is_in_mesh,
        "in_mesh": words.is_in_mesh,
        "joined": life.is_joined,
        "phase": life.phase.value,
        "summary": words.summary,
        **{name: _part(each.status(life, now)) for name, each in parts.reporting.items()},
        "control_plane": _control_plane(parts.proxy),
        "encryption": _encryption(parts),
        "watching": _watching(parts),
        "stuck": [*parts.proxy.child.stuck, *parts.work.stuck],
        "longest_turn_s": {cause: round(spent, 4) for cause, spent in parts.turns.items()},
    }


def _encryption(parts: components.Components) -> str:
    in_force = parts.life.in_force
    if in_force is None:
        return ""
    return encryption.describe(configuration.config_of(in_force), parts.proxy.kind)


def _part(status: dict[str, Any]) -> dict[str, Any]:
    former = {"trouble": status["last_error"]} if "last_error" in status else {}
    return status | former


def _watching(parts: components.Components) -> dict[str, Any]:
    last_error = "; ".join(filter(None, (parts.watcher.last_error, parts.lookout.last_error)))
    return {"state": "late" if last_error else "complete", "last_error": last_error}


def _control_plane(part: proxies.ProxyPart) -> dict[str, Any]:
    has_one = part.kind is model.ProxyKind.PILOT_AGENT
    return {
        "state": part.control_plane.state.value if has_one else "none",
        "away_since": part.control_plane.away_since,
    }
