"""Take our rules out of this network namespace, and the marks that they were there.

Refused while an agent runs here: `systemctl stop istio-hostagent` takes the host out of the mesh.
"""

import argparse
import os

from ..agent import oneshot
from . import answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `clean`."""
    parser.add_argument("--quiet", action="store_true", help="print nothing on success")


def execute(arguments: argparse.Namespace) -> int:
    """Clean, and print what went."""
    answer.ask("clean")
    lines = oneshot.clean(os.environ)
    if not arguments.quiet:
        print("\n".join(lines) if lines else "nothing to do: no rules of ours")
    return 0
