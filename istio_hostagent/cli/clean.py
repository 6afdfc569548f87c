"""Take our rules out of this network namespace, and the marks that they were there.

With --all what Istio's own scripts have left here goes as well: what is known by its shape to be
theirs, and nothing else. Refused while an agent runs here: `systemctl stop istio-hostagent` takes
the host out of the mesh.
"""

import os

from ..agent.oneshot import clean
from . import answer
from .options import Option, Values

OPTIONS = (
    Option("all", "take out what Istio's own scripts have left as well"),
    Option("quiet", "print nothing on success"),
)


def execute(values: Values) -> int:
    """Clean, and print what went."""
    answer.ask("clean")
    lines = clean.perform(os.environ, takes_all=values["all"])
    if not values["quiet"]:
        nothing = "of ours or of Istio's scripts" if values["all"] else "of ours"
        print("\n".join(lines) or f"nothing to do: no rules {nothing}")
    return 0
