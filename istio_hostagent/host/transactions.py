"""From tables as they are to tables as they must be: the transactions, in order.

Not here: sending them (`nftables`). A table that is there is changed where it differs and stays
otherwise, counters included. There are two steps, because of something that was measured (kernel
6.18, 2 connections in 100 replacements went around the proxy): a set that is filled in the same
transaction as the rules that look at it is seen empty for some microseconds. So first everything
is put there that no rule looks at yet; then one transaction switches all tables over. Whoever
dies in between leaves something behind that decides about no packet. Where rules stay as they are,
elements come into the sets that they look at, and go, without a second set (`redirect.deltas`).
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..redirect import deltas, model
from .nfnetlink import elements, messages
from .nfnetlink.messages import Message

Present = Mapping[str, model.TableState]

# What prepares a change is one transaction, or where it has more bytes several of so many. The
# kernel keeps what it tells of each element until all is done: of very many that takes longer than
# to put them in.
_AT_ONCE = 1 << 20  # 20 000 elements and more
_PORTION = 1 << 17


def prepare(tables: Sequence[model.TableState], present: Present) -> Iterator[Message]:
    """Make missing tables and missing sets; nothing that a packet meets."""
    for table in tables:
        there = present.get(table.name)
        if there is None:
            yield _new_table(table)
        yield from _new_sets(table, there.sets if there else ())
        yield from _new_timeouts(table, there)


def portions(parts: Iterable[Message]) -> Iterator[list[Message]]:
    """Cut what prepares a change into transactions; whatever of them is done decides nothing."""
    following = iter(parts)
    first = list(_take(following, _AT_ONCE))
    rest = next(following, None)
    if rest is None:
        yield first
        return
    whole = itertools.chain(first, (rest,), following)
    while portion := list(_take(whole, _PORTION)):
        yield portion


def _take(parts: Iterator[Message], size: int) -> Iterator[Message]:
    """Give parts until these are so many bytes."""
    taken = 0
    while taken < size and (part := next(parts, None)) is not None:
        taken += len(part.body)
        yield part


def undo(tables: Sequence[model.TableState], present: Present) -> Iterator[Message]:
    """Take back what `prepare` made, each part for itself: some may not have been made yet."""
    for table in tables:
        there = present.get(table.name)
        if there is None:
            yield messages.delete_table(table.name)
            continue
        for each in _missing(table.sets, there.sets):
            yield messages.delete_set(table.name, each.name)
        for timeout in _other_timeouts(table, there):
            yield messages.delete_timeout(table.name, timeout)


def switch(
    tables: Sequence[model.TableState], delete: Iterable[str], present: Present
) -> Iterator[Message]:
    """Make chains and rules what they must be, and remove what is not wanted any more."""
    for table in tables:
        yield from _switch_table(table, present.get(table.name))
    for name in delete:
        if name in present:
            yield messages.delete_table(name)


def replace(table: model.TableState) -> Iterator[Message]:
    """Remove a table and make it anew, all at once: sets are seen empty for a moment."""
    yield messages.delete_table(table.name)
    yield _new_table(table)
    yield from _new_sets(table, ())
    yield from _new_timeouts(table, None)
    yield from _switch_table(table, None)


def is_changeable(table: model.TableState, there: model.TableState) -> bool:
    """Whether `there` can become `table` without being removed first."""
    if table.owner is not there.owner or there.is_dormant:
        return False
    chains = {chain.name: chain for chain in there.chains}
    timeouts = {each.name: each for each in there.timeouts}
    if any(timeouts.get(each.name, each) != each for each in table.timeouts):
        return False
    if any(chains.get(chain.name, chain).hook != chain.hook for chain in table.chains):
        return False
    changed = deltas.find_all(table, there)
    return not changed or (None not in changed.values() and table.chains == there.chains)


def _new_table(table: model.TableState) -> Message:
    return messages.new_table(table.name, is_owned=table.owner is model.Owner.WE)


def _new_sets(table: model.TableState, there: Sequence[model.NamedSet]) -> Iterator[Message]:
    for number, each in enumerate(_missing(table.sets, there), 1):
        yield messages.new_set(table.name, each, number)
        yield from elements.new_elements(table.name, each, number)


def _new_timeouts(table: model.TableState, there: model.TableState | None) -> Iterator[Message]:
    for each in _other_timeouts(table, there):
        yield messages.new_timeout(table.name, each)


def _other_timeouts(
    table: model.TableState, than: model.TableState | None
) -> Iterator[model.Timeout]:
    """Those of a table whose names another state of it does not have."""
    names = {each.name for each in than.timeouts} if than else set()
    return (each for each in table.timeouts if each.name not in names)


def _missing(
    desired: Sequence[model.NamedSet], there: Sequence[model.NamedSet]
) -> list[model.NamedSet]:
    names = {each.name for each in there}
    return [each for each in desired if each.name not in names]


def _change_sets(table: model.TableState, there: model.TableState) -> Iterator[Message]:
    """Take elements out, and put others in, where both have a set."""
    sets = {each.name: each for each in table.sets}
    for name, delta in deltas.find_all(table, there).items():
        if delta is not None:
            removed, added = (sets[name]._replace(ranges=each) for each in delta)
            yield from elements.delete_elements(table.name, removed)
            yield from elements.new_elements(table.name, added, 0)


def _switch_table(table: model.TableState, there: model.TableState | None) -> Iterator[Message]:
    """Empty what differs, then remove, make and fill: each part finds what it names."""
    name = table.name
    before = {chain.name: chain for chain in there.chains} if there else {}
    desired = {chain.name for chain in table.chains}
    changed = [chain for chain in table.chains if before.get(chain.name) != chain]
    surplus = [chain for chain in before if chain not in desired]
    for chain_name in (*(chain.name for chain in changed), *surplus):
        if chain_name in before and before[chain_name].rules:
            yield messages.delete_rules(name, chain_name)
    for chain_name in surplus:
        yield messages.delete_chain(name, chain_name)
    for chain in changed:
        if chain.name not in before:
            yield messages.new_chain(name, chain.name, chain.hook)
    for chain in changed:
        for rule in chain.rules:
            yield messages.new_rule(name, chain.name, rule)
    if there:
        yield from _change_sets(table, there)
    for each in _missing(there.sets if there else (), table.sets):
        # A set without a name of its own goes with the rule that it belongs to.
        if not each.name.startswith("__"):
            yield messages.delete_set(name, each.name)
    for timeout in _other_timeouts(there, table) if there else ():
        yield messages.delete_timeout(name, timeout)
