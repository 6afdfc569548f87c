"""When packets have to show again that our rules decide, after others have changed theirs.

A rule of somebody else may come before ours from now on, and what such a rule looks up in a set
may be another answer. Nothing but packets tells; a round of them costs as much as a thousand
commits of a busy tool, so of a stream of changes ever fewer are followed by one. Every change is
followed by one in the end: at the latest when the stream has paused.

Not here: sending packets, and changes of our own rules (they are read back at once). Moments are
monotonic seconds and are handed in.
"""

import enum
import math
from typing import NamedTuple

# As long as most streams of changes have no pause.
PAUSE_S = 30.0
LONGEST_S = 600.0


class Kind(enum.Enum):
    """What was changed, or when."""

    STRUCTURE = "tables, chains and rules"
    CONTENT = "sets and objects"
    # What packets have refuted may be mended by any change: better look soon.
    CURE = "anything, while the proof is broken"
    # A firewall that is loaded anew has lost what lets captured connections in.
    FIREWALL = "rules, where those of firewalls are ours to mend"


class Pace(NamedTuple):
    """So long after the first change, and so long after the last packets, which doubles.

    `pause_s`: nobody has changed anything for so long: the next change is a first one.
    """

    delay_s: float
    shortest_s: float
    pause_s: float = PAUSE_S


PACES = {
    # Changes of rules come in bursts, and each burst is of one tool at work.
    Kind.STRUCTURE: Pace(0.2, 5.0),
    # Tools that keep a set up to date never stop, and hardly any of them translates addresses.
    Kind.CONTENT: Pace(10.0, 60.0),
    Kind.CURE: Pace(0.2, 0.2),
    # ufw takes a second or two, and dozens of commits.
    Kind.FIREWALL: Pace(0.2, 0.2, 5.0),
}


class _Stream:
    """The changes of one kind."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._interval_s = pace.shortest_s
        self._first_at: float | None = None  # of the changes that no packets have followed yet
        self._last_at = -math.inf

    def changed(self, now: float) -> None:
        if now - self._last_at >= self._pace.pause_s:
            self._interval_s = self._pace.shortest_s
        self._last_at = now
        if self._first_at is None:
            self._first_at = now

    def proved(self) -> None:
        if self._first_at is not None:
            self._first_at = None
            self._interval_s = min(self._interval_s * 2, LONGEST_S)

    def due_at(self, proved_at: float) -> float:
        if self._first_at is None:
            return math.inf
        paced = max(self._first_at + self._pace.delay_s, proved_at + self._interval_s)
        return min(paced, self._last_at + self._pace.pause_s)


class Staleness:
    """Whether the last proof still counts, and when the next one is due."""

    def __init__(self) -> None:
        """Begin with a proof that counts."""
        self._streams = {kind: _Stream(pace) for kind, pace in PACES.items()}
        self._proved_at = -math.inf

    def changed(self, kind: Kind, now: float) -> None:
        """Somebody else has changed something."""
        self._streams[kind].changed(now)

    def proved(self, now: float) -> None:
        """Packets are being sent: they answer every change until now."""
        self._proved_at = now
        for stream in self._streams.values():
            stream.proved()

    @property
    def due_at(self) -> float:
        """When packets are to be sent for what was changed; infinity: nothing was."""
        return min(stream.due_at(self._proved_at) for stream in self._streams.values())
