"""The chains of one table of iptables-nft, read and changed.

Its programs write rules, which alone they then accept; netlink says what a rule really asks for,
and takes rules out by handle: a number in a chain is another rule's as soon as somebody inserts
one.
"""

import contextlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import HostAgentError, KernelBusy
from ..redirect import denials, model, openings
from . import firewallprograms, iptablesconditions
from . import openings as present
from .firewallprograms import ToolFailed
from .nfnetlink import connection, expressions, framing, messages

_DNAT = ("-m", "conntrack", "--ctstate", "DNAT")
_MAX_TRIES = 10
_HIDDEN = "it has conditions that iptables does not show"
_ACCEPT = 1  # NF_ACCEPT


class _Raw(NamedTuple):
    """A rule as the kernel tells it."""

    chain: str
    handle: int
    expressions: tuple[model.Expr, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it leads into our chain."""
        return present.leads_to_ours(self.expressions)


class Iptables:
    """A table of iptables-nft; a rule is known by its handle."""

    def __init__(self, link: connection.Connection, family: str, name: str) -> None:
        """Ask `link` for what the programs do not tell."""
        self._link = link
        self._family = family
        self._number = present.FAMILIES[family]
        self._program = firewallprograms.IPTABLES[family]
        self._table = name
        self._generation = 0

    def read(self, port: openings.Port) -> dict[str, list[openings.Listed]]:
        """Give the rules of all chains; raises ToolFailed, KernelBusy."""
        lines, raw = self._read_at_once()
        shown: dict[str, list[list[str]]] = {}
        for line in lines:
            kind, name, *words = shlex.split(line)
            if kind in ("-A", "-N", "-P"):
                of_chain = shown.setdefault(name, [])
                if kind == "-A":
                    of_chain.append(words)
        found: dict[str, list[_Raw]] = {name: [] for name in shown}
        for each in raw:
            found.setdefault(each.chain, []).append(each)
        if any(len(found[name]) != len(shown.get(name, ())) for name in found):
            raise ToolFailed("it has rules that iptables does not show")
        return {
            name: [
                self._listed(*each, port) for each in zip(found[name], shown[name], strict=True)
            ]
            for name in shown
        }

    def _read_at_once(self) -> tuple[list[str], list[_Raw]]:
        """Give what the program shows and what the kernel tells of the same state."""
        for _ in range(_MAX_TRIES):
            self._generation = self._link.generation()
            lines = firewallprograms.run((self._program, "-t", self._table, "-S")).splitlines()
            raw = self._dump()
            if self._link.generation() == self._generation:
                return lines, raw
        raise ToolFailed("others keep changing it while it is read")

    def _dump(self) -> list[_Raw]:
        body = framing.pack_text(1, self._table)
        rules = self._link.dump(messages.GETRULE, body, family=self._number, is_strict=False)
        return [
            _Raw(chain, int.from_bytes(handle, "big"), expressions.decode_expressions(data))
            for chain, handle, data, _ in map(messages.read_raw_rule, rules)
        ]

    def _listed(self, raw: _Raw, words: list[str], port: openings.Port) -> openings.Listed:
        digest = openings.read_digest(_find_comment(words))
        if digest and raw.is_ours:
            return openings.Listed(raw.handle, digest)
        verdicts = [dict(each.attributes).get("verdict") for each in raw.expressions]
        is_accept = [each for each in verdicts if each is not None] == [_ACCEPT]
        denial = denials.Denial(denials.EVERY)
        try:
            is_whole = iptablesconditions.are_all(words, raw.expressions, self._family)
            denial = denials.of_words(words, is_whole=is_whole)
            if not is_whole and is_accept:
                denial = denials.Denial()
            repeated = openings.repeat_words(words, port.at, port.captured)
        except openings.NotRepeatable as error:
            return openings.Listed(raw.handle, problem=str(error), denial=denial)
        except openings.MALFORMED:
            return openings.UNKNOWN._replace(handle=raw.handle)
        if repeated and not is_whole:
            return openings.Listed(raw.handle, problem=_HIDDEN, denial=denial)
        return openings.Listed(raw.handle, repetitions=repeated, denial=denial)

    def apply(self, changes: dict[str, openings.Changes], *, is_needed: bool) -> bool:
        """Make the changes, and our own chain or none of it; False: there was nothing to do.

        Raises ToolFailed, KernelBusy, ApplyRejected.
        """
        away = [
            messages.delete_rule(self._table, name, handle.to_bytes(8, "big"), self._number)
            for name, change in changes.items()
            for handle in change.delete
        ]
        if not is_needed:
            away.append(messages.delete_rules(self._table, model.OPENINGS_CHAIN, self._number))
            away.append(messages.delete_chain(self._table, model.OPENINGS_CHAIN, self._number))
        if away:
            self._link.commit(away, lambda: self._generation)
        lines = []
        if is_needed and not self._is_chain_right():
            lines.append(f":{model.OPENINGS_CHAIN} - [0:0]")  # which empties it, too
            words = (*_DNAT, "-m", "comment", "--comment", openings.COMMENT, "-j", "ACCEPT")
            lines.append(_join(("-A", model.OPENINGS_CHAIN, *words)))
        before = self._dump()
        lines += self._insertions(changes, before)
        if lines:
            text = "\n".join((f"*{self._table}", *lines, "COMMIT", ""))
            try:
                firewallprograms.run((f"{self._program}-restore", "--noflush"), text)
            except ToolFailed:
                self._take_back(before)  # it may have been done all the same
                raise
            if not self._is_in_place(changes, before):
                self._take_back(before)
                raise ToolFailed("others changed it at the same moment; ours is out again")
        return bool(away or lines)

    def _insertions(
        self, changes: dict[str, openings.Changes], before: Sequence[_Raw]
    ) -> Iterator[str]:
        for name, change in changes.items():
            handles = [each.handle for each in before if each.chain == name]
            for already, (handle, each) in enumerate(change.insert, 1):
                if handle not in handles:
                    raise ToolFailed("others changed it at the same moment")
                place = handles.index(handle) + already
                comment = ("-m", "comment", "--comment", f"{openings.PREFIX}{each.digest}")
                words = (*each.conditions, *comment, "-j", model.OPENINGS_CHAIN)
                yield _join(("-I", name, str(place), *words))

    def _is_in_place(self, changes: dict[str, openings.Changes], before: Sequence[_Raw]) -> bool:
        """Whether each new rule is directly in front of the one that it repeats."""
        known = {each.handle for each in before}
        for name, change in changes.items():
            wanted = [handle for handle, _ in change.insert]
            found: list[int] = []
            new = 0
            for each in self._dump():
                if each.chain != name:
                    continue
                if each.is_ours and each.handle not in known:
                    new += 1
                    continue
                found += [each.handle] * new
                new = 0
            if new or found != wanted:
                return False
        return True

    def _take_back(self, before: Sequence[_Raw]) -> None:
        known = {each.handle for each in before}
        for _ in range(_MAX_TRIES):
            generation = self._link.generation()
            away = [
                messages.delete_rule(
                    self._table, each.chain, each.handle.to_bytes(8, "big"), self._number
                )
                for each in self._dump()
                if each.is_ours and each.handle not in known
            ]
            with contextlib.suppress(KernelBusy):
                self._link.commit(away, lambda: generation)  # noqa: B023 - called at once
                return
        raise ToolFailed("others keep changing it; rules of ours may be in a wrong place")

    def _is_chain_right(self) -> bool:
        try:
            command = (self._program, "-t", self._table, "-S", model.OPENINGS_CHAIN)
            lines = firewallprograms.run(command).splitlines()
        except HostAgentError:
            return False  # there is none
        rules = [shlex.split(line) for line in lines if line.startswith("-A ")]
        return list(map(_find_comment, rules)) == [openings.COMMENT]


def _join(words: Iterable[str]) -> str:
    """Words as iptables-restore reads them."""
    return " ".join(_quote(word) for word in words)


def _quote(word: str) -> str:
    if not any(each in word for each in " \t\"'\\"):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _find_comment(words: Sequence[str]) -> str:
    for number, word in enumerate(words[:-1]):
        if word == "--comment":
            return words[number + 1]
    return ""
