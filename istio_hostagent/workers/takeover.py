"""Find what Istio's scripts have left in one part of the packet filter, and take it out if asked.

In: {"part": "netlink" | "ip_tables" | "ip6_tables", "removes": bool, "is_replaced": bool}; it is
replaced: taken out only while rules of ours are there. Out: {"found": [{"rules", "author",
"place"}, ...], "left": [...], "error": {"code", "message", "hint"} or null}: what was there, what
still is, and why. A process for each part: python-iptables cannot do two in one.
"""

import json
import sys
from typing import Any

from ..errors import HostAgentError, KernelBusy
from ..host import glance, legacyremains, remains, tproxyremains
from ..redirect import takeover

Found = tuple[takeover.Remains, ...]


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    part = takeover.Part(request["part"])
    found: Found = ()
    left: Found = ()
    answer: dict[str, Any] = {"error": None}
    try:
        found = left = _find(part)
        if request["removes"] and found:
            try:
                _take_out(part, is_replaced=request["is_replaced"])
            finally:
                left = _find(part)
    except HostAgentError as error:
        answer = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    answer |= {"found": [each._asdict() for each in found]}
    answer |= {"left": [each._asdict() for each in left]}
    json.dump(answer, sys.stdout)


def _find(part: takeover.Part) -> Found:
    if part is takeover.Part.NETLINK:
        link = remains.connect()
        native = remains.find(link).remains if link is not None else ()
        return native + tproxyremains.find()
    return legacyremains.find(glance.LEGACY[part])


def _take_out(part: takeover.Part, *, is_replaced: bool) -> None:
    link = remains.connect()

    def may_go() -> bool:
        return not is_replaced or remains.is_ours_there(link)

    if part is not takeover.Part.NETLINK:
        legacyremains.take_out(glance.LEGACY[part], may_go)
        return
    if link is not None:
        remains.take_out(link, is_replaced=is_replaced)
    elif not may_go():
        raise KernelBusy(remains.NOT_REPLACED)
    tproxyremains.take_out()


if __name__ == "__main__":
    main()
