"""Show what apply would change, as a diff; change nothing.

Lines with + would come, lines with - would go. Nothing is printed when nothing differs, but for
warnings: about the files, and where it is not known what Istio's own scripts have left.
"""

import json
import os
import sys

from . import answer
from .options import Option, Values

OPTIONS = (Option("json", "for programs"),)


def execute(values: Values) -> int:
    """Print the lines to stdout, warnings to stderr."""
    session = os.environ.get("SSH_CONNECTION", "")
    asked = answer.ask("plan", session=session, has_changes=values["json"])
    found = asked if asked is not None else answer.alone("plan", os.environ)
    lines, warnings = found["lines"], found.get("warnings", [])
    if values["json"]:
        # An agent of an earlier version gives lines alone.
        shown = {"lines": list(lines), "changes": list(found.get("changes", ()))}
        shown["taken_over"] = found.get("taken_over", [])
        print(json.dumps({"version": 1, **shown, "warnings": warnings}, indent=1))
    else:
        for line in lines:
            print(line)
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    return 0
