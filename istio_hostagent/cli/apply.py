"""Install the rules of the configuration and read them back.

Needs no CA, no proxy and no running service; with an agent running it asks that one. Exit status
0 only when the rules are in and read back equal; otherwise nothing has changed.
"""

import os

from . import answer
from .options import Option, Values

OPTIONS = (Option("quiet", "print nothing on success"),)


def execute(values: Values) -> int:
    """Apply, and print the diff that was applied."""
    asked = answer.ask("apply")
    lines = asked["lines"] if asked is not None else answer.alone("apply", os.environ)
    if not values["quiet"]:
        print("\n".join(lines) or "nothing to do: the rules are as desired")
    return 0
