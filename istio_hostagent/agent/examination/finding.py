"""One line of `doctor`, and the words that its parts share."""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

from ...host import clock


class Level(enum.Enum):
    """How something stands. UNSEEN: it could not be looked at, and the words say why."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"
    UNSEEN = "unseen"


class Finding(NamedTuple):
    """What was looked at, how it stands, what was seen, and what to do where it is not well.

    `code`: the name of the error, where it has one (`hints`).
    """

    subject: str
    level: Level
    words: str
    advice: str = ""
    code: str = ""

    def to_json(self) -> dict[str, Any]:
        """Its part of the machine-readable form."""
        return self._asdict() | {"level": self.level.value}


NEEDS_ROOT = "only root sees that"


def moment(unix_s: float) -> str:
    """An instant for people, in UTC."""
    return clock.utc_text(unix_s, "%Y-%m-%d %H:%M:%S UTC")


def length(seconds: float) -> str:
    """A length of time for people, in the largest unit of which there are two."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} s"


def first_of(texts: Sequence[str]) -> str:
    """The first of some texts, and how many more there are."""
    more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
    return f"{texts[0]}{more}"
