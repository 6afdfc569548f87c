"""Rounds of questions to the proxy that serves: at its doors, about its ports, its control plane.

What the answers mean is told by `supervise.liveness`. Not here: which of two processes is asked,
and what becomes of one that hangs (`supervisor`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import ChildFailed
from ..supervise import controlplane, liveness
from . import events, fields

if TYPE_CHECKING:
    from ..host import ports
    from ..supervise import specs

# One that answers gets its listeners from a control plane a moment later.
LISTEN_TIME_S = 5.0


class Failure(NamedTuple):
    """Why a proxy that runs is of no use: what becomes of it, and the error."""

    summary: str
    error: str


class Rounds:
    """Asks one proxy again and again, and keeps what its answers have shown."""

    def __init__(
        self, clock: ports.Clock, doors: ports.Doors, held_ports: ports.HeldPorts
    ) -> None:
        """Ask nobody yet."""
        self._clock = clock
        self._doors = doors
        self._held_ports = held_ports
        self._asked_at = 0.0
        self._unready_since = 0.0
        self.watch = liveness.Watch()
        self.at: float | None = None  # when a round begins or is read (monotonic seconds)
        self.is_under_way = False
        self.closed_ports: tuple[int, ...] = ()  # on which it does not listen, and has to
        self.control_plane = controlplane.ControlPlane()

    @property
    def is_answered(self) -> bool:
        """Whether a round is under way, and every door has answered."""
        return self.is_under_way and self._doors.is_answered

    def begin(self, subject: specs.ProcessSpec | None, now: float) -> None:
        """Ask this proxy from now on, if it has doors; of the one before nothing is known."""
        self.end()
        self.watch = liveness.Watch()
        self.at = now if subject is not None and subject.doors else None
        self.unready(now)

    def unready(self, now: float) -> None:
        """It is not ready since now: it is asked often again."""
        self._unready_since = now

    def end(self) -> None:
        """Ask nobody any more."""
        self._doors.close()
        self.is_under_way = False
        self.at = None
        self.closed_ports = ()
        self.control_plane = controlplane.ControlPlane()

    def ask(self, subject: specs.ProcessSpec, now: float, *, is_steady: bool) -> None:
        """Begin a round. One about a steady proxy is read when the next one begins."""
        self.is_under_way = True
        self._asked_at = now
        is_steady = is_steady and not self.watch.is_suspicious
        self.at = now + (liveness.STEADY_S if is_steady else liveness.SUSPICIOUS_S)
        self._doors.ask(subject.doors, None if is_steady else events.ProxyAnswered)

    def is_silent(self, now: float) -> bool:
        """Whether the round under way shows a silence already."""
        is_enough = self.is_under_way and now >= self._asked_at + liveness.SUSPICIOUS_S
        return is_enough and liveness.observe(self.watch, self._doors.look()).is_suspicious

    def read(self, subject: specs.ProcessSpec, now: float) -> liveness.Answer | None:
        """End the round; gives what its first door answers, or None: it says nothing."""
        assert self.at is not None
        is_late = now > self.at + liveness.LATE_S
        answers = self._doors.read()
        self.is_under_way = False
        if is_late:
            self.forget_silences()
            return None
        self.watch = liveness.observe(self.watch, answers)
        return answers[subject.doors[0]]

    def look_at_ports(self, spec: specs.ProcessSpec, *, is_ready: bool) -> bool:
        """Whether it listens wherever it has to, as far as the kernel tells.

        Asked only where it matters: of one that says it is ready, or has listened before.
        """
        self.closed_ports = ()
        if not (is_ready or self.watch.listened):
            return False
        found = {port: self._held_ports.find_listening(port) for port in spec.listens}
        self.watch = liveness.look(self.watch, found)
        self.closed_ports = tuple(port for port, is_open in found.items() if is_open is False)
        return not self.closed_ports

    def look_at_control_plane(self, spec: specs.ProcessSpec, now: float) -> None:
        """Take what the proxy says of its connection there in the round that was read."""
        door = spec.control_plane
        if door is not None and (text := self._doors.text(door)):
            wall = self._clock.now() - (now - self._asked_at)
            self.control_plane = controlplane.observe(
                self.control_plane, controlplane.parse_answer(text), self._asked_at, wall
            )

    def schedule(self, now: float, *, is_steady: bool) -> None:
        """After a round was read, say when the next one begins."""
        if self.watch.closed:
            self.at = now + liveness.SUSPICIOUS_S  # its doors may answer at once
        elif is_steady or self.watch.is_suspicious:
            self.at = now
        elif self.at is not None:
            self.at = now + liveness.poll_pause_s(now - self._unready_since)

    def forget_silences(self) -> None:
        """Count anew."""
        self.watch = liveness.forget_silences(self.watch)

    def find_failure(self, subject: specs.ProcessSpec) -> Failure | None:
        """Why it is to be replaced, if the rounds so far have shown that."""
        if self.watch.hung:
            error = "; ".join(_describe_hang(subject, name) for name in self.watch.hung)
            return Failure("proxy hangs; it is replaced", error)
        if self.watch.lost:
            where = fields.name_ports(self.watch.lost)
            text = f"listens no more on {where}: its listeners were closed"
            error = str(ChildFailed(subject.name, text))
            return Failure("proxy is of no use any more; it is replaced", error)
        return None

    def describe_closed(self, spec: specs.ProcessSpec | None) -> str:
        """On which ports it does not listen although it says that it is ready, or did before."""
        is_new = self._clock.monotonic() < self._unready_since + LISTEN_TIME_S
        if spec is None or not self.closed_ports or (is_new and not self.watch.listened):
            return ""
        return f"{spec.name} does not listen on {fields.name_ports(self.closed_ports)}"


def _describe_hang(subject: specs.ProcessSpec, process: str) -> str:
    ports = [door.port for door in subject.doors if door.process == process]
    return str(ChildFailed(process, f"hangs: {fields.name_ports(ports)} gave no answer"))
