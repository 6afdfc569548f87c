"""What the agent may ask of packet rules and of the part of the kernel that keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...config import model
    from ...errors import HostAgentError
    from ...redirect import model as redirect
    from ...redirect import plan, xtables


class PacketRules(Protocol):
    """The packet rules of this network namespace, whoever keeps them there.

    Whatever is asked for ends in one call of `done`, with an error if need be, in the deciding
    thread: before the method returns, or in a later turn, whose event the back end gives. A look
    (`compare`, `plan`) is bounded in time by the back end; an `install` by its caller.
    """

    @property
    def is_owner(self) -> bool:
        """Whether a stop of the service takes the rules out without us, and only a stop."""

    @property
    def has_socket(self) -> bool:
        """Whether it does so since they belong to a socket of ours (NFT_TABLE_F_OWNER)."""

    def fileno(self) -> int:
        """That socket, for the descriptor store."""

    @property
    def place(self) -> str:
        """Which part of the kernel keeps the rules, and why, for people."""

    @property
    def remark(self) -> str:
        """What an operator should know of that, or nothing."""

    @property
    def is_polled(self) -> bool:
        """Whether nobody tells of changes, so that `has_changed` is to be asked now and then."""

    def has_changed(self) -> bool:
        """Whether anything differs from when it was looked at last, counters aside.

        Raises KernelBusy, NotPermitted.
        """

    def choose(self, wanted: model.BackEnd, /) -> None:
        """Take what a configuration asks for: the first time it counts."""

    def render_guard(self, desired: redirect.Ruleset, /) -> str:
        """Give the guard in `desired` as the text that early boot loads."""

    def install(
        self,
        desired: redirect.Ruleset,
        done: Callable[[plan.Changes | HostAgentError], None],
        /,
    ) -> None:
        """Make the rules equal to `desired`, whole or not at all, and read them back.

        None desired: everything of ours goes. `done` gets what was changed. One at a time.
        """

    def abandon(self) -> None:
        """Give up an `install` under way: its `done` is not called, and it does nothing more."""

    def compare(
        self,
        desired: redirect.Ruleset,
        done: Callable[[tuple[redirect.Drift, ...] | HostAgentError], None],
        /,
    ) -> None:
        """Read the rules; `done` gets where they differ."""

    def plan(
        self,
        desired: redirect.Ruleset,
        done: Callable[[plan.Changes | HostAgentError], None],
        /,
    ) -> None:
        """Read the rules; `done` gets what `install` would change."""

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Give those of `addresses` that are on `lo` now; raises KernelBusy, NotPermitted."""

    def observe_routing(self) -> tuple[redirect.Routing, ...]:
        """Give our routing rules and routes; raises KernelBusy, NotPermitted."""

    def find_native(self, desired: redirect.Ruleset, /) -> redirect.Ruleset | None:
        """Give what of `desired` nf_tables is to hold; None where that is refused to us."""


class Kernel(Protocol):
    """What the reconciler may ask of a packet filter that answers at once."""

    @property
    def is_owner(self) -> bool:
        """Whether what we install belongs to our socket alone (NFT_TABLE_F_OWNER)."""

    def fileno(self) -> int:
        """The socket with which an owned table lives and dies; for the descriptor store."""

    def observe(self) -> redirect.Observed:
        """Everything we own, as it is now; raises KernelBusy, NotPermitted."""

    def apply(self, plan: redirect.Plan) -> None:
        """Make the whole plan true or nothing of it; raises ApplyRejected, NotPermitted."""

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Give those of `addresses` that are on `lo` now; raises KernelBusy, NotPermitted."""

    def observe_routing(self) -> tuple[redirect.Routing, ...]:
        """Give our routing rules and routes; raises KernelBusy, NotPermitted."""


class LegacyTables(Protocol):
    """The legacy tables of this network namespace, and what of ours is beside any table.

    Nothing here makes a table.
    """

    def find_families(self) -> tuple[xtables.Family, ...]:
        """Those of this network namespace."""

    def observe(
        self, family: xtables.Family, wanted: Mapping[str, Sequence[str]], /
    ) -> tuple[xtables.XTable, ...]:
        """Give what is ours in each table; raises KernelBusy, NotPermitted.

        `wanted`: by table, names of chains that count as ours, whoever made them.
        """

    def mark(self) -> None:
        """Remember how the tables are; raises KernelBusy, NotPermitted."""

    def has_changed(self) -> bool:
        """Whether one has changed since `mark`, counters aside; raises as `mark` does."""

    def observe_beside(self) -> redirect.Observed:
        """Give our addresses on `lo` and our routing; raises KernelBusy, NotPermitted."""

    def add_beside(self, plan: redirect.Plan, /) -> None:
        """Add its addresses and routing, all or none; raises ApplyRejected, NotPermitted."""

    def delete_beside(self, plan: redirect.Plan, /) -> None:
        """Take away its addresses and routing; raises ApplyRejected, NotPermitted."""


class Openings(Protocol):
    """What of ours is in the chains of other people's firewalls."""

    def is_any(self) -> bool:
        """Whether there is anything; raises KernelBusy, NotPermitted."""

    def take_out(self) -> bool:
        """Take it out, and say whether there was any.

        Raises ApplyRejected, KernelBusy, NotPermitted.
        """
