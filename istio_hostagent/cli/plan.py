"""Show what apply would change, as a diff; change nothing.

Lines with + would come, lines with - would go. Nothing is printed when nothing differs.
"""

import json
import os

from . import answer
from .options import Option, Values

OPTIONS = (Option("json", "for programs"),)


def execute(values: Values) -> int:
    """Print the lines."""
    asked = answer.ask("plan")
    lines = asked["lines"] if asked is not None else answer.alone("plan", os.environ)
    if values["json"]:
        print(json.dumps({"version": 1, "lines": list(lines)}, indent=1))
    else:
        for line in lines:
            print(line)
    return 0
