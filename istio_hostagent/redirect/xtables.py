"""The rules of legacy tables (x_tables) as values, in the words of iptables(8).

Not here: which rules become of those of nf_tables (`xtrender`), how they get into the kernel
(`host.xtlibrary`) and how they are read from there (`host.xtentries`).
Ours is recognised by the comment of its rules, and by the names of chains that nobody else has.
"""

import enum
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import model

MARK = model.LEGACY_MARK
SET_CHAIN = "ISTIO_SET_"  # chains of networks, numbered
FLAGS_LOOKED_AT = "FIN,SYN,RST,ACK"
# In which order tables change, so that nothing goes around and nothing is refused on the way.
TABLES = ("raw", "mangle", "filter", "nat")


class Family(enum.Enum):
    """One IP version; each has tables of its own. The value is its command."""

    V4 = "iptables-legacy"
    V6 = "ip6tables-legacy"

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.V4 else 128


class NotExpressible(ValueError):
    """A rule has no equivalent in legacy tables; the text says which."""


class Condition(NamedTuple):
    """One condition as iptables(8) writes it; `module` empty: of every rule (`-s`, `-o`, `-p`)."""

    module: str
    option: str
    value: str
    is_not: bool = False

    def __str__(self) -> str:
        """The words behind the name of the module; none where that is all."""
        return f"{'! ' if self.is_not else ''}{self.option} {self.value}".strip()


class XRule(NamedTuple):
    """One rule: its tests in ascending order, a target with options, or the chain it goes to."""

    tests: tuple[Condition, ...]
    target: str
    options: tuple[tuple[str, str], ...] = ()
    is_goto: bool = False
    comment: str = ""

    def __str__(self) -> str:
        """The rule as `iptables-save` has it, without its chain."""
        words = []
        before = ""
        taken: set[str] = set()
        for test in self.tests:
            if test.module and (test.module != before or test.option in taken):
                words.append(f"-m {test.module}")
                before, taken = test.module, set()
            taken.add(test.option)
            words += [str(test)] if test.option else []
        if self.comment:
            words.append(f'-m comment --comment "{self.comment}"')
        words.append(f"{'-g' if self.is_goto else '-j'} {self.target}")
        words += (f"{option} {value}".rstrip() for option, value in self.options)
        return " ".join(words)

    @property
    def is_ours(self) -> bool:
        """Whether it carries our mark."""
        return model.is_mark(self.comment)


class XChain(NamedTuple):
    """Rules in order. Of a built-in chain only those of ours, which are its first."""

    name: str
    rules: tuple[XRule, ...]
    is_built_in: bool = False


class XTable(NamedTuple):
    """What is ours in one table, in order of names. Empty chains: nothing is."""

    name: str
    chains: tuple[XChain, ...] = ()

    def lines(self) -> Iterator[str]:
        """Every rule, as `iptables-save` has it."""
        for chain in self.chains:
            if not chain.is_built_in:
                yield f":{chain.name} - [0:0]"
        for chain in self.chains:
            for rule in chain.rules:
                yield f"-A {chain.name} {rule}"


def to_json(table: XTable) -> Any:
    """Give the JSON value of a table, for a worker."""
    return table  # tuples of texts, numbers and tuples


def from_json(value: Any) -> XTable:
    """Read what `to_json` gave."""
    name, chains = value
    return XTable(
        name,
        tuple(
            XChain(chain, tuple(map(_rule_from_json, rules)), is_built_in)
            for chain, rules, is_built_in in chains
        ),
    )


def _rule_from_json(value: Any) -> XRule:
    tests, target, options, is_goto, comment = value
    return XRule(
        tuple(Condition(*each) for each in tests),
        target,
        tuple((option, given) for option, given in options),
        is_goto,
        comment,
    )
