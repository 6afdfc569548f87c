"""What has to change in the kernel: a function of what is desired and what is observed.

Not here: doing it (`host.nftables`), and which sets stay (`deltas`). A table is named here as a
whole, or not at all: equal tables are left alone, so that applying twice touches nothing and
counters survive.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from . import deltas, drift, expressions, model, nft, ranges

# A set of ten thousand networks is shown by its first differences.
_MAX_RANGES = 20
# For programs: of a list of lines so many are given, and the number of all.
MAX_LISTED = 1000

_Item = TypeVar("_Item")
_Part = model.NamedSet | model.ChainState | model.Timeout


def make_plan(desired: model.Ruleset, observed: model.Observed, *, owned: bool) -> model.Plan:
    """Say which tables and addresses must change. `owned`: the main table must be our socket's."""
    there = {table.name: table for table in observed.tables}
    owners = (
        model.Owner.WE if owned and table.may_be_owned else model.Owner.NOBODY
        for table in desired.tables
    )
    states = list(map(expressions.compile_table, desired.tables, owners))
    write = [
        state
        for state in deltas.keep_all(states, there)
        if state.name not in there or _must_write(state, there[state.name])
    ]
    names = {table.name for table in desired.tables}
    here = observed.loopback_addresses
    return model.Plan(
        tuple(write),
        tuple(name for name in there if name not in names),
        tuple(a for a in desired.loopback_addresses if a not in here),
        tuple(a for a in here if a not in desired.loopback_addresses),
        observed,
        tuple(each for each in desired.routing if each not in observed.routing),
        tuple(each for each in observed.routing if each not in desired.routing),
    )


def make_return(before: model.Observed, observed: model.Observed) -> model.Plan:
    """Say what has to change for everything of ours to be again what it was."""
    there = {table.name: table for table in observed.tables}
    write = [
        table
        for table in before.tables
        if table.name not in there
        or table.owner is not there[table.name].owner
        or not drift.is_equal(table, there[table.name])
    ]
    names = {table.name for table in before.tables}
    old, new = before.loopback_addresses, observed.loopback_addresses
    return model.Plan(
        tuple(write),
        tuple(name for name in there if name not in names),
        tuple(address for address in old if address not in new),
        tuple(address for address in new if address not in old),
        observed,
        tuple(each for each in before.routing if each not in observed.routing),
        tuple(each for each in observed.routing if each not in before.routing),
    )


def find_unreturnable(observed: model.Observed) -> str:
    """Name what of this we could not make again, because somebody else made it; or nothing."""
    for entry in observed.routing:
        if entry.kind not in ("rule", "route"):
            return f"{entry.kind}: {entry}"
    for table in observed.tables:
        place = f"table inet {table.name}"
        if table.owner is model.Owner.OTHER:
            return f"{place} belongs to another process"
        if table.is_dormant:
            return f"{place} is dormant"
        for each in table.sets:
            if each.kind not in model.WIDTHS or each.name.startswith("__"):
                return f"{place} set {each.name}: type {each.kind}"
        for timeout in table.timeouts:
            if timeout.kind != model.CT_TIMEOUT:
                return f"{place} {timeout.name}: object of type {timeout.kind}"
        for chain in table.chains:
            for rule in chain.rules:
                if any(map(_is_unknown, rule.expressions)):
                    return f"{place} chain {chain.name}: {nft.render_rule(rule)}"
    return ""


def _is_unknown(expression: model.Expr) -> bool:
    names = (expression.name, *(name for name, _ in expression.attributes))
    return any(name.startswith("?") for name in names)


class Lines(NamedTuple):
    """Lines for programs: the first of them, and how many there are in all."""

    first: Sequence[str] = ()
    total: int = 0


class Change(NamedTuple):
    """One part of what is ours that comes, goes or becomes another.

    `kind`: table, chain, set, ct timeout, address (on `lo`), rule or route (of routing). `name` is
    within `table`, which is empty for the last three. `change`: add, remove or change. `before`
    and `after` are all of it, `removed` and `added` the lines in which these differ.
    """

    table: str
    kind: str
    name: str
    change: str
    before: Lines = Lines()
    after: Lines = Lines()
    removed: Lines = Lines()
    added: Lines = Lines()

    def to_json(self) -> dict[str, object]:
        """Give it as in docs/json.md."""
        shown: dict[str, object] = {
            "table": self.table,
            "kind": self.kind,
            "name": self.name,
            "change": self.change,
        }
        for name in ("before", "after", "removed", "added"):
            lines: Lines = getattr(self, name)
            shown |= {name: list(lines.first), f"{name}_count": lines.total}
        return shown


class Changes(NamedTuple):
    """What was changed, or would be, in words; each line is made when it is asked for.

    `details`: the same for programs.
    """

    is_any: bool
    lines: Iterable[str]
    details: Iterable[Change] = ()


def describe(plan: model.Plan) -> Iterator[str]:
    """Show the difference to people, as lines: `-` is there now, `+` will be there.

    Each line is made when it is asked for: who is quiet asks for none.
    """
    there = {table.name: table for table in plan.observed.tables}
    for state in plan.write:
        yield from _difference(there.get(state.name), state)
    for name in plan.delete:
        yield from _difference(there[name], None)
    yield from (f"+address {address} on lo" for address in plan.add_addresses)
    yield from (f"-address {address} on lo" for address in plan.delete_addresses)
    yield from (f"+{each}" for each in plan.add_routing)
    yield from (f"-{each}" for each in plan.delete_routing)


def _must_write(state: model.TableState, present: model.TableState) -> bool:
    """Whether anything differs. A table that another socket owns is its owner's to change."""
    if state.owner is model.Owner.WE and present.owner is not model.Owner.WE:
        return True
    return not drift.is_equal(state, present)


def _difference(present: model.TableState | None, state: model.TableState | None) -> Iterator[str]:
    """Show one table as a unified diff without line numbers."""
    name = (state or present or model.TableState("", (), ())).name
    yield f" table inet {name}"
    if present and state and present.owner is not state.owner:
        yield f"-owner {present.owner.value}"
        yield f"+owner {state.owner.value}"
    before, after = _parts(present), _parts(state)
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old or new, model.Timeout):
            changed = [
                f"{sign}  {nft.render_timeout(each)}"
                for sign, each in (("-", old), ("+", new))
                if isinstance(each, model.Timeout)
            ]
        elif isinstance(old or new, model.NamedSet):
            changed = list(_set_difference(old, new))
        else:
            changed = list(_chain_difference(_parts_of_chain(old), _parts_of_chain(new)))
        if changed:
            yield f" {key}"
            yield from changed


def _parts(table: model.TableState | None) -> dict[str, _Part]:
    """All parts by name, with the word in front by which the kernel keeps them apart."""
    found: dict[str, _Part] = {}
    if table:
        found.update({f"set {deltas.stem(each.name)}": each for each in table.sets})
        found.update({f"chain {each.name}": each for each in table.chains})
        found.update({f"ct timeout {each.name}": each for each in table.timeouts})
    return found


def _parts_of_chain(chain: _Part | None) -> list[model.Hook | model.RuleState]:
    if not isinstance(chain, model.ChainState):
        return []
    return [*([chain.hook] if chain.hook else []), *chain.rules]


def _without_stamps(line: str) -> str:
    """Leave out what tells the content of a set: the difference shows that itself."""
    return " ".join(
        deltas.stem(word) if word.startswith("@") else word for word in line.split(" ")
    )


def _chain_difference(
    before: Sequence[model.Hook | model.RuleState], after: Sequence[model.Hook | model.RuleState]
) -> Iterator[str]:
    """Leave out the equal lines at both ends; what lies between is all shown.

    Words cost more than everything else here: first what needs none is left out.
    """
    old, new = (list(map(_line, each)) for each in _trim(before, after))
    for sign, lines in zip("-+", _trim(old, new), strict=True):
        yield from (f"{sign}  {line}" for line in lines)


def _line(part: model.Hook | model.RuleState) -> str:
    if isinstance(part, model.Hook):
        return nft.render_hook(part)
    return _without_stamps(nft.render_rule(part))


def _trim(before: Sequence[_Item], after: Sequence[_Item]) -> tuple[Sequence[_Item], ...]:
    """Cut off what is equal at both ends."""
    shorter = min(len(before), len(after))
    start = end = 0
    while start < shorter and before[start] == after[start]:
        start += 1
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return before[start : len(before) - end], after[start : len(after) - end]


def _set_difference(old: _Part | None, new: _Part | None) -> Iterator[str]:
    for sign, one, other in (("-", old, new), ("+", new, old)):
        if not isinstance(one, model.NamedSet):
            continue
        known = other.ranges if isinstance(other, model.NamedSet) else ()
        changed = ranges.without(one.ranges, known)
        for each in itertools.islice(changed, _MAX_RANGES):
            yield f"{sign}  {nft.render_member(one, *each)}"
        if more := sum(1 for _ in changed):
            yield f"{sign}  and {more} more"


def list_changes(plan: model.Plan) -> Iterator[Change]:
    """Show the difference to programs: what `describe` shows to people, part by part."""
    there = {table.name: table for table in plan.observed.tables}
    for state in plan.write:
        yield from _list_of_table(there.get(state.name), state)
    for name in plan.delete:
        yield from _list_of_table(there[name], None)
    yield from (Change("", "address", address, "add") for address in plan.add_addresses)
    yield from (Change("", "address", address, "remove") for address in plan.delete_addresses)
    yield from (Change("", each.kind, str(each), "add") for each in plan.add_routing)
    yield from (Change("", each.kind, str(each), "remove") for each in plan.delete_routing)


def _list_of_table(
    present: model.TableState | None, state: model.TableState | None
) -> Iterator[Change]:
    name = (state or present or model.TableState("", (), ())).name
    old, new = list_lines(_head(present)), list_lines(_head(state))
    if old != new:
        yield Change(name, "table", name, _name_change(present, state), old, new, old, new)
    before, after = _parts(present), _parts(state)
    for key in sorted(before.keys() | after.keys()):
        one, other = before.get(key), after.get(key)
        if one != other:
            kind, _, part = key.rpartition(" ")
            removed, added = _list_differing(one, other)
            lines = (_list_part(one), _list_part(other), removed, added)
            yield Change(name, kind, part, _name_change(one, other), *lines)


def _name_change(before: object, after: object) -> str:
    if before is None:
        return "add"
    return "remove" if after is None else "change"


def _head(table: model.TableState | None) -> Iterator[str]:
    if table is not None:
        yield f"owner {table.owner.value}"
        if table.is_dormant:
            yield "dormant"


def _list_part(part: _Part | None) -> Lines:
    if part is None:
        return Lines()
    if isinstance(part, model.NamedSet):
        held = part
        return list_lines(nft.render_member(held, *each) for each in held.ranges)
    if isinstance(part, model.Timeout):
        return list_lines([nft.render_timeout(part)])
    return list_lines(map(_line, _parts_of_chain(part)))


def _list_differing(before: _Part | None, after: _Part | None) -> tuple[Lines, Lines]:
    if isinstance(before, model.ChainState) or isinstance(after, model.ChainState):
        old, new = (list(map(_line, _parts_of_chain(each))) for each in (before, after))
        removed, added = _trim(old, new)
        return list_lines(removed), list_lines(added)
    if isinstance(before, model.Timeout) or isinstance(after, model.Timeout):
        return _list_part(before), _list_part(after)
    found = []
    for one, other in ((before, after), (after, before)):
        if not isinstance(one, model.NamedSet):
            found.append(Lines())
            continue
        known = other.ranges if isinstance(other, model.NamedSet) else ()
        changed = ranges.without(one.ranges, known)
        found.append(list_lines(nft.render_member(one, *each) for each in changed))
    return found[0], found[1]


def list_lines(lines: Iterable[str]) -> Lines:
    """Give the first of them for programs, and how many there are."""
    found = iter(lines)
    first = tuple(itertools.islice(found, MAX_LISTED))
    return Lines(first, len(first) + sum(1 for _ in found))
