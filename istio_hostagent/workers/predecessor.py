"""Take over from the service of another Istio agent: stop it, or start it again.

Between its end and the start of ours new connections are held; so is, as long as it runs behind
our rules, what these lead to a port at which it does not listen.

In: {"act": "prepare" | "take_over" | "let_in" | "give_back", "units": [...], "ports": [where
captured connections arrive; second, those that come to this host], "mark": number or null,
"drain_s": seconds}. Out: {"held_s": how long new connections were held until now, "is_held":
whether some are still, "error": {"code", "message", "hint"} or null}.
"""

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..errors import ChildFailed, HostAgentError
from ..host import connectionhold, controlgroups, predecessor, sockdiag, unitcontrol

# So long before the end of its drain time nothing new comes to it, so that it ends with nothing
# under way; then it is ended.
QUIET_S = 1.0
# One that ends at once cuts off what is under way: as long as that becomes less it is waited for.
LONGEST_QUIET_S = 4.0
END_S = 15.0
# systemd unloads a unit that has ended, and that nobody refers to, at once.
UNLOADED_S = 1.0
# One that is started serves within two or three seconds.
RETURN_S = 20.0


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    answer: dict[str, Any] = {"held_s": 0.0, "is_held": False, "error": None}
    try:
        answer["held_s"] = _ACTS[request["act"]](request)
    except HostAgentError as error:
        answer["error"] = {"code": error.code, "message": error.message, "hint": error.hint}
    answer["is_held"] = predecessor.is_recorded()
    json.dump(answer, sys.stdout)


def _prepare(request: Any) -> float:
    """Nothing is refused at a port that only our rules know of, once they are in."""
    units = request["units"]
    unitcontrol.refuse_ours(units)
    unserved = _find_unserved(request["ports"])
    # Before the name could become one of ours: by then it would be ours that is started again.
    predecessor.write_record(time.monotonic() if unserved else None, units)
    try:
        _hold(request, unserved)
    except HostAgentError:
        _open()
        raise
    return _held_s()


def _take_over(request: Any) -> float:
    units = request["units"]
    unitcontrol.refuse_ours(units)
    since, _ = predecessor.read_record()
    predecessor.write_record(since, units)
    _hold(request, _find_unserved(request["ports"]))
    # What gets SIGTERM as a whole ends at once; else its agent drains, and its proxy serves.
    if unitcontrol.show(units[0], "KillMode") == "mixed":
        unitcontrol.systemctl("stop", "--no-block", *units)
        time_s = max(0.0, request["drain_s"] - QUIET_S)
        unitcontrol.wait_until(lambda: not _find_running(units), time_s)
    _hold(request, request["ports"])
    predecessor.write_record(since if since is not None else time.monotonic(), units)
    unitcontrol.wait_until(_Rest(request).is_quiet, LONGEST_QUIET_S)
    unitcontrol.systemctl("stop", "--no-block", *units)
    if not unitcontrol.wait_until(lambda: _are_ended(units), QUIET_S):
        for unit in units:
            # Not what cleans up behind it.
            if unitcontrol.show(unit, "SubState") == "stop-sigterm":
                unitcontrol.systemctl("kill", "--signal=SIGKILL", unit)
    if not unitcontrol.wait_until(lambda: _are_ended(units), END_S):
        raise ChildFailed(units[0], "does not end")
    return _held_s()


def _let_in(request: Any) -> float:
    units = request["units"]
    connectionhold.let_in()
    held_s = _held_s()
    if _find_running(units):
        predecessor.forget()
        return held_s
    # At a reload systemd gives a unit the state of each that has become a name of it, in no order:
    # while one of theirs is loaded, ours would be lost as often as not, and its socket with it.
    for unit in units:
        with contextlib.suppress(ChildFailed):
            unitcontrol.systemctl("reset-failed", "--", unit)
    if unitcontrol.wait_until(lambda: not unitcontrol.find_loaded(units), UNLOADED_S):
        predecessor.forget()
        # Its name is ours now.
        unitcontrol.systemctl("daemon-reload")
        return held_s
    loaded = unitcontrol.find_loaded(units)
    predecessor.leave_names(loaded)
    predecessor.forget()
    raise ChildFailed(
        " and ".join(loaded),
        "stays a name of its own until the next boot: other units refer to it",
    )


def _give_back(request: Any) -> float:
    units = request["units"]
    if not predecessor.is_recorded():
        # Connections were let in to ours, and the names are ours since then.
        predecessor.write_record(None, units)
        unitcontrol.systemctl("daemon-reload")
    is_partly_held = False
    try:
        unitcontrol.refuse_ours(units)
        _hold(request, request["ports"])
        unitcontrol.systemctl("restart", "--no-block", *units)
        if not unitcontrol.wait_until(lambda: _is_served(request["ports"]), RETURN_S):
            raise ChildFailed(units[0], "was started again, and does not serve")
        if unserved := _find_unserved(request["ports"]):
            # Our rules lead there still; once they are out these are let in as well.
            _hold(request, unserved)
            is_partly_held = True
    finally:
        held_s = _held_s() if is_partly_held else _open()
    return held_s


_ACTS = {
    "prepare": _prepare,
    "take_over": _take_over,
    "let_in": _let_in,
    "give_back": _give_back,
}


def _hold(request: Any, held: Sequence[int]) -> None:
    """Hold what comes to these ports; what keeps its own is told by a mark, and goes inbound."""
    mark = request["mark"] if request["ports"][1] in held else None
    connectionhold.hold(request["ports"], held=held, mark=mark)


def _open() -> float:
    connectionhold.let_in()
    held_s = _held_s()
    predecessor.forget()
    return held_s


def _find_unserved(ports: Sequence[int]) -> list[int]:
    return [each for each in ports if not _is_served((each,))]


def _held_s() -> float:
    since, _ = predecessor.read_record()
    return max(0.0, time.monotonic() - since) if since is not None else 0.0


def _find_running(units: Sequence[str]) -> bool:
    found = predecessor.find_running(controlgroups.find_root())
    return any(unit in found for unit in units)


def _are_ended(units: Sequence[str]) -> bool:
    states = {unitcontrol.show(unit, "ActiveState") for unit in units}
    return states <= {"inactive", "failed"} and not _find_running(units)


class _Rest:
    """The connections that it still serves, while new ones are held."""

    def __init__(self, request: Any) -> None:
        self._units, self._ports = request["units"], request["ports"]
        self._least: int | None = None
        self._until = 0.0

    def is_quiet(self) -> bool:
        """Whether none is left, or for a while none has ended: those that stay are long."""
        if not _find_running(self._units):
            return True
        count = sum(len(sockdiag.find_connections(port)) for port in self._ports)
        if self._least is None or count < self._least:
            self._least, self._until = count, time.monotonic() + QUIET_S
        return not count or time.monotonic() >= self._until


def _is_served(ports: Sequence[int]) -> bool:
    """Whether anybody listens at one of them."""
    return any(each.is_listening for port in ports for each in sockdiag.find_on_port(port))


if __name__ == "__main__":
    main()
