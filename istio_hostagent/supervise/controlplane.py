"""Whether pilot-agent's Envoy has its control plane, from what it counts of its requests to it.

Envoy has one request open, a stream, to pilot-agent (cluster `xds-grpc` of Istio's bootstrap),
which passes it on to istiod. pilot-agent ends it where istiod cannot be reached, and lets it wait
without an answer while it tries to connect. The gauge `control_plane.connected_state` would not
tell: it counts a stream that waits, and Istio's bootstrap leaves it out.

Not here: asking (`liveness.Door`, `host.doors`), and the words for people.
Always: an answer is bytes that anybody may have sent; what is not as expected says nothing.
"""

import enum
import re
from typing import NamedTuple

# ^cluster\.xds-grpc;?\.upstream_rq_(active|completed|total)$ (newer releases of Istio name the
# cluster `xds-grpc;`), percent-encoded.
PATH = (
    "/stats?filter=%5Ecluster%5C.xds-grpc%3B%3F%5C.upstream_rq_%28active%7Ccompleted%7Ctotal%29%24"
)
# Headers and three lines are 361 bytes; whoever sends more is not understood.
MAX_ANSWER = 1024

# In one piece, or as the one chunk in which Envoy sends it.
_ANSWER = re.compile(
    rb"HTTP/1\.1 200 OK\r\n(?:[!-~][ -~]*\r\n){1,20}\r\n"
    rb"(?:[0-9a-f]{1,3}\r\n)?((?:cluster\.xds-grpc;?\.upstream_rq_[a-z]+: [0-9]{1,18}\n){3})"
    rb"(?:\r\n0\r\n\r\n)?"
)
_COUNTER = re.compile(rb"upstream_rq_([a-z]+): ([0-9]+)\n")

# istiod ends each stream after half an hour, and the next one is there within a second.
MISSED_S = 5.0


class State(enum.Enum):
    """What is known."""

    UNKNOWN = "unknown"
    CONNECTED = "connected"
    AWAY = "away"


class ControlPlane(NamedTuple):
    """What the answers until now say.

    `missed`: when the first one of those in a row was asked for that say no, if the last one does:
    on the clock that never jumps, and in unix seconds.
    """

    state: State = State.UNKNOWN
    missed: tuple[float, float] | None = None

    @property
    def away_since(self) -> float | None:
        """Unix seconds; None while it is not away."""
        return self.missed[1] if self.missed and self.state is State.AWAY else None


def observe(
    value: ControlPlane, is_connected: bool | None, monotonic: float, wall: float
) -> ControlPlane:
    """Take one answer, as from `parse_answer`, and when it was asked for, on both clocks.

    Away is what has been missed for MISSED_S.
    """
    if is_connected is None:
        return ControlPlane()
    if is_connected:
        return ControlPlane(State.CONNECTED)
    missed = value.missed or (monotonic, wall)
    is_over = monotonic - missed[0] >= MISSED_S
    return ControlPlane(State.AWAY if is_over else value.state, missed)


def parse_answer(answer: bytes) -> bool | None:
    """Whether Envoy has a stream that the control plane has answered; None: that is not said.

    A request is completed for Envoy once its response has headers; pilot-agent sends them with
    the first message from istiod, or when it gives up, which ends the request.
    """
    found = _ANSWER.fullmatch(answer)
    if found is None:
        return None
    counters = {name: int(number) for name, number in _COUNTER.findall(found[1])}
    if counters.keys() != {b"active", b"completed", b"total"}:
        return None
    if counters[b"completed"] > counters[b"total"]:
        return None  # completed without having been sent: then the numbers do not tell
    return counters[b"active"] > 0 and counters[b"completed"] == counters[b"total"]
