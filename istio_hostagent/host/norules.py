"""The back end of an agent that has no rules and touches none (non-transparent mode).

It keeps the promises of `ports.PacketRules` and `ports.Openings` for a host that may not change
packet rules, and for an agent beside others, whose rules are not its own.
"""

from collections.abc import Callable, Sequence

from ..config import model as config
from ..errors import HostAgentError, NotPermitted
from ..redirect import model, plan

_NET_ADMIN = 1 << 12  # CAP_NET_ADMIN of capabilities(7)
_NOTHING = plan.Changes(False, ())


def may_change() -> bool:
    """Whether this process has the right to change packet rules (CAP_NET_ADMIN)."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) & _NET_ADMIN)
    return False


class NoRules:
    """No rules; none can be installed."""

    is_owner = False
    has_socket = False
    place = "none"
    remark = ""
    is_polled = False

    def fileno(self) -> int:
        """There is no socket; never called."""
        raise ValueError("no socket")

    def has_changed(self) -> bool:
        """Nothing can have."""
        return False

    def choose(self, wanted: config.BackEnd, /) -> None:
        """There is no choice."""

    def render_guard(self, _desired: model.Ruleset, /) -> str:
        """Give a guard that guards nothing."""
        return GUARD

    def install(
        self, desired: model.Ruleset, done: Callable[[plan.Changes | HostAgentError], None], /
    ) -> None:
        """Nothing is to be done where nothing is desired."""
        self.plan(desired, done)

    def abandon(self) -> None:
        """Nothing is ever under way."""

    def compare(
        self,
        desired: model.Ruleset,
        done: Callable[[tuple[model.Drift, ...] | HostAgentError], None],
        /,
    ) -> None:
        """Nothing differs from nothing."""
        done(_refuse() if desired.tables else ())

    def plan(
        self, desired: model.Ruleset, done: Callable[[plan.Changes | HostAgentError], None], /
    ) -> None:
        """Nothing would change."""
        done(_refuse() if desired.tables else _NOTHING)

    def observe_addresses(self, _addresses: Sequence[str]) -> tuple[str, ...]:
        """None is ours."""
        return ()

    def observe_routing(self) -> tuple[model.Routing, ...]:
        """None is ours."""
        return ()

    def find_native(self, _desired: model.Ruleset, /) -> None:
        """There is nothing for another reader."""


# What early boot loads instead of a guard: nothing.
GUARD = "# nothing is redirected, so nothing is guarded\n"


class NoOpenings:
    """Nothing of ours is in other people's firewalls."""

    def is_any(self) -> bool:
        """There is nothing."""
        return False

    def take_out(self) -> bool:
        """There was nothing."""
        return False


def _refuse() -> NotPermitted:
    return NotPermitted(
        "packet rules cannot be changed here: CAP_NET_ADMIN is missing",
        hint="ISTIO_HOSTAGENT_REDIRECT=none needs none",
    )
