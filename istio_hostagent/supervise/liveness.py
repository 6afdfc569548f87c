"""Whether the processes of a proxy live, from what their doors answer.

A door is a loopback port that a process answers by itself. Readiness is not liveness: a process
that says no, is slow, or answers at one door of several lives. It hangs when every door of it that
has ever answered stays silent for `SILENCES` rounds in a row. One that has listened on a capture
port and does not any more for as many rounds is of no use, whatever it answers: its listeners are
closed for good. Elapsed time alone never counts: after a round that was looked at late, counting
starts anew.

Not here: sockets (`host.doors`), signals, and what becomes of a process that hangs (`child`).
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

SILENCES = 3

# A round of questions to a proxy that serves is read when the next one begins, so that it costs
# one wake-up; eleven a minute. A hang is known after two of these and two of SUSPICIOUS_S.
STEADY_S = 5.5
SUSPICIOUS_S = 1.2
# One that is not ready is asked often at first, then ever more seldom.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
# Read later than this after its end, a round says nothing: we, or the machine, did not run.
LATE_S = 1.0


class Door(NamedTuple):
    """GET `path` on 127.0.0.1:`port`, which `process` (its name) answers.

    `max_text`: so many bytes of the answer are of interest; 0: only what it says by its status.
    """

    process: str
    port: int
    path: str
    max_text: int = 0


class Answer(enum.Enum):
    """What a door answered within a round."""

    READY = "ready"  # status 200
    UNREADY = "not ready"  # anything else, also a connection that is closed
    REFUSED = "refused"  # nobody listens
    SILENT = "silent"  # nothing came


class Watch(NamedTuple):
    """What the rounds so far have shown of one running proxy."""

    known: frozenset[Door] = frozenset()  # those that have answered since it was started
    silences: tuple[tuple[str, int], ...] = ()  # rounds in a row, by process; only above 0
    listened: frozenset[int] = frozenset()  # ports on which it has listened since it was started
    closed: tuple[tuple[int, int], ...] = ()  # rounds in a row without, by port; only above 0

    @property
    def is_suspicious(self) -> bool:
        """Whether some process was silent in the last round, or a port closed that was open."""
        return bool(self.silences or self.closed)

    @property
    def lost(self) -> tuple[int, ...]:
        """The ports that were found closed often enough."""
        return tuple(port for port, count in self.closed if count >= SILENCES)

    @property
    def hung(self) -> tuple[str, ...]:
        """The processes that were silent often enough."""
        return tuple(process for process, count in self.silences if count >= SILENCES)


def observe(watch: Watch, answers: Mapping[Door, Answer]) -> Watch:
    """Take the answers of a whole round."""
    answered = {
        door for door, answer in answers.items() if answer in (Answer.READY, Answer.UNREADY)
    }
    known = watch.known | answered
    before = dict(watch.silences)
    # A door that never answered may not be there at all, or not yet.
    silent = {door.process for door in known & answers.keys()}
    silent -= {door.process for door in answered}
    counted = tuple((process, before.get(process, 0) + 1) for process in sorted(silent))
    return watch._replace(known=known, silences=counted)


def look(watch: Watch, listening: Mapping[int, bool | None]) -> Watch:
    """Take on which of its ports it listens, of the same round; None: there is no telling."""
    open_now = {port for port, is_open in listening.items() if is_open}
    before = dict(watch.closed)
    closed = {port for port, is_open in listening.items() if is_open is False}
    # One that never was open may come yet: the configuration of a control plane takes its time.
    counted = ((port, before.get(port, 0) + 1) for port in sorted(closed & watch.listened))
    return watch._replace(listened=watch.listened | open_now, closed=tuple(counted))


def forget_silences(watch: Watch) -> Watch:
    """Count anew: the last round says nothing, or the process was helped on."""
    return watch._replace(silences=(), closed=())


def poll_pause_s(waited_s: float) -> float:
    """How long to wait before one that has not been ready for `waited_s` is asked again."""
    return min(max(waited_s / 20, FIRST_PAUSE_S), LONGEST_PAUSE_S)
