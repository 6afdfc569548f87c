"""Wait until this host is in the mesh: redirection proven, certificate held, proxy ready.

Exit status: 0 in the mesh, 75 if that did not happen in time or no agent runs here.
"""

from ..errors import AgentUnreachable
from . import answer
from .options import Option, Values

OPTIONS = (Option("timeout", "give up then (default 60)", 60.0, "SECONDS"),)


def execute(values: Values) -> int:
    """Wait, then print the one line of the report."""
    found = answer.ask("wait", timeout_s=values["timeout"], is_patient=True)
    if found is None:
        raise AgentUnreachable(answer.demand("status", timeout_s=5.0)["status"]["summary"])
    print(found["status"]["summary"])
    return 0
