"""Sets that stay while their content changes: a network more is an element more, not a new set.

A set is named after its content (`tables`), so that another content is another set, which is full
before any rule looks at it. Of ten thousand networks that is too much for one that comes or goes:
where rules stay as they are, elements are put into the set that they look at and taken out of it.
The kernel switches all of them over at one moment, the next generation; rules are switched a
moment earlier, so that a change of rules never comes with a change of elements.
Not here: messages (`host.transactions`).

The name of a set may therefore tell a content of before: sets are told by what is in them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..config import packed
from ..config.packed import PackedRanges
from . import model, ranges

# A set of fewer ranges, or of which more than this part changes, is made anew.
LEAST = 64
_PART = 8


class Delta(NamedTuple):
    """The elements by which one content becomes another."""

    removed: PackedRanges
    added: PackedRanges


def find(there: model.NamedSet, wanted: model.NamedSet) -> Delta | None:
    """Give the few elements by which a set becomes another one of its kind; None: make it anew.

    None as well where a range becomes a wider or a narrower one: kernels before 6.17 may find
    neither of the two for some microseconds (nft_rbtree_lookup() ended at an inactive element).
    """
    count = len(there.ranges)
    is_full = there.room and len(wanted.ranges) > there.room
    if there.kind != wanted.kind or wanted.kind not in model.WIDTHS or count < LEAST or is_full:
        return None
    found = packed.differ(there.ranges, wanted.ranges, count // _PART)
    if found is None or _overlap(*found):
        return None
    return Delta(*found)


def _overlap(removed: PackedRanges, added: PackedRanges) -> bool:
    """Whether a range of the one has something in common with one of the other."""
    return bool(ranges.intersect(tuple(ranges.join(removed)), tuple(ranges.join(added))))


def find_all(table: model.TableState, there: model.TableState) -> dict[str, Delta | None]:
    """Give the delta of each set that is there by its name with another content."""
    known = {each.name: each for each in there.sets}
    return {
        each.name: find(known[each.name], each)
        for each in table.sets
        if each.name in known and known[each.name] != each
    }


def keep_all(
    states: Sequence[model.TableState], there: Mapping[str, model.TableState]
) -> list[model.TableState]:
    """Give the same tables with the sets that are there, as far as they can stay.

    No set changes where rules do, be it in the other table: the guard would still refuse, or not
    refuse yet, what the main table does not capture any more, or captures.
    """
    kept = [keep_sets(each, there.get(each.name, each)) for each in states]
    if all(each.name in there and each.chains == there[each.name].chains for each in kept):
        return kept
    return [keep_sets(each, there.get(each.name, each), may_change=False) for each in states]


def keep_sets(
    state: model.TableState, present: model.TableState, *, may_change: bool = True
) -> model.TableState:
    """Give the same table with the sets that are there, as far as they can stay.

    Those of equal content keep their names. If nothing but content differs then, and only by a few
    elements, the other ones do so, too, unless not one `may_change`.
    """
    there = {each.name: each for each in present.sets}
    if all(there.get(each.name) == each for each in state.sets):
        return state
    looked_at = set(_looked_at(present))
    equal: dict[str, model.NamedSet] = {}
    changed: dict[str, model.NamedSet] = {}
    for each in state.sets:
        alike = [one for one in present.sets if _is_alike(one, each)]
        alike.sort(key=lambda one: (one.name not in looked_at, one.name))
        same = [one for one in alike if one.ranges == each.ranges]
        if same:
            equal[each.name] = same[0]
        elif not may_change or not alike or alike[0].name not in looked_at:
            continue
        elif find(alike[0], each) is not None:
            changed[each.name] = alike[0]._replace(ranges=each.ranges)
    in_place = _rename(state, equal | changed)
    is_all = len(equal) + len(changed) == len(state.sets)
    if is_all and in_place.chains == present.chains:
        return in_place
    return _rename(state, equal) if changed else in_place


def _is_alike(one: model.NamedSet, other: model.NamedSet) -> bool:
    return one.kind == other.kind and stem(one.name) == stem(other.name)


def stem(name: str) -> str:
    """Give the name of a set without what tells a content."""
    return name.partition(model.STAMP_SEPARATOR)[0]


def _looked_at(table: model.TableState) -> Iterator[object]:
    """Names of the sets that rules look at."""
    for chain in table.chains:
        for rule in chain.rules:
            for expression in rule.expressions:
                yield dict(expression.attributes).get("set")


def _rename(state: model.TableState, kept: Mapping[str, model.NamedSet]) -> model.TableState:
    """Put sets in the place of others, and their names into the rules."""
    names = {name: each.name for name, each in kept.items() if name != each.name}
    sets = (kept.get(each.name, each) for each in state.sets)
    chains = state.chains if not names else tuple(_rename_in_chain(c, names) for c in state.chains)
    return state._replace(sets=tuple(sorted(sets, key=lambda each: each.name)), chains=chains)


def _rename_in_chain(chain: model.ChainState, names: Mapping[str, str]) -> model.ChainState:
    rules = (
        rule._replace(expressions=tuple(_rename_in_lookup(e, names) for e in rule.expressions))
        for rule in chain.rules
    )
    return chain._replace(rules=tuple(rules))


def _rename_in_lookup(expression: model.Expr, names: Mapping[str, str]) -> model.Expr:
    if expression.name != "lookup":
        return expression
    attributes = (
        (key, names.get(str(value), value) if key == "set" else value)
        for key, value in expression.attributes
    )
    return expression._replace(attributes=tuple(attributes))
