"""Make the running agent read its files again, and wait until it has taken or refused them.

Exit status: 0 taken and working (or nothing differs), 78 the files have problems, or what they ask
for does not hold, and the state before stays.
"""

from . import answer
from .options import Option, Values

OPTIONS: tuple[Option, ...] = ()


def execute(_values: Values) -> int:
    """Ask and wait."""
    print(answer.demand("reload")["summary"])
    return 0
