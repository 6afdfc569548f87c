"""What of legacy tables is ours, where it differs from what is wanted, and the steps to it.

Not here: which rules are wanted (`xtrender`), and reading and writing tables (`host`). Ours are
the chains that a rule of which carries our mark, those with the names of wanted ones, and what
leads there from built-in chains. In a built-in chain ours must be the first: whoever puts a rule
before them takes packets away from them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from . import model, plan
from .xtables import SET_CHAIN, Family, XChain, XRule, XTable
from .xtguard import without_guard

Tables = Mapping[Family, tuple[XTable, ...]]


def measure_own(chains: Sequence[XChain], wanted: Collection[str]) -> dict[str, int]:
    """How many of its first rules count as ours, of each chain that has to do with us.

    Of a built-in chain everything up to the last rule of ours. `wanted`: names of chains that are
    to be ours, whoever has made them. Only targets and comments of rules are looked at.
    """
    own = find_own(chains, wanted)
    found = {}
    for chain in chains:
        if not chain.is_built_in:
            if chain.name in own:
                found[chain.name] = len(chain.rules)
        elif positions := find_positions(chain, own):
            found[chain.name] = positions[-1] + 1
    return found


def find_own(chains: Sequence[XChain], wanted: Collection[str]) -> set[str]:
    """Names of the chains that are ours, with those that rules of ours lead to."""
    there = {chain.name: chain for chain in chains if not chain.is_built_in}
    left = {
        name
        for name, chain in there.items()
        if name in wanted or name.startswith(SET_CHAIN) or any(r.is_ours for r in chain.rules)
    }
    for chain in chains:
        left.update(rule.target for rule in chain.rules if rule.is_ours)
    own: set[str] = set()
    while left:
        name = left.pop()
        if name in there and name not in own:
            own.add(name)
            left.update(r.target for r in there[name].rules if r.is_ours)
    return own


def find_positions(chain: XChain, own: Collection[str]) -> list[int]:
    """Where in a built-in chain rules of ours are; what leads into a chain of ours is one."""
    return [
        position for position, rule in enumerate(chain.rules) if rule.is_ours or rule.target in own
    ]


def find_in_the_way(chain: XChain, going: Collection[str]) -> list[int]:
    """Where in a chain of others rules lead into chains that are to go: these keep them there."""
    return [position for position, rule in enumerate(chain.rules) if rule.target in going]


def names_of(tables: Iterable[XTable]) -> dict[str, list[str]]:
    """By table the names of chains that are not built in."""
    return {
        table.name: [chain.name for chain in table.chains if not chain.is_built_in]
        for table in tables
    }


def make_steps(desired: Sequence[XTable], observed: Sequence[XTable]) -> tuple[XTable, ...]:
    """The tables of one family in the order in which they are to become so; none: all is equal.

    The rules that translate change in one commit. While the guard and they differ, the guard would
    refuse what they do not capture yet, or not any more: it is taken out before, and comes back
    behind them. Who leaves takes it out first, and what filters last.
    """
    there = {table.name: table for table in observed}
    changed = {table.name: table for table in desired if table != there[table.name]}
    if not changed:
        return ()
    wanted = {table.name: table for table in desired}
    if not wanted["nat"].chains:
        order = ("filter", "nat", "mangle", "raw")
        return tuple(changed[name] for name in order if name in changed)
    steps = [changed[name] for name in ("raw", "mangle") if name in changed]
    if "nat" in changed:
        before = without_guard(wanted["filter"])
        if before != there["filter"]:
            steps.append(before)
        steps.append(changed["nat"])
        if wanted["filter"] != before:
            steps.append(wanted["filter"])
    elif "filter" in changed:
        steps.append(changed["filter"])
    return tuple(steps)


def find_drift(desired: Tables, observed: Tables) -> tuple[model.Drift, ...]:
    """Every difference, one for each rule."""
    return tuple(
        each
        for family, tables in desired.items()
        for wanted, there in zip(tables, observed[family], strict=True)
        if wanted != there
        for each in _compare(f"{family.value} table {wanted.name}", wanted, there)
    )


def _compare(place: str, wanted: XTable, there: XTable) -> Iterator[model.Drift]:
    before = {chain.name: chain for chain in there.chains}
    after = {chain.name: chain for chain in wanted.chains}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        where = f"{place} chain {name}"
        if old is None and new is not None and not new.is_built_in:
            yield model.Drift(where, "the chain", "")
        elif new is None and old is not None and not old.is_built_in:
            yield model.Drift(where, "", "the chain")
        else:
            for number, left, right in _differences(_rules(new), _rules(old)):
                yield model.Drift(f"{where} rule {number}", str(left or ""), str(right or ""))


def describe(desired: Tables, observed: Tables) -> Iterator[str]:
    """Show the difference to people: `-` is there now, `+` will be there."""
    before = ""
    for table, old, new in _differing(desired, observed):
        if table != before:
            yield f" {table}"
        before = table
        yield f" chain {_name(old, new)}"
        left, right = _middle(_rules(old), _rules(new))
        yield from (f"-  {rule}" for rule in left)
        yield from (f"+  {rule}" for rule in right)


def list_changes(desired: Tables, observed: Tables) -> Iterator[plan.Change]:
    """Show it to programs, chain by chain."""
    for table, old, new in _differing(desired, observed):
        left, right = _middle(_rules(old), _rules(new))
        yield plan.Change(
            table,
            "chain",
            _name(old, new),
            "add" if old is None else "remove" if new is None else "change",
            *(plan.list_lines(map(str, each)) for each in (_rules(old), _rules(new), left, right)),
        )


def _differing(
    desired: Tables, observed: Tables
) -> Iterator[tuple[str, XChain | None, XChain | None]]:
    for family, tables in desired.items():
        for wanted, there in zip(tables, observed[family], strict=True):
            if wanted == there:
                continue
            before = {chain.name: chain for chain in there.chains}
            after = {chain.name: chain for chain in wanted.chains}
            for name in sorted(before.keys() | after.keys()):
                old, new = before.get(name), after.get(name)
                if old != new:
                    yield f"{family.value} table {wanted.name}", old, new


def _name(old: XChain | None, new: XChain | None) -> str:
    return (old or new or XChain("", ())).name


def _rules(chain: XChain | None) -> tuple[XRule, ...]:
    return chain.rules if chain is not None else ()


def _middle(
    left: Sequence[XRule], right: Sequence[XRule]
) -> tuple[Sequence[XRule], Sequence[XRule]]:
    """Leave out the equal rules at both ends."""
    start, end = _equal_ends(left, right)
    return left[start : len(left) - end], right[start : len(right) - end]


def _equal_ends(left: Sequence[XRule], right: Sequence[XRule]) -> tuple[int, int]:
    shorter = min(len(left), len(right))
    start = 0
    while start < shorter and left[start] == right[start]:
        start += 1
    end = 0
    while end < shorter - start and left[-1 - end] == right[-1 - end]:
        end += 1
    return start, end


def _differences(
    left: Sequence[XRule], right: Sequence[XRule]
) -> Iterator[tuple[int, XRule | None, XRule | None]]:
    """Rules that differ, counted from 1."""
    start, _ = _equal_ends(left, right)
    left, right = _middle(left, right)
    for offset in range(max(len(left), len(right))):
        yield (
            start + offset + 1,
            left[offset] if offset < len(left) else None,
            right[offset] if offset < len(right) else None,
        )
