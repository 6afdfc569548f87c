"""The report behind `istio-hostagent status`: plain JSON values, whose shape is in docs/json.md.

Fields are added, never renamed; what was called "trouble" before is there by both names.
"""

import os
from collections.abc import Iterator
from typing import Any

from .. import __version__
from ..config import encryption
from . import causes, components, configuration, fields
from . import proxy as proxies

VERSION = 1


def report(parts: components.Components) -> dict[str, Any]:
    """Everything a person or a program may want to know, as plain JSON values."""
    words, life, now = parts.report(), parts.life, parts.now()
    captured = parts.count_captured()
    return {
        "version": VERSION,
        "product": __version__,
        "host": parts.machine.facts.hostname,
        "pid": os.getpid(),
        "started": parts.started,
        "in_control": words.is_in_control or words.is_in_mesh,
        "in_mesh": words.is_in_mesh,
        "joined": life.is_joined,
        "phase": life.phase.value,
        "since": parts.since,
        "summary": words.summary,
        "causes": [each._asdict() for each in find_causes(parts)],
        "last_events": [each._asdict() for each in parts.recent.last],
        **{name: _part(each.status(life, now)) for name, each in parts.reporting.items()},
        "captured_connections": captured._asdict() if captured is not None else None,
        "control_plane": _control_plane(parts.proxy),
        "encryption": _encryption(parts),
        "watching": _watching(parts),
        "stuck": [*parts.proxy.child.stuck, *parts.work.stuck],
        "longest_turn_s": {cause: round(spent, 4) for cause, spent in parts.turns.items()},
    }


def find_causes(parts: components.Components) -> Iterator[causes.Cause]:
    """What keeps this host out of the mesh, and then what else is wrong."""
    yield from parts.obstacles()
    away = parts.proxy.control_plane.away_since
    if away is not None:
        text = f"no connection since {fields.moment(away)}"
        yield causes.Cause("control_plane", "control-plane-away", text)
    for name, code, text in (
        ("outputs", "not-written", parts.outputs.last_error),
        ("renew_hook", "hook-failed", parts.hook.last_error),
        ("registration", parts.registration.last_code, parts.registration.last_error),
        ("catalogue", parts.catalogue.last_code, parts.catalogue.last_error),
        ("watching", "not-watched", _watching(parts)["last_error"]),
        ("stuck", "stuck", "; ".join((*parts.proxy.child.stuck, *parts.work.stuck))),
    ):
        if text:
            yield causes.Cause(name, code, text)


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
    found = part.control_plane
    is_none = part.is_decided and not part.has_control_plane
    return {
        "state": "none" if is_none else found.state.value,
        "connected_since": found.connected_at,
        "away_since": found.away_since,
        "last_error": found.reason if found.away_since is not None else "",
        "rejected_updates": found.rejected,
        "rejected": [refusal._asdict() for refusal in part.child.refused],
    }
