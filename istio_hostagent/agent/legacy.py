"""Packet rules in legacy tables (x_tables): planned and read back here, put in by workers.

Looks are answered at once: reading takes no library. A change is one worker for each family, both
at the same time (`legacyworkers`); what one of them could not do is taken back in both. Not here:
which rules are wanted (`redirect.xtrender`), and which back end is used (`backends`).
"""

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence

from ..config.model import BackEnd
from ..errors import HostAgentError, HostUnsupported, StillDrifted
from ..host import ports
from ..redirect import drift, model, plan, units, xtables, xtguard, xtplan, xtrender
from ..redirect.xtables import Family, XTable
from . import legacyworkers

# Others may change our tables while a worker is at work on them.
MAX_TRIES = 3

Changed = Callable[[plan.Changes | HostAgentError], None]
_Tables = dict[Family, tuple[XTable, ...]]


class LegacyRules:
    """Keeps the promises of `ports.PacketRules` with legacy tables."""

    def __init__(
        self, tables: ports.LegacyTables, start: legacyworkers.Start, *, is_kept: bool = False
    ) -> None:
        """Change nothing yet. `is_kept`: a stop of the service ends in somebody's taking out."""
        self._is_kept = is_kept
        self._tables = tables
        self._start = start
        self._change: legacyworkers.Change | None = None

    @property
    def is_owner(self) -> bool:
        """Whether the service manager takes the rules out when it stops the service."""
        return self._is_kept

    has_socket = False
    place = "legacy tables (x_tables)"
    remark = ""
    is_polled = True

    def choose(self, _wanted: BackEnd) -> None:
        """There is no choice."""

    def render_guard(self, desired: model.Ruleset) -> str:
        """Give a file with a part for each iptables-legacy-restore(8)."""
        return xtguard.render(self._render(units.without_units(desired)))

    def fileno(self) -> int:
        """There is no socket that they live with."""
        raise HostUnsupported("legacy tables have no owner")

    def install(self, desired: model.Ruleset, done: Changed) -> None:
        """Make the tables equal to `desired` and read them back."""
        assert self._change is None, "one at a time"
        try:
            wanted = self._render(desired)
            observed = self._observe(wanted)
            beside = self._plan_beside(desired)
        except HostAgentError as error:
            done(error)
            return
        refused: HostAgentError | None = None
        try:
            self._tables.add_beside(beside)
        except HostAgentError as error:
            # It keeps no rule out: what cannot be handed on is better than what goes around.
            refused, beside = error, beside._replace(add_addresses=(), add_routing=())
        change = self._change = legacyworkers.Change(self._start)

        def ended(error: HostAgentError | None) -> None:
            self._change = None
            found = error or self._finish(desired, wanted, observed, beside)
            done(refused or found)

        self._go(
            change,
            wanted,
            observed,
            MAX_TRIES,
            lambda error: self._undo(change, wanted, observed, beside, error, ended),
        )

    def _go(
        self,
        change: legacyworkers.Change,
        wanted: _Tables,
        observed: _Tables,
        tries_left: int,
        done: Callable[[HostAgentError | None], None],
    ) -> None:
        """Take the steps to what is wanted, and further ones to what others changed meanwhile."""

        def taken(error: HostAgentError | None) -> None:
            now = observed
            try:
                now = self._observe(wanted) if error is None else observed
            except HostAgentError as failure:
                error = failure
            if error is not None or now == wanted or not tries_left:
                done(error)
            else:
                self._go(change, wanted, now, tries_left - 1, done)

        steps = {family: xtplan.make_steps(wanted[family], observed[family]) for family in wanted}
        if any(steps.values()):
            change.begin(steps, taken)
        else:
            done(None)

    def _undo(
        self,
        change: legacyworkers.Change,
        wanted: _Tables,
        observed: _Tables,
        beside: model.Plan,
        error: HostAgentError | None,
        ended: Callable[[HostAgentError | None], None],
    ) -> None:
        """After a failure bring back what was there, as far as the kernel takes it."""
        if error is None:
            ended(None)
            return
        # What is left beside tables is found by the next look, and keeps none from coming back.
        with contextlib.suppress(HostAgentError):
            self._tables.delete_beside(
                model.Plan(
                    delete_addresses=beside.add_addresses, delete_routing=beside.add_routing
                )
            )
        try:
            # Chains that are not ours by their content count by their name.
            names = {
                family: _join(xtplan.names_of(wanted[family]), xtplan.names_of(observed[family]))
                for family in wanted
            }
            now = {family: self._tables.observe(family, names[family]) for family in wanted}
        except HostAgentError:
            ended(error)  # the next look finds whatever is there
            return
        steps = {family: xtplan.make_steps(observed[family], now[family]) for family in wanted}
        change.begin(steps, lambda _: ended(error))

    def _finish(
        self, desired: model.Ruleset, wanted: _Tables, before: _Tables, beside: model.Plan
    ) -> plan.Changes | HostAgentError:
        try:
            # Before they are read: who changes them behind that is noticed.
            self._tables.mark()
            self._tables.delete_beside(beside)
            drifts = self._compare(desired, wanted)
        except HostAgentError as error:
            return error
        if drifts:
            return StillDrifted([str(difference) for difference in drifts])
        return _changes(wanted, before, beside)

    def abandon(self) -> None:
        """End the workers of a change under way."""
        if self._change is not None:
            self._change.end()
            self._change = None

    def compare(
        self,
        desired: model.Ruleset,
        done: Callable[[tuple[model.Drift, ...] | HostAgentError], None],
    ) -> None:
        """Where the tables differ from `desired`."""
        found: tuple[model.Drift, ...] | HostAgentError
        try:
            self._tables.mark()
            found = self._compare(desired, self._render(desired))
        except HostAgentError as error:
            found = error
        done(found)

    def plan(self, desired: model.Ruleset, done: Changed) -> None:
        """What `install` would change."""
        found: plan.Changes | HostAgentError
        try:
            wanted = self._render(desired)
            found = _changes(wanted, self._observe(wanted), self._plan_beside(desired))
        except HostAgentError as error:
            found = error
        done(found)

    def observe_addresses(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Those that are on `lo` now; raises KernelBusy, NotPermitted."""
        here = self._tables.observe_beside().loopback_addresses
        return tuple(each for each in addresses if each in here)

    def observe_routing(self) -> tuple[model.Routing, ...]:
        """Our routing rules and routes; raises KernelBusy, NotPermitted."""
        return self._tables.observe_beside().routing

    def find_native(self, desired: model.Ruleset) -> model.Ruleset | None:
        """Nothing of it is in nf_tables, and whether that is there is not known here."""
        return None

    def has_changed(self) -> bool:
        """Whether any table differs from when ours were looked at last; raises KernelBusy."""
        return self._tables.has_changed()

    def _render(self, desired: model.Ruleset) -> _Tables:
        try:
            return {
                family: xtrender.render(desired, family) for family in self._tables.find_families()
            }
        except xtables.NotExpressible as error:
            raise HostUnsupported(
                f"legacy tables cannot do what is configured: {error}",
                hint="ISTIO_HOSTAGENT_BACKEND=nftables can, where the kernel has nf_tables",
            ) from error

    def _observe(self, wanted: _Tables) -> _Tables:
        return {
            family: self._tables.observe(family, xtplan.names_of(tables))
            for family, tables in wanted.items()
        }

    def _compare(self, desired: model.Ruleset, wanted: _Tables) -> tuple[model.Drift, ...]:
        drifts = xtplan.find_drift(wanted, self._observe(wanted))
        beside = drift.find_drift(_beside(desired), self._tables.observe_beside())
        return (*drifts, *beside)

    def _plan_beside(self, desired: model.Ruleset) -> model.Plan:
        return plan.make_plan(_beside(desired), self._tables.observe_beside(), owned=False)


def _beside(desired: model.Ruleset) -> model.Ruleset:
    """What there is beside tables."""
    return desired._replace(tables=())


def _join(
    first: Mapping[str, Sequence[str]], second: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    return {name: [*first[name], *second[name]] for name in first}


def _changes(wanted: _Tables, observed: _Tables, beside: model.Plan) -> plan.Changes:
    return plan.Changes(
        wanted != observed or bool(beside),
        itertools.chain(xtplan.describe(wanted, observed), plan.describe(beside)),
        itertools.chain(xtplan.list_changes(wanted, observed), plan.list_changes(beside)),
    )
