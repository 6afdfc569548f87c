"""Where the kernel differs from what we want, one line for each difference.

Not here: what to do about it. Everything counts that decides about a packet: hook, type, priority
and policy of chains, every rule in its order, every range of every set, and what is there in
addition. Counters and the owner of a table do not count.
"""

from collections.abc import Iterator, Sequence

from ..config import packed
from ..config.packed import PackedRanges
from . import deltas, expressions, model, nft, ranges

_SHOWN = 3


def find_drift(desired: model.Ruleset, observed: model.Observed) -> tuple[model.Drift, ...]:
    """Give every difference; empty means equal. With an empty `desired` nothing may be there."""
    there = {table.name: table for table in observed.tables}
    found: list[model.Drift] = []
    for table in desired.tables:
        present = there.pop(table.name, None)
        place = f"table inet {table.name}"
        if present is None:
            found.append(model.Drift(place, "the table", ""))
        else:
            state = expressions.compile_table(table, present.owner)
            found += compare_tables(deltas.keep_sets(state, present), present)
    found += (model.Drift(f"table inet {name}", "", "the table") for name in there)
    for address in desired.loopback_addresses:
        if address not in observed.loopback_addresses:
            found.append(model.Drift("interface lo", f"address {address}", ""))
    for address in observed.loopback_addresses:
        if address not in desired.loopback_addresses:
            found.append(model.Drift("interface lo", "", f"address {address}"))
    found += (
        model.Drift("routing", str(each), "")
        for each in desired.routing
        if each not in observed.routing
    )
    found += (
        model.Drift("routing", "", str(each))
        for each in observed.routing
        if each not in desired.routing
    )
    return tuple(found)


def is_of_guard_alone(drifts: Sequence[model.Drift]) -> bool:
    """Whether these differences leave everything alone but the guard."""
    place = f"table inet {model.GUARD_TABLE}"
    return all(each.place == place or each.place.startswith(f"{place} ") for each in drifts)


def is_equal(state: model.TableState, present: model.TableState) -> bool:
    """Whether `compare_tables` would give no difference, and sets are cut alike; fast."""
    return (
        not present.is_dormant
        and [each[:3] for each in state.sets] == [each[:3] for each in present.sets]
        and state.timeouts == present.timeouts
        and state.chains == present.chains
    )


def compare_tables(state: model.TableState, present: model.TableState) -> tuple[model.Drift, ...]:
    """Give every difference between two tables of one name."""
    place = f"table inet {state.name}"
    found: list[model.Drift] = []
    if present.is_dormant:
        found.append(model.Drift(place, "active", "dormant"))
    if state.sets != present.sets:
        found += _compare_sets(place, state.sets, present.sets)
    if state.timeouts != present.timeouts:
        found += _compare_timeouts(place, state.timeouts, present.timeouts)
    if state.chains != present.chains:
        found += _compare_chains(place, state.chains, present.chains)
    return tuple(found)


def _compare_sets(
    place: str, desired: Sequence[model.NamedSet], observed: Sequence[model.NamedSet]
) -> Iterator[model.Drift]:
    there = {each.name: each for each in observed}
    for one in desired:
        other = there.pop(one.name, None)
        where = f"{place} set {one.name}"
        if other is None:
            yield model.Drift(where, "the set", "")
        elif one.kind != other.kind:
            yield model.Drift(where, f"type {one.kind}", f"type {other.kind}")
        elif one.ranges != other.ranges:
            missing, surplus = _compare_ranges(one.ranges, other.ranges)
            if missing:
                yield model.Drift(where, _summary(one, missing), "")
            if surplus:
                yield model.Drift(where, "", _summary(one, surplus))
            if not missing and not surplus:
                yield model.Drift(where, "merged ranges", "the same values, cut differently")
    for name in there:
        yield model.Drift(f"{place} set {name}", "", "the set")


def _compare_ranges(
    desired: PackedRanges, observed: PackedRanges
) -> tuple[ranges.Ranges, ranges.Ranges]:
    """Give what is in the one alone, and in the other; what both have alike is left out first."""
    found = packed.differ(observed, desired, len(observed) + len(desired))
    assert found is not None
    only_there, only_here = map(ranges.merge, found)
    return ranges.subtract(only_here, only_there), ranges.subtract(only_there, only_here)


def _compare_timeouts(
    place: str, desired: Sequence[model.Timeout], observed: Sequence[model.Timeout]
) -> Iterator[model.Drift]:
    there = {each.name: each for each in observed}
    for one in desired:
        other = there.pop(one.name, None)
        if one != other:
            there_is = nft.render_timeout(other) if other else ""
            where = f"{place} ct timeout {one.name}"
            yield model.Drift(where, nft.render_timeout(one), there_is)
    for name, each in there.items():
        yield model.Drift(f"{place} ct timeout {name}", "", nft.render_timeout(each))


def _summary(named_set: model.NamedSet, found: ranges.Ranges) -> str:
    shown = ", ".join(nft.render_member(named_set, *each) for each in found[:_SHOWN])
    return f"{shown} and {len(found) - _SHOWN} more" if len(found) > _SHOWN else shown


def _compare_chains(
    place: str, desired: Sequence[model.ChainState], observed: Sequence[model.ChainState]
) -> Iterator[model.Drift]:
    there = {each.name: each for each in observed}
    for one in desired:
        other = there.pop(one.name, None)
        where = f"{place} chain {one.name}"
        if other is None:
            yield model.Drift(where, "the chain", "")
            continue
        if one.hook != other.hook:
            yield model.Drift(where, _hook(one.hook), _hook(other.hook))
        if one.rules != other.rules:
            yield from _compare_rules(where, one.rules, other.rules)
    for name in there:
        yield model.Drift(f"{place} chain {name}", "", "the chain")


def _hook(hook: model.Hook | None) -> str:
    return nft.render_hook(hook) if hook else "no hook"


def _compare_rules(
    place: str, desired: Sequence[model.RuleState], observed: Sequence[model.RuleState]
) -> Iterator[model.Drift]:
    """Name what differs between the equal rules at both ends; counted from 1."""
    shorter = min(len(desired), len(observed))
    start = 0
    while start < shorter and desired[start] == observed[start]:
        start += 1
    end = 0
    while end < shorter - start and desired[-1 - end] == observed[-1 - end]:
        end += 1
    left = desired[start : len(desired) - end]
    right = observed[start : len(observed) - end]
    for offset in range(max(len(left), len(right))):
        yield model.Drift(
            f"{place} rule {start + offset + 1}",
            nft.render_rule(left[offset]) if offset < len(left) else "",
            nft.render_rule(right[offset]) if offset < len(right) else "",
        )
