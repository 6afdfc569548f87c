"""The words of a rule as `iptables -S` prints them, read into options.

Not here: what is made of them (`openings`, `denials`).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Modules of iptables whose answer does not depend on how often they are asked, and the comment,
# which is replaced.
MODULES = frozenset(
    (
        *("tcp", "multiport", "conntrack", "state", "comment", "mac", "iprange", "set"),
        *("addrtype", "mark", "connmark", "physdev", "limit", "owner"),
    )
)
_FREE = ("--comment", "--log-prefix", "--nflog-prefix")  # any text follows, even `-j`
_OF_ADDRESS = ("-d", "--dst-range", "--limit-iface-in", "--limit-iface-out", "--rdest")


class Option(NamedTuple):
    """An option of a rule with its values; `module`: which it is of, empty for built-in ones."""

    module: str
    name: str
    values: tuple[str, ...]
    is_negated: bool

    @property
    def words(self) -> tuple[str, ...]:
        """It as it was read."""
        return (*(("!",) if self.is_negated else ()), self.name, *self.values)


def parse(words: Sequence[str]) -> Iterator[Option]:
    """Read words into options: what follows `-m` is of that module."""
    module, name, is_negated, is_next_negated = "", "", False, False
    values: list[str] = []
    for word in (*words, "-"):
        is_text = name in _FREE and not values
        if word == "!" and not is_text:
            is_next_negated = True
            continue
        if is_text or not word.startswith("-"):
            values.append(word)
            continue
        if name:
            yield Option(module, name, tuple(values), is_negated)
        if name == "-m":
            module = values[0]
        name, values = word, []
        is_negated, is_next_negated = is_next_negated, False


def depends_on_address(option: Option) -> bool:
    """Whether it looks at the address of the destination, other than at its type alone."""
    if option.name == "--match-set":
        return "dst" in option.values[-1].split(",")
    is_of_reply = option.name.startswith("--ctrepl")
    is_of_dst_mode = option.name == "--hashlimit-mode" and "dst" in option.values[0]
    return option.name in _OF_ADDRESS or is_of_reply or is_of_dst_mode


def read_ports(option: Option) -> Iterator[tuple[int, int]]:
    """Give the ranges of ports that `--dport` or `--dports` names; raises ValueError."""
    for text in option.values[0].split(","):
        first, _, last = text.partition(":")
        yield int(first), int(last or first)
