"""Show what apply would change, as a diff; change nothing.

Lines with + would come, lines with - would go. Nothing is printed when nothing differs.
"""

import argparse
import json
import os

from ..agent import oneshot
from . import answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `plan`."""
    parser.add_argument("--json", action="store_true", help="for programs")


def execute(arguments: argparse.Namespace) -> int:
    """Print the lines."""
    asked = answer.ask("plan")
    lines = asked["lines"] if asked is not None else oneshot.plan(os.environ)
    if arguments.json:
        print(json.dumps({"version": 1, "lines": list(lines)}, indent=1))
    else:
        for line in lines:
            print(line)
    return 0
