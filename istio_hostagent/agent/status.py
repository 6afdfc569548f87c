"""The report behind `istio-hostagent status`: a documented, versioned JSON shape.

Version 1: {"version", "pid", "in_control", "in_mesh", "joined", "summary",
"configuration": {"state": "waiting|invalid|kept|accepted", "files", "problems", "warnings"},
"redirection": {"state": "absent|installed|proven in part|proven", "trouble", "looks", "repaired",
"findings"},
"certificate": {"state": "none|held|expired", "identity", "serial", "not_before", "not_after",
"next_attempt", "failures", "trouble"}, "proxy": {"kind", "binary", "state", "bootstrap", "pid",
"starts", "trouble"}, "control_plane": {"state": "none|unknown|connected|away", "away_since"},
"stuck": [...], "longest_turn_s": {event: seconds}}. Instants are unix seconds or null. Fields are
added, never renamed.
"""

import os
from typing import Any

from ..config import model
from ..lifecycle.phase import Phase
from ..redirect import promises
from ..supervise import validation
from . import certificate as certificates
from . import components
from . import proxy as proxies

VERSION = 1


def report(parts: components.Components) -> dict[str, Any]:
    """Everything a person or a program may want to know, as plain JSON values."""
    words = parts.report()
    part = parts.redirection
    proxy = parts.proxy
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "in_control": words.is_in_control or words.is_in_mesh,
        "in_mesh": words.is_in_mesh,
        "joined": parts.life.is_joined,
        "phase": parts.life.phase.value,
        "summary": words.summary,
        "configuration": _configuration(parts),
        "redirection": {
            "state": part.value.rules.value,
            "trouble": part.trouble,
            "looks": part.looks,
            "repaired": part.repaired,
            "findings": [
                str(finding)
                for finding in part.findings
                if finding.state is not promises.State.KEPT
            ],
        },
        "certificate": certificate(parts.certificate, parts.clock.now()),
        "proxy": {
            "kind": proxy.kind.value,
            "binary": proxy.binary,
            "state": proxy.child.state.value,
            "bootstrap": _bootstrap(proxy.validation.check),
            "pid": proxy.child.pid,
            "starts": proxy.child.starts,
            "trouble": proxy.trouble,
        },
        "control_plane": _control_plane(proxy),
        "stuck": [*proxy.child.stuck, *parts.work.stuck],
        "longest_turn_s": {cause: round(spent, 4) for cause, spent in parts.turns.items()},
    }


def _control_plane(part: proxies.ProxyPart) -> dict[str, Any]:
    has_one = part.kind is model.ProxyKind.PILOT_AGENT
    return {
        "state": part.control_plane.state.value if has_one else "none",
        "away_since": part.control_plane.away_since,
    }


def _bootstrap(check: validation.Check) -> str:
    """What is known of it; while it is being validated that is nothing."""
    shown = validation.Check.UNKNOWN if check is validation.Check.RUNNING else check
    return str(shown.value)


def _configuration(parts: components.Components) -> dict[str, Any]:
    loaded, life = parts.configuration.judged(parts.life), parts.life
    state = "accepted" if loaded.config is not None else "waiting"
    if loaded.is_kept:
        state = "kept"
    elif loaded.problems:
        state = "invalid"
    elif life.rollout.candidate is not None or life.phase is Phase.TRYING:
        state = "trial"
    return {
        "state": state,
        "files": list(parts.configuration.sources.paths),
        "problems": [str(problem) for problem in loaded.problems],
        "warnings": [str(warning) for warning in loaded.warnings],
    }


def certificate(part: certificates.CertificatePart, now: float) -> dict[str, Any]:
    """The certificate's part of the report; `now` in unix seconds."""
    value = part.value
    held = value.held
    state = "none" if held is None else "held" if value.is_held(now) else "expired"
    return {
        "state": state,
        "identity": held.identity if held else "",
        "serial": held.serial if held else "",
        "not_before": held.not_before if held else None,
        "not_after": held.not_after if held else None,
        "next_attempt": value.next_at or None,
        "failures": value.failures,
        "obtained": part.obtained,
        "trouble": part.trouble,
    }
