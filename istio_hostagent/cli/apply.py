"""Install the rules of the configuration and read them back.

Needs no CA, no proxy and no running service; with an agent running it asks that one. Exit status
0 only when the rules are in and read back equal; otherwise nothing has changed.
"""

import argparse
import os

from ..agent import oneshot
from . import answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `apply`."""
    parser.add_argument("--quiet", action="store_true", help="print nothing on success")


def execute(arguments: argparse.Namespace) -> int:
    """Apply, and print the diff that was applied."""
    asked = answer.ask("apply")
    lines = asked["lines"] if asked is not None else oneshot.apply(os.environ)
    if not arguments.quiet:
        print("\n".join(lines) if lines else "nothing to do: the rules are as wanted")
    return 0
