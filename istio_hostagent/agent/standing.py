"""How the rules stand, as every part of the redirection sees it and says what it has seen.

Not here: what follows from what (`lifecycle.redirection`).
"""

from ..errors import HostAgentError
from ..lifecycle import redirection as states


class Standing:
    """What `lifecycle.redirection` keeps, and the error behind its text."""

    def __init__(self) -> None:
        """Start with nothing desired and nothing known."""
        self.value = states.Redirection()
        self.error: HostAgentError | None = None  # behind `value.last_error`
