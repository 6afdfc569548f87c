"""Make the running agent read its files again, and wait until it has taken or refused them.

Exit status: 0 taken (or nothing differs), 78 the files have problems and the state before stays.
"""

import argparse

from . import answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`reload` has no options."""


def execute(_arguments: argparse.Namespace) -> int:
    """Ask and wait."""
    print(answer.demand("reload")["summary"])
    return 0
