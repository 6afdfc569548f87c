"""Say whether this host is in the mesh, and if not the first thing that is missing.

Exit status: 0 in the mesh, 1 not, 75 if no agent runs in this network namespace.
"""

import argparse
import json

from . import answer, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `status`."""
    parser.add_argument("--json", action="store_true", help="the whole report, versioned")


def execute(arguments: argparse.Namespace) -> int:
    """Print the report."""
    status = answer.demand("status", timeout_s=10.0)["status"]
    print(json.dumps(status, indent=1) if arguments.json else report.render(status))
    return 0 if status["in_mesh"] else 1
