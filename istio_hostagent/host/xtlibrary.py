"""Changes legacy tables (x_tables) through python-iptables, one commit for each table.

Only workers import this, one for each family: a process in which the library has worked on one
family cannot work on the other (it calls exit(3)). Its traps are met here, each with a test:

- It opens every table that there could be, and so makes it, when it asks whether a target is a
  chain: it is told of one table alone.
- It commits with each call, and then swallows what the kernel refuses: `autocommit` is off.
- It takes no lock: we hold that of xtables.
- Who replaces a rule between its look and its commit is reverted without a word: the table is read
  by us before its look and before the commit, and must be the same.
- After a commit its copy is of no use: each table is looked at anew for each commit.
- `iptc.easy` makes wider rules of what it does not understand: it is not used. Everything is read
  back by our own decoder (`xtentries`) besides.
- It knows the options of an extension in the form that libxtables had until iptables 1.8.10; in
  Debian 13 they are longer, and it finds none but the first: it is told how long they are.
- Of the name of an interface it has IPv6 compare one bit of each letter, so that `lo` is `virbr0`
  as well: all bits are set behind it.
- It crashes with threads: there are none.

Not here: what the rules are (`redirect.xtrender`).
"""

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from typing import Any

import iptc
import iptc.xtables

from ..errors import ApplyRejected, HostUnsupported, KernelBusy
from ..redirect import xtplan
from ..redirect.xtables import Family, XRule, XTable
from . import legacytables, xtentries, xtkernel, xtlayout, xtlock

_MAX_TRIES = 20
_CLASSES = {
    Family.V4: (iptc.Table, iptc.Chain, iptc.Rule),
    Family.V6: (iptc.Table6, iptc.Chain, iptc.Rule6),
}
_HEAD = {
    "-s": "src",
    "-d": "dst",
    "-i": "in_interface",
    "-o": "out_interface",
    "-p": "protocol",
}


# Of an option in struct xt_option_entry (xtables.h): the library's own idea, and what there may be
# behind it.
_Option = iptc.xtables.xt_option_entry
_OPTION_SIZES = range(ctypes.sizeof(_Option), ctypes.sizeof(_Option) + 32, 8)
# How far apart the names of the options of one extension may be.
_NEAR = 1 << 16
_MASKS = {"-i": "iniface_mask", "-o": "outiface_mask"}


def install(family: Family, steps: Sequence[XTable], *, lock_s: float = xtlock.TIME_S) -> None:
    """Make tables what these say, one after the other; nothing of anybody else changes.

    `lock_s`: how long others may hold the lock.

    Raises ApplyRejected, KernelBusy, HostUnsupported; then the tables before the one that it names
    are changed.
    """
    fit_options(family)
    with xtlock.locked(lock_s):
        for step in steps:
            _change(family, step)


def _change(family: Family, step: XTable) -> None:
    for _ in range(_MAX_TRIES):
        if _try(family, step):
            return
    raise KernelBusy(
        f"others keep changing {family.value} table {step.name}, without the lock of xtables"
    )


def _try(family: Family, step: XTable) -> bool:
    """Make one commit; False: somebody changed the table meanwhile."""
    table_class, _, _ = _CLASSES[family]
    table_class.ALL = [step.name]
    before = xtkernel.fetch(family, step.name)
    try:
        table = table_class(step.name, autocommit=False)
        table.refresh()
    except iptc.IPTCError as error:
        raise _rejected(family, step, f"cannot be opened: {_words(error)}") from error
    if before is None:
        before = xtkernel.fetch(family, step.name)  # made by the look of the library
    try:
        if not _is_same(family, step.name, before):
            return False
        _edit(family, table, step, before)
        if not _is_same(family, step.name, before):
            return False
        table.commit()
    except (iptc.IPTCError, iptc.XTablesError, ValueError) as error:
        if os.strerror(errno.EAGAIN) in _words(error):
            return False
        raise _rejected(family, step, _words(error)) from error
    finally:
        table.close()  # forgets what is not committed
    return True


def _words(error: Exception) -> str:
    """What the library says, which may be the text of bytes."""
    return str(error).replace("b'", "'").replace('"', "'")


def _rejected(family: Family, step: XTable, why: str) -> ApplyRejected:
    return ApplyRejected(
        f"{family.value} table {step.name}: {why}",
        step=f"commit {family.value} table {step.name}",
        errno=errno.EINVAL,
    )


def _is_same(family: Family, name: str, before: legacytables.Entries | None) -> bool:
    """Whether a table is as it was, but for its counters."""
    now = xtkernel.fetch(family, name)
    if now is None or before is None:
        return now is None and before is None
    return xtlayout.is_same(xtentries.FAMILIES[family], before, now)


def _edit(family: Family, table: Any, step: XTable, before: legacytables.Entries | None) -> None:
    """Change the library's copy; raises its errors."""
    chains = xtentries.read(family, before) if before is not None else ()
    wanted = {chain.name for chain in step.chains if not chain.is_built_in}
    own = xtplan.find_own(chains, wanted)
    for chain in chains:
        positions: list[int] = []
        if chain.is_built_in:
            positions = xtplan.find_positions(chain, own)
        elif chain.name not in own:
            positions = xtplan.find_in_the_way(chain, own - wanted)
        for position in reversed(positions):
            _delete(table, chain.name, position)
    for name in own:
        table.flush_entries(name)
    for name in own - wanted:
        table.delete_chain(name)
    for name in wanted - own:
        table.create_chain(name)
    for chain in step.chains:
        for position, rule in enumerate(chain.rules):
            entry = _build(family, rule).rule
            if chain.is_built_in:
                table.insert_entry(chain.name, entry, position)
            else:
                table.append_entry(chain.name, entry)


def _delete(table: Any, chain: str, position: int) -> None:
    # The library has no method for it, only for a rule that it has made itself.
    if table._iptc.iptc_delete_num_entry(chain.encode(), position, table._handle) != 1:
        why = _words(table.strerror())
        raise iptc.IPTCError(f"cannot delete rule {position + 1} of {chain}: {why}")


def _set_mask(head: Any, name: str) -> None:
    """Compare every bit of those letters that are compared at all."""
    setattr(head, name, b"\xff" * len(getattr(head, name)))


def _build(family: Family, rule: XRule) -> Any:
    """Make the library's form of one rule; raises its errors."""
    made = _CLASSES[family][2]()
    for test in rule.tests:
        if not test.module:
            setattr(made, _HEAD[test.option], f"{'!' if test.is_not else ''}{test.value}")
            if test.option in _MASKS:
                _set_mask(made.get_ip(), _MASKS[test.option])
    match: Any = None
    before = ""
    taken: set[str] = set()
    for test in rule.tests:  # those of one module are together
        if not test.module:
            continue
        # A match takes each option once.
        if test.module != before or test.option in taken:
            match = made.create_match(test.module)
            before, taken = test.module, set()
        taken.add(test.option)
        if test.option:
            values = test.value.split(" ")
            match.set_parameter(test.option[2:], ["!", *values] if test.is_not else values)
    if rule.comment:
        made.create_match("comment").set_parameter("comment", [rule.comment])
    target = made.create_target(rule.target, goto=rule.is_goto)
    for option, value in rule.options:
        target.set_parameter(option[2:], value)
    made.final_check()
    return made


def fit_options(family: Family) -> int:
    """Tell the library how long an option is, and give that; raises HostUnsupported."""
    rule = _CLASSES[family][2]()
    options = rule.create_match("addrtype")._module.x6_options
    size = _find_size(ctypes.cast(options, ctypes.c_void_p).value or 0, (b"src-type", b"dst-type"))

    def each(entries: Any) -> Iterator[Any]:
        at = ctypes.cast(entries, ctypes.c_void_p).value or 0
        while at and _Option.from_address(at).name:
            yield _Option.from_address(at)
            at += size

    library = iptc.xtables.xtables
    find, check = _find_option, library._options_fcheck
    library._option_lookup = lambda _self, entries, name: find(each(entries), name)
    library._options_fcheck = lambda self, name, xflags, entries: check(
        self, name, xflags, [*each(entries), _Option()]
    )
    return size


def _find_option(options: Iterator[Any], name: bytes) -> Any:
    return next((option for option in options if option.name == name), None)


def _find_size(first: int, names: tuple[bytes, bytes]) -> int:
    """How far the second option of an extension is from the first."""
    pointer = ctypes.c_void_p.from_address(first).value or 0
    for size in _OPTION_SIZES if ctypes.string_at(pointer) == names[0] else ():
        other = ctypes.c_void_p.from_address(first + size).value or 0
        if abs(other - pointer) < _NEAR and ctypes.string_at(other) == names[1]:
            return size
    raise HostUnsupported("python-iptables does not fit libxtables, the library of iptables")
