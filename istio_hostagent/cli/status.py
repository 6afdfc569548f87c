"""Say whether this host is in the mesh, and if not the first thing that is missing.

Exit status: 0 in the mesh, 1 not, 75 if no agent runs in this network namespace. Without an agent
it says whether rules wait for confirmation (apply --confirm-within).
"""

import importlib
import json
from typing import Any

from ..errors import AgentUnreachable
from . import answer, report
from .options import Option, Values

OPTIONS = (Option("json", "the whole report, versioned"),)


def execute(values: Values) -> int:
    """Print the report."""
    try:
        status = answer.demand("status", timeout_s=10.0)["status"]
    except AgentUnreachable as error:
        found = _look_for_unconfirmed()
        if not found:
            raise
        if values["json"]:
            print(json.dumps(_to_json(error, found), indent=1))
        else:
            print(report.render_unconfirmed(error.message, found))
        return error.exit_status
    print(json.dumps(status, indent=1) if values["json"] else report.render(status))
    return 0 if status["in_mesh"] else 1


def _look_for_unconfirmed() -> dict[str, Any]:
    """What waits here, or what became of the last rules that did; empty: nothing ever waited."""
    # An agent that runs or answers needs none of this.
    unconfirmed: Any = importlib.import_module("..host.unconfirmed", __package__)
    found: dict[str, Any] = unconfirmed.report()
    return found


def _to_json(error: AgentUnreachable, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "in_control": False,
        "in_mesh": False,
        "summary": error.message,
        "unconfirmed": found,
    }
