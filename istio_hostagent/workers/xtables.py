"""Change the legacy tables of one family.

In: {"family": "iptables-legacy" or "ip6tables-legacy", "steps": [table, ...]}, each table as
`redirect.xtables.to_json` gives it, and perhaps "lock_s". Out: {}, or {"error": {"code",
"message", "hint"}}; then the tables before the one that it names are changed. A process of its own
for each family, since the library works for one alone.
"""

import json
import sys
from typing import Any

from ..errors import HostAgentError
from ..host import garbage, xtlibrary, xtlock
from ..redirect import xtables


def main() -> None:
    """Answer one request."""
    # What the library makes of a rule refers to itself: of ten thousand it would be 350 MB.
    garbage.collect_after_all()
    request = json.load(sys.stdin)
    answer: dict[str, Any] = {}
    try:
        steps = tuple(map(xtables.from_json, request["steps"]))
        lock_s = request.get("lock_s", xtlock.TIME_S)
        xtlibrary.install(xtables.Family(request["family"]), steps, lock_s=lock_s)
    except HostAgentError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
