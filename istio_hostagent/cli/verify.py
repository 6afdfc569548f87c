"""Read the rules back with two independent decoders and prove them with packets.

No packet leaves this host and none reaches an application. Exit status: 0 in place and proven, 1
if something differs (what and where is printed), if no packet could show that anything is
captured, or if no proxy takes what is captured although an agent runs or this host has joined,
higher if it could not be found out.
"""

import json
import os
from typing import Any

from . import answer
from .options import Option, Values

OPTIONS = (
    Option("json", "for programs"),
    Option("verbose", "list every expectation that was met"),
)


def execute(values: Values) -> int:
    """Print what was found."""
    asked = answer.ask("verify")
    result = asked["verification"] if asked is not None else answer.alone("verify", os.environ)
    print(json.dumps(result, indent=1) if values["json"] else _render(result, values["verbose"]))
    return 0 if result["in_place"] else 1


def _render(result: dict[str, Any], is_verbose: bool) -> str:
    lines = [f"differs: {line}" for line in result["differences"]]
    lines += [f"differs (second reader): {line}" for line in result["second_reader"]]
    lines += [f"broken: {line}" for line in result["broken"]]
    lines += [f"not testable: {line}" for line in result["not_testable"]]
    proxy = result.get("proxy", {})  # an agent of an earlier version says nothing of it
    if proxy.get("last_error"):
        prefix = "no proxy" if proxy["required"] else "note: no proxy"
        lines.append(f"{prefix}: {proxy['last_error']}")
    if left := result.get("left_by_istio"):
        lines.append(f"note: {left}")
    if is_verbose:
        lines += [f"met: {line}" for line in result["kept"]]
    met = len(result["kept"])
    if result["in_place"] and result.get("redirect") == "none":
        lines.append(
            "in place: nothing is redirected, no rule of ours is there"
            " (ISTIO_HOSTAGENT_REDIRECT=none)"
        )
    elif result["in_place"]:
        lines.append(
            f"in place: read back equal by two decoders, {met} expectations met by packets"
        )
    elif result.get("untested"):
        lines.append("not shown: none of our packets could be captured from here")
    else:
        lines.append("not in place")
    return "\n".join(lines)
