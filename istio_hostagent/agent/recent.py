"""The last things that have happened, as the log told them, for `status`.

Not here: the journal, which has them all. The line that says how the host stands is none of them.
"""

import collections
import logging
from typing import NamedTuple

from ..host import ports
from ..identity import nodeagent

# The STATUS= text is logged here, and nowhere else.
summary = logging.getLogger(f"{__name__}.summary")

KEPT = 5
# Of one line; a person looks up the rest.
_MOST = 300


class Happening(NamedTuple):
    """One of them: when (unix seconds), how loud, its name if it is an error, and in words."""

    at: float
    level: str
    code: str
    text: str


class Recent(logging.Handler):
    """Keeps the last few of what is logged."""

    def __init__(self, clock: ports.Clock) -> None:
        """Nothing has happened yet."""
        super().__init__(logging.INFO)
        self._clock = clock
        self._kept: collections.deque[Happening] = collections.deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        if record.name in (summary.name, nodeagent.__name__):
            return
        fields = getattr(record, "fields", {})
        culprit = f" ({fields['CULPRIT']})" if fields.get("CULPRIT") else ""
        text = " ".join(f"{record.getMessage()}{culprit}".split())[:_MOST]
        level, code = record.levelname.lower(), str(fields.get("CODE", ""))
        self._kept.append(Happening(self._clock.now(), level, code, text))

    @property
    def last(self) -> tuple[Happening, ...]:
        """What is kept, the latest at the end."""
        return tuple(self._kept)
