"""What the loop may ask of the machine, as narrow promises that a fake can keep too.

Not here: any implementation. A port is described by what it promises, not by its library.
"""

from typing import Protocol

from ..redirect import model as redirect


class Clock(Protocol):
    """Two clocks: one that never jumps, for durations, and one to compare with certificates."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def now(self) -> float:
        """Unix seconds; may jump when somebody sets the clock."""


class Kernel(Protocol):
    """What the reconciler may ask of the packet filter."""

    @property
    def is_owner(self) -> bool:
        """Whether what we install belongs to our socket alone (NFT_TABLE_F_OWNER)."""

    def observe(self) -> redirect.Observed:
        """Everything we own, as it is now; raises KernelBusy, NotPermitted."""

    def apply(self, plan: redirect.Plan) -> None:
        """Make the whole plan true or nothing of it; raises ApplyRejected, NotPermitted."""
