"""Whether Envoy has its control plane, from what it counts of its requests to it.

Envoy has one request open, a stream: to istiod, or to pilot-agent, which passes it on (cluster
`xds-grpc` of Istio's bootstrap). pilot-agent ends it where istiod cannot be reached, and lets it
wait without an answer while it tries to connect. The gauge `control_plane.connected_state` would
not tell: it counts a stream that waits, and Istio's bootstrap leaves it out.

Where Envoy itself connects, its counters also say what keeps it from that, and how often it has
refused what it was sent.

Not here: asking (`liveness.Door`, `host.doors`), and the words for people.
Always: an answer is bytes that anybody may have sent; what is not as expected says nothing.
"""

import enum
import re
from collections.abc import Mapping
from typing import NamedTuple

# ^cluster\.xds-grpc;?\.upstream_rq_(active|completed|total)$ (newer releases of Istio name the
# cluster `xds-grpc;`), percent-encoded.
PATH = (
    "/stats?filter=%5Ecluster%5C.xds-grpc%3B%3F%5C.upstream_rq_%28active%7Ccompleted%7Ctotal%29%24"
)
# Without pilot-agent: where Envoy answers (`truth`), and what its admin interface is asked then:
# ^(cluster\.xds-grpc|cluster_manager|listener_manager)\.(…)$, percent-encoded.
DOOR = "/healthz/control-plane"
_NAMES = (
    *("upstream_rq_active", "upstream_rq_completed", "upstream_rq_total"),
    *("upstream_cx_connect_fail", "upstream_cx_connect_timeout", "update_failure"),
    *("ssl%5C.connection_error", "ssl%5C.fail_verify_error", "ssl%5C.fail_verify_san"),
    *("cds%5C.update_success", "lds%5C.update_success", "warming_clusters"),
    *("cds%5C.update_rejected", "lds%5C.update_rejected"),
)
COUNTERS = (
    "/stats?filter=%5E%28cluster%5C.xds-grpc%7Ccluster_manager%7Clistener_manager%29%5C.%28"
    f"{'%7C'.join(_NAMES)}%29%24"
)
# Headers and all lines are less than 1300 bytes; whoever sends more is not understood.
MAX_ANSWER = 2048

# In one piece, or as the one chunk in which Envoy sends it.
_ANSWER = re.compile(
    rb"HTTP/1\.1 200 OK\r\n(?:[!-~][ -~]*\r\n){1,20}\r\n"
    rb"(?:[0-9a-f]{1,3}\r\n)?((?:[a-z][a-z_.;-]{1,60}: [0-9]{1,18}\n){3,20})"
    rb"(?:\r\n0\r\n\r\n)?"
)
_COUNTER = re.compile(
    rb"(cluster\.xds-grpc;?|cluster_manager|listener_manager)\.([a-z_.]+): ([0-9]+)\n"
)
_STREAM = ("upstream_rq_active", "upstream_rq_completed", "upstream_rq_total")

# istiod ends each stream after half an hour, and the next one is there within a second.
MISSED_S = 5.0


class State(enum.Enum):
    """What is known."""

    UNKNOWN = "unknown"
    CONNECTED = "connected"
    AWAY = "away"


class Answer(NamedTuple):
    """What Envoy said: whether it has a stream that was answered, and all of its counters."""

    is_connected: bool
    counters: Mapping[str, int] = {}

    @property
    def rejected(self) -> int:
        """How often Envoy has refused clusters or listeners."""
        return sum(self.counters.get(name, 0) for name in REJECTED)


REJECTED = ("cds.update_rejected", "lds.update_rejected")

# What keeps Envoy from istiod, the most telling first: a connection that fails in TLS has failed.
_REASONS = {
    "ssl.fail_verify_san": "its certificate is for another name",
    "ssl.fail_verify_error": "its certificate does not lead to the roots of this mesh",
    "ssl.connection_error": "the TLS handshake fails",
    "update_failure": "its name is not resolved",
    "upstream_cx_connect_timeout": "nobody answers there",
    "upstream_cx_connect_fail": "nobody listens there, or there is no way to it",
}


class ControlPlane(NamedTuple):
    """What the answers until now say.

    `missed`: when the first one of those in a row was asked for that say no, if the last one does:
    on the clock that never jumps, and in unix seconds. `connected_at`: unix seconds of the first
    in a row that says yes, unless it is away. `reason`: what keeps Envoy from it, if that is
    known. `rejected`: how often Envoy has refused what it was sent.
    """

    state: State = State.UNKNOWN
    missed: tuple[float, float] | None = None
    connected_at: float | None = None
    reason: str = ""
    rejected: int = 0
    last: Answer | None = None

    @property
    def away_since(self) -> float | None:
        """Unix seconds; None while it is not away."""
        return self.missed[1] if self.missed and self.state is State.AWAY else None


def observe(
    value: ControlPlane, answer: Answer | None, monotonic: float, wall: float
) -> ControlPlane:
    """Take one answer, as from `parse_answer`, and when it was asked for, on both clocks.

    Away is what has been missed for MISSED_S.
    """
    if answer is None:
        return ControlPlane()
    found = ControlPlane(rejected=answer.rejected, last=answer)
    if answer.is_connected:
        first = value.connected_at if value.connected_at is not None else wall
        return found._replace(state=State.CONNECTED, connected_at=first)
    missed = value.missed or (monotonic, wall)
    is_over = monotonic - missed[0] >= MISSED_S
    reason = _find_reason(value.last, answer) or value.reason
    state = State.AWAY if is_over else value.state
    since = None if is_over else value.connected_at
    return found._replace(state=state, missed=missed, connected_at=since, reason=reason)


def _find_reason(before: Answer | None, answer: Answer) -> str:
    """What has failed since the answer before; empty: nothing new."""
    known = before.counters if before is not None else {}
    for name, reason in _REASONS.items():
        if answer.counters.get(name, 0) > known.get(name, 0):
            return reason
    return ""


def parse_answer(text: bytes) -> Answer | None:
    """What Envoy says of its control plane; None: that is not said.

    A request is completed for Envoy once its response has headers; they come with the first
    message from istiod, or when pilot-agent gives up, which ends the request. Where Envoy itself
    connects, a request is active once it is sent, that is behind the handshake, and one that
    could not be sent counts as completed.
    """
    found = _ANSWER.fullmatch(text)
    if found is None:
        return None
    lines = _COUNTER.findall(found[1])
    if len(lines) != found[1].count(b"\n"):
        return None
    counters = {name.decode(): int(number) for _, name, number in lines}
    if len(counters) != len(lines) or not counters.keys() >= set(_STREAM):
        return None
    active, completed, total = (counters[name] for name in _STREAM)
    if counters.keys() & _REASONS.keys():
        return Answer(active > 0, counters)
    if completed > total:
        return None  # completed without having been sent: then the numbers do not tell
    return Answer(active > 0 and completed == total, counters)
