"""Take our rules out of this network namespace, and the marks that they were there.

Refused while an agent runs here: `systemctl stop istio-hostagent` takes the host out of the mesh.
"""

import os

from ..agent.oneshot import clean
from . import answer
from .options import Option, Values

OPTIONS = (Option("quiet", "print nothing on success"),)


def execute(values: Values) -> int:
    """Clean, and print what went."""
    answer.ask("clean")
    lines = clean.perform(os.environ)
    if not values["quiet"]:
        print("\n".join(lines) or "nothing to do: no rules of ours")
    return 0
