"""Wait until this host is in the mesh: redirection proven, certificate held, proxy ready.

Exit status: 0 in the mesh, 75 if that did not happen in time or no agent runs here.
"""

import argparse

from ..errors import AgentUnreachable
from . import answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wait`."""
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="give up then (default 60)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Wait, then print the one line of the report."""
    found = answer.ask("wait", timeout_s=arguments.timeout, is_patient=True)
    if found is None:
        raise AgentUnreachable(answer.demand("status", timeout_s=5.0)["status"]["summary"])
    print(found["status"]["summary"])
    return 0
