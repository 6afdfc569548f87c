"""Say whether this host is in the mesh, and if not the first thing that is missing.

Exit status: 0 in the mesh, 1 not, 75 if no agent runs in this network namespace.
"""

import json

from . import answer, report
from .options import Option, Values

OPTIONS = (Option("json", "the whole report, versioned"),)


def execute(values: Values) -> int:
    """Print the report."""
    status = answer.demand("status", timeout_s=10.0)["status"]
    print(json.dumps(status, indent=1) if values["json"] else report.render(status))
    return 0 if status["in_mesh"] else 1
