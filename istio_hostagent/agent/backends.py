"""Which part of the kernel keeps the rules: chosen once for a process, and the other one emptied.

nf_tables is the first choice. Legacy tables are used where the kernel, or whoever confines us,
refuses nf_tables, or where a key asks for them. A key that changes counts from the next start on:
until then what is in force stays in one place. Where no rules are wanted, and none can be ours,
neither is touched (`host.norules`).
Not here: either of them (`reconcile`, `legacy`).
"""

import enum
import itertools
from collections.abc import Callable, Sequence

from ..config.model import BackEnd
from ..errors import HostAgentError, HostUnsupported
from ..host import ports
from ..redirect import model, plan

KEY = "ISTIO_HOSTAGENT_BACKEND"
# Why there are no rules.
NO_RULES = "ISTIO_HOSTAGENT_REDIRECT=none"
Changed = Callable[[plan.Changes | HostAgentError], None]


class Kind(enum.Enum):
    """The two, as people know them."""

    NFTABLES = "nf_tables"
    LEGACY = "legacy tables (x_tables)"


class BackEnds:
    """Keeps the promises of `ports.PacketRules` with the one that was chosen."""

    def __init__(
        self,
        native: ports.PacketRules | None,
        refusal: str,
        make_legacy: Callable[[], ports.PacketRules],
        has_legacy: Callable[[], bool],
        *,
        none: ports.PacketRules | None = None,
        can_change: bool = True,
    ) -> None:
        """Choose nothing yet.

        `native`: none if nf_tables is refused, `refusal` says how. `make_legacy`: loads what only
        legacy tables need; `has_legacy`: whether there is one. `none`: one that touches no rules,
        where none are wanted. Not `can_change`: none of the rules here can be ours, because we
        lack the right, or because they are another agent's.
        """
        self._can_change = can_change
        self._none = none
        self._native = native
        self._refusal = refusal
        self._make_legacy = make_legacy
        self._has_legacy = has_legacy
        self._legacy: ports.PacketRules | None = None
        self._wanted = BackEnd.AUTO
        self._chosen: BackEnd | None = None
        self._kind = Kind.NFTABLES if native is not None else Kind.LEGACY
        self._installing: ports.PacketRules | None = None

    def choose(self, wanted: BackEnd) -> None:
        """Take the one that a configuration asks for; the first time counts."""
        self._wanted = wanted
        if self._chosen is not None or wanted is BackEnd.NONE:
            return
        self._chosen = wanted
        if wanted is not BackEnd.AUTO:
            self._kind = Kind.LEGACY if wanted is BackEnd.LEGACY else Kind.NFTABLES

    @property
    def wants_none(self) -> bool:
        """Whether a configuration wants no rules at all."""
        return self._wanted is BackEnd.NONE

    @property
    def _has_none(self) -> bool:
        """Whether no rules are wanted and none can be ours, so that neither is to be touched."""
        if self._wanted is not BackEnd.NONE or self._none is None:
            return False
        return not self._can_change or (self._native is None and not self._has_legacy())

    @property
    def kind(self) -> Kind:
        """Which one is used."""
        return self._kind

    @property
    def place(self) -> str:
        """Which one is used, and why."""
        if self._wanted is BackEnd.NONE:
            return f"none: {NO_RULES}"
        return f"{self._kind.value}: {self._reason}"

    @property
    def _reason(self) -> str:
        if self._chosen is None or self._chosen is BackEnd.AUTO:
            return f"nf_tables is refused ({self._refusal})" if self._refusal else "first choice"
        return f"{KEY}={self._chosen.value}"

    def has_leftover(self) -> bool:
        """Whether something of ours is in the other place; raises HostAgentError."""
        other = self._other()
        if other is None:
            return False
        nothing = model.Ruleset(
            (),
            other.observe_addresses((model.PASSTHROUGH_ADDRESS,)),
            other.observe_routing(),
        )
        found: list[tuple[model.Drift, ...] | HostAgentError] = []
        other.compare(nothing, found.append)
        return any(isinstance(each, HostAgentError) or each for each in found)

    @property
    def is_provable(self) -> bool:
        """Whether packets can be followed: that takes nf_tables, whoever keeps the rules."""
        return self._native is not None

    @property
    def remark(self) -> str:
        """What is not as one might expect, or nothing."""
        if self._wanted is BackEnd.NONE:
            return ""
        if self._chosen is not None and not self._is_met(self._wanted):
            return (
                f"{KEY}={self._wanted.value} counts from the next start on, until then rules are"
                f" in {self._kind.value}: systemctl stop istio-hostagent, then start"
            )
        if self._kind is Kind.LEGACY and self._refusal:
            return f"rules are in {self._kind.value}, since nf_tables is refused ({self._refusal})"
        return ""

    def _is_met(self, wanted: BackEnd) -> bool:
        if wanted is BackEnd.AUTO:
            return self._kind is (Kind.NFTABLES if self._native is not None else Kind.LEGACY)
        return self._kind is (Kind.LEGACY if wanted is BackEnd.LEGACY else Kind.NFTABLES)

    def _used(self) -> ports.PacketRules:
        """Raises HostUnsupported where nf_tables is asked for and refused."""
        if self._has_none and self._none is not None:
            return self._none
        if self._kind is Kind.LEGACY:
            return self._get_legacy()
        if self._native is None:
            raise HostUnsupported(
                f"nf_tables is refused: {self._refusal}",
                hint=f"{KEY}=auto uses legacy tables instead",
            )
        return self._native

    def _other(self) -> ports.PacketRules | None:
        """The one that is not used, if anything of ours may be there."""
        if self._has_none:
            return None
        if self._kind is Kind.LEGACY:
            return self._native
        return self._get_legacy() if self._has_legacy() else None

    def _get_legacy(self) -> ports.PacketRules:
        if self._legacy is None:
            self._legacy = self._make_legacy()
        return self._legacy

    @property
    def is_owner(self) -> bool:
        """Whether a stop of the service takes the rules out without us."""
        if self._has_none:
            return False
        if self._kind is Kind.LEGACY:
            return self._get_legacy().is_owner
        return self._native is not None and self._native.is_owner

    @property
    def has_socket(self) -> bool:
        """Whether what is installed belongs to our socket alone."""
        is_native = self._kind is Kind.NFTABLES and not self._has_none
        return is_native and self._native is not None and self._native.has_socket

    def fileno(self) -> int:
        """The descriptor of that socket."""
        return self._used().fileno()

    def render_guard(self, desired: model.Ruleset) -> str:
        """Give the guard for the one that is used."""
        if self._wanted is BackEnd.NONE and self._none is not None:
            return self._none.render_guard(desired)
        return self._used().render_guard(desired)

    def install(self, desired: model.Ruleset, done: Changed) -> None:
        """Make the rules equal to `desired`; then take out what is left in the other place."""
        try:
            used = self._used()
        except HostAgentError as error:
            done(error)
            return
        self._installing = used
        used.install(desired, lambda found: self._installed(desired, found, done))

    def _installed(
        self, desired: model.Ruleset, found: plan.Changes | HostAgentError, done: Changed
    ) -> None:
        self._installing = None
        other = self._other() if isinstance(found, plan.Changes) else None
        if other is None or isinstance(found, HostAgentError):
            done(found)
            return
        self._installing = other
        other.install(_nothing(desired), lambda second: self._emptied(found, second, done))

    def _emptied(
        self, first: plan.Changes, second: plan.Changes | HostAgentError, done: Changed
    ) -> None:
        self._installing = None
        done(second if isinstance(second, HostAgentError) else _join(first, second))

    def abandon(self) -> None:
        """Give up an `install` under way."""
        if self._installing is not None:
            self._installing.abandon()
            self._installing = None

    def compare(
        self,
        desired: model.Ruleset,
        done: Callable[[tuple[model.Drift, ...] | HostAgentError], None],
    ) -> None:
        """Where the rules differ; what is left in the other place is a difference too."""
        try:
            used = self._used()
        except HostAgentError as error:
            done(error)
            return

        def compared(found: tuple[model.Drift, ...] | HostAgentError) -> None:
            other = self._other()
            if other is None or isinstance(found, HostAgentError):
                done(found)
                return
            other.compare(_nothing(desired), lambda second: done(_both(found, second)))

        used.compare(desired, compared)

    def plan(self, desired: model.Ruleset, done: Changed) -> None:
        """What `install` would change."""
        try:
            used = self._used()
        except HostAgentError as error:
            done(error)
            return

        def planned(found: plan.Changes | HostAgentError) -> None:
            other = self._other()
            if other is None or isinstance(found, HostAgentError):
                done(found)
                return
            try:
                here = used.observe_addresses((model.PASSTHROUGH_ADDRESS,))
                nothing = model.Ruleset((), here, used.observe_routing())
            except HostAgentError as error:
                done(error)
                return
            # What changes beside tables has been said.
            other.plan(nothing, lambda second: self._emptied(found, second, done))

        used.plan(desired, planned)

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those that are on `lo` now; raises KernelBusy, NotPermitted, HostUnsupported."""
        return self._used().observe_addresses(addresses)

    def observe_routing(self) -> tuple[model.Routing, ...]:
        """Our routing rules and routes; raises KernelBusy, NotPermitted, HostUnsupported."""
        return self._used().observe_routing()

    def find_native(self, desired: model.Ruleset) -> model.Ruleset | None:
        """What of it nf_tables is to hold; None where that is refused."""
        if self._native is None or self._has_none:
            return None
        return desired if self._kind is Kind.NFTABLES else _nothing(desired)

    def has_changed(self) -> bool:
        """Whether somebody has changed tables of which nobody tells; raises KernelBusy."""
        return self.is_polled and self._get_legacy().has_changed()

    @property
    def is_polled(self) -> bool:
        """Whether `has_changed` is to be asked: the kernel tells of no change."""
        return self._kind is Kind.LEGACY and not self._has_none


def _nothing(desired: model.Ruleset) -> model.Ruleset:
    """No rules; addresses on `lo` and routing are those of both."""
    return desired._replace(tables=())


def _join(first: plan.Changes, second: plan.Changes) -> plan.Changes:
    return plan.Changes(
        first.is_any or second.is_any,
        itertools.chain(first.lines, second.lines),
        itertools.chain(first.details, second.details),
    )


def _both(
    first: tuple[model.Drift, ...], second: tuple[model.Drift, ...] | HostAgentError
) -> tuple[model.Drift, ...] | HostAgentError:
    return second if isinstance(second, HostAgentError) else (*first, *second)
