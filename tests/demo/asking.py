"""What the acts share: the stage, the screen, the rows so far; and the one request they all make.

What a request carried is told by a capture on b's cable, who answered by the answer itself.
"""

import subprocess
import time
from dataclasses import dataclass, field

from tests.demo import evidence, screen, stage
from tests.lab import capture, netns, servers

SECRET = "/salaries/alice"
# What an act raises when something did not happen, or not in time.
FAILURES = (TimeoutError, netns.LabError, AssertionError, OSError, subprocess.SubprocessError)


@dataclass
class Show:
    """What the acts share: the stage, the screen, and the rows so far."""

    place: stage.Stage
    out: screen.Screen
    rows: list[screen.Row] = field(default_factory=list)

    @property
    def a(self) -> stage.Member:
        """The host that asks."""
        return self.place.members["a"]

    @property
    def b(self) -> stage.Member:
        """The host that answers."""
        return self.place.members["b"]

    def held(self, what: str, is_held: bool, figure: str) -> None:
        """Note a promise for the closing table."""
        self.rows.append(screen.Row(what, is_held, figure))


@dataclass(frozen=True)
class Asked:
    """One request from a to b: whether it was answered, and what b's cable carried."""

    is_answered: bool
    wire: evidence.Wire

    @property
    def is_hidden(self) -> bool:
        """Answered, and nobody could read it."""
        return self.is_answered and self.wire.hides(SECRET)

    def judged(self, figure: str) -> str:
        """The figure, and what is wrong with the request itself, if anything."""
        if self.is_hidden:
            return figure
        fault = "it can be read on the wire" if self.is_answered else "it was not answered"
        return f"{fault}; {figure}"


def ask(show: Show, port: int) -> Asked:
    """Let an ordinary user on a ask b for the secret, and capture what passes b's cable."""
    began = time.monotonic()
    with capture.Capture(show.place.cluster, show.b.port) as taken:
        reply, body = servers.request(
            show.a.namespace, show.b.address, port, SECRET, user=stage.USER, timeout_s=30.0
        )
        taken.stop()
    status = reply.received.partition("\r\n")[0].removeprefix("HTTP/1.1 ")
    is_answered = status == "200 OK" and body.get("path") == SECRET
    result = (
        f"{status}, from {body['server']}" if is_answered else f"{reply.outcome} {reply.error}"
    )
    show.out.step(f"a asks b, port {port}, for {SECRET}: {result}", at=began)
    return Asked(is_answered, evidence.read_wire(taken, port))


def describe_wire(wire: evidence.Wire) -> str:
    """What a capture of one request says, in one line."""
    if wire.shows(SECRET):
        return f"on b's cable: {SECRET} CAN BE READ"
    if not wire.hides(SECRET):
        return "on b's cable: not TLS alone"
    return f"on b's cable: {wire.records} TLS records and nothing else; {SECRET} is not in them"
