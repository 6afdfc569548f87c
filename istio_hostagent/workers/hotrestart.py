"""What one Envoy that takes over from another (hot restart) needs done as istio-proxy, who alone
may reach their admin interfaces and the memory that they have in common.

In:  {"task": "await", "socket": of its admin interface, "epoch": N, "within_s": seconds}, to wait
      until the Envoy of this epoch serves instead of the one before; or
     {"task": "compare", "socket", "program": path}, for the versions of the hot restart of the
      Envoy that runs and of a program; or
     {"task": "unmark", "base_id": N}, after one that was to take over has ended (`sharedmemory`).
Out: {"is_ready": bool} or {"running", "offered"} or {}; or {"error": {"code", "message", "hint"}}.
Source: Envoy's admin interface, /stats and /server_info.
"""

import http.client
import json
import re
import sys
import time
from typing import Any

from ..errors import AuthorityUnavailable, HostAgentError, HostUnsupported
from ..host import adminrequest, programs, sharedmemory

TIMEOUT_S = 3.0
PROGRAM_TIME_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.25
MAX_BYTES = 1 << 20
MAX_VERSION, MAX_WORDS = 40, 200
# Its listeners work, and the one before has been told to close its own; and who answers.
_STARTED, _EPOCH = "listener_manager.workers_started", "server.hot_restart_epoch"
_STATS = f"/stats?filter=%5E({_STARTED}%7C{_EPOCH})%24"
# It is said on standard error. The text is fixed; the program comes as an argument.
_ASK_PROGRAM = ("/bin/sh", "-c", 'exec "$0" --hot-restart-version 2>&1')


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        answer = _TASKS[request["task"]](request)
    except HostAgentError as error:
        answer = _failed(error.code, error.message)
    except adminrequest.Failure as error:
        answer = _failed(AuthorityUnavailable.code, adminrequest.explain(error))
    json.dump(answer, sys.stdout)


def _failed(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": ""}}


def wait(request: dict[str, Any]) -> dict[str, Any]:
    """Ask until it serves or the time is over; one that cannot be asked may come yet."""
    until, pause_s = time.monotonic() + request["within_s"], FIRST_PAUSE_S
    while not serves(request["socket"], request["epoch"]):
        if time.monotonic() >= until:
            return {"is_ready": False}
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, LONGEST_PAUSE_S)
    return {"is_ready": True}


def serves(path: str, epoch: int) -> bool:
    """Whether the Envoy at this admin interface is of this epoch, and serves."""
    try:
        lines = ask(path, _STATS).decode(errors="replace").splitlines()
    except adminrequest.Failure:
        return False
    return {f"{_STARTED}: 1", f"{_EPOCH}: {epoch}"} <= set(lines)


def compare(request: dict[str, Any]) -> dict[str, Any]:
    """Raises HostUnsupported where the program does not say; OSError, ValueError."""
    info: Any = json.loads(ask(request["socket"], "/server_info"))
    running = str(info.get("hot_restart_version", "")) if isinstance(info, dict) else ""
    offered = programs.run(
        (*_ASK_PROGRAM, request["program"]), timeout_s=PROGRAM_TIME_S, failed=HostUnsupported
    )
    versions = re.findall(r"[0-9]+\.[0-9]+", offered.strip()[-MAX_VERSION:])
    if not versions:
        line = "".join(each if each.isprintable() else "?" for each in offered[-MAX_WORDS:])
        raise HostUnsupported(f"{request['program']} does not say its hot restart, but: {line}")
    # Others may write there, too.
    return {"running": running, "offered": versions[-1]}


def unmark(request: dict[str, Any]) -> dict[str, Any]:
    """Raises HostUnsupported where its form is not known; OSError."""
    if not sharedmemory.unmark(request["base_id"]):
        raise HostUnsupported("the memory that Envoys have in common has another form")
    return {}


_TASKS = {"await": wait, "compare": compare, "unmark": unmark}


def ask(path: str, target: str) -> bytes:
    """What an admin interface answers; raises one of `adminrequest.Failure`."""
    status, data = adminrequest.ask(path, 0, "GET", target, timeout_s=TIMEOUT_S, most=MAX_BYTES)
    if status != http.client.OK or len(data) > MAX_BYTES:
        raise ValueError(f"its admin interface gives status {status}, {len(data)} bytes")
    return data


if __name__ == "__main__":
    main()
