"""Everything that is wrong with a host, or waits for a person, each with its name.

Not here: the words (each part has its own), and what to do about a name (`hints`, for the verbs).
"""

from typing import NamedTuple

from ..lifecycle.life import Life
from . import part


class Cause(NamedTuple):
    """One of them. `part`: that of the report of `status`; `code`: one of `hints.HINTS`."""

    part: str
    code: str
    text: str


def of_part(name: str, each: part.Part, life: Life) -> tuple[Cause, ...]:
    """What a part says of itself, if anything."""
    text = each.obstacle(life)
    return (Cause(name, each.code(life), text),) if text else ()
