"""Say rules of other people's firewalls that let ports in again, for captured connections.

In: {"at", "captured": [[first, last], ...], "passages": [...]}: the proxy's port, the captured
ports, and the rules that let them in, each with the fields of `redirect.firewall.Passage`. Out:
{"opened": [place, ...], "refused": [reason, ...], "has_changed", "error": {"code", "message",
"hint"} or null}. What is in other places already is made right with it.
"""

import json
import sys
from typing import Any

from ..errors import HostAgentError
from ..host import firewalltools
from ..redirect import openings, ranges
from ..redirect.firewall import Passage


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer: dict[str, Any] = {"error": None}
    outcome = firewalltools.Outcome()
    try:
        captured = ranges.merge((first, last) for first, last in request["captured"])
        port = openings.Port(request["at"], captured)
        outcome = firewalltools.open_for(port, tuple(map(_passage, request["passages"])))
    except HostAgentError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    json.dump(answer | outcome._asdict(), sys.stdout)


def _passage(value: Any) -> Passage:
    jumps = tuple((chain, handle) for chain, handle in value["jumps"])
    return Passage(**{**value, "jumps": jumps})


if __name__ == "__main__":
    main()
