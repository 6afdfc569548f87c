"""Read our tables with another decoder than the one that wrote them.

In: {"addresses": [address/length, ...]}: those on `lo` to look for. Out: {"observed": ...} in the
form of `redirect.exchange`, or {"error": {"code", "message", "hint"}}. Not here: comparing.
"""

import json
import sys
from typing import Any

from ..errors import HostAgentError
from ..host import garbage, secondread
from ..redirect import exchange, model


def main() -> None:
    """Answer one request."""
    garbage.keep_all()  # the library, which need not be looked through with each collection
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        addresses = request.get("addresses", (model.PASSTHROUGH_ADDRESS,))
        answer = {"observed": exchange.to_json(secondread.observe(addresses))}
    except HostAgentError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
