"""Other people's chains, read and changed by the programs that made them: nft and iptables-nft.

Rules are repeated there for captured connections (`redirect.openings`). A chain of nft's own is
read and written as JSON by nft(8); a table of iptables-nft by that (`iptablesrules`), which
refuses a table in which it finds rules that it could not have made. Loaded by workers only.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..errors import HostAgentError
from ..redirect import admission, denials, model, openings, takeover
from ..redirect.firewall import Passage
from ..redirect.openings import Port
from . import firewallprograms, iptablesrules
from . import openings as present
from .nfnetlink import connection, messages

_BUILT_IN = frozenset(("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"))
_OF_IPTABLES = frozenset((*takeover.TABLES, "security"))
_ACCEPT = {"accept": None}
_DNAT = {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
_LEADS = {"jump": {"target": model.OPENINGS_CHAIN}}
_INPUT, _PREROUTING = 1, 0  # NF_INET_LOCAL_IN, NF_INET_PRE_ROUTING
_TRANSLATION = -100  # NF_IP_PRI_NAT_DST

_Place = tuple[str, str]  # family and name of a table
_Chains = dict[str, list[openings.Listed]]


class Outcome(NamedTuple):
    """In which chains rules of ours are now, what was not done and why; whether any changed."""

    opened: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    has_changed: bool = False


class _Table(Protocol):
    """One table of somebody's, whichever program made it."""

    def read(self, port: Port) -> _Chains:
        """Give the rules of all chains; raises HostAgentError."""

    def apply(self, changes: dict[str, openings.Changes], *, is_needed: bool) -> bool:
        """Make the changes, and our own chain or none of it; False: there was nothing to do."""


class _Native:
    """A table of nft's."""

    def __init__(self, family: str, name: str) -> None:
        self._names = {"family": family, "table": name}
        self._is_chain_right = False

    def read(self, port: Port) -> _Chains:
        # Without the contents of sets (-t), which may be large.
        command = (firewallprograms.NFT, "-j", "-a", "-t", "list", "table", *self._names.values())
        found = json.loads(firewallprograms.run(command))["nftables"]
        chains: _Chains = {each["chain"]["name"]: [] for each in found if "chain" in each}
        rules = [each["rule"] for each in found if "rule" in each]
        for each in rules:
            chains[each["chain"]].append(_list_statements(each, port))
        comments = [each.get("comment") for each in rules if each["chain"] == model.OPENINGS_CHAIN]
        self._is_chain_right = comments == [openings.COMMENT]
        return chains

    def apply(self, changes: dict[str, openings.Changes], *, is_needed: bool) -> bool:
        steps: list[Any] = []
        chain = {**self._names, "name": model.OPENINGS_CHAIN}
        of_ours = {**self._names, "chain": model.OPENINGS_CHAIN}
        if is_needed and not self._is_chain_right:
            steps += [{"add": {"chain": chain}}, {"flush": {"chain": chain}}]
            rule: dict[str, Any] = {**of_ours, "comment": openings.COMMENT}
            steps.append({"add": {"rule": {**rule, "expr": [_DNAT, _ACCEPT]}}})
        for name, change in changes.items():
            place: dict[str, Any] = {**self._names, "chain": name}
            steps += [{"delete": {"rule": {**place, "handle": each}}} for each in change.delete]
            for handle, each in change.insert:
                rule = {**place, "handle": handle, "comment": f"{openings.PREFIX}{each.digest}"}
                steps.append({"insert": {"rule": {**rule, "expr": [*each.conditions, _LEADS]}}})
        if not is_needed:
            steps += [{"flush": {"chain": chain}}, {"delete": {"chain": chain}}]
        if steps:
            text = json.dumps({"nftables": steps})
            firewallprograms.run((firewallprograms.NFT, "-j", "-f", "-"), text)
        return bool(steps)


def _list_statements(rule: Any, port: Port) -> openings.Listed:
    handle, statements = rule["handle"], rule["expr"]
    digest = openings.read_digest(rule.get("comment", ""))
    if digest and _LEADS in statements:
        return openings.Listed(handle, digest)
    denial = denials.Denial(denials.EVERY)
    try:
        denial = denials.of_statements(statements)
        repeated = openings.repeat_statements(statements, port.at, port.captured)
    except openings.NotRepeatable as error:
        return openings.Listed(handle, problem=str(error), denial=denial)
    except openings.MALFORMED:
        return openings.UNKNOWN._replace(handle=handle)
    return openings.Listed(handle, repetitions=repeated, denial=denial)


def open_for(port: Port, passages: Sequence[Passage]) -> Outcome:
    """Let in captured connections where these passages are, and make right what is there already.

    A place that cannot be changed is named with the reason, and keeps no other from it. Raises
    KernelBusy, NotPermitted.
    """
    link = connection.Connection()
    there = present.find(link)
    asked = dict.fromkeys((*there.tables, *((each.family, each.table) for each in passages)))
    if not asked:
        return Outcome()
    firewall = _Firewall(link, port, tuple(asked))
    opened: list[str] = []
    refused: list[str] = []
    has_changed = False
    for place in asked:
        ours = {each.chain for each in there.rules if (each.family, each.table) == place}
        wanted = [each for each in passages if (each.family, each.table) == place]
        is_there = place in there.tables
        try:
            made = firewall.open(place, ours, wanted, is_there=is_there)
        except (HostAgentError, *openings.MALFORMED) as error:
            refused.append(f"the rules of table {' '.join(place)} stay as they are: {_say(error)}")
            continue
        opened += made.opened
        refused += made.refused
        has_changed |= made.has_changed
    return Outcome(tuple(opened), tuple(refused), has_changed)


def _say(error: Exception) -> str:
    if isinstance(error, HostAgentError):
        return error.message
    return "they have a form that is not known here"


class _Firewall:
    """All tables that a captured connection meets once it is translated."""

    def __init__(self, link: connection.Connection, port: Port, asked: Sequence[_Place]) -> None:
        self._port = port
        self._is_stale = False
        self._tables: dict[_Place, _Table] = {}
        self._chains: dict[_Place, _Chains] = {}
        self._failures: dict[_Place, Exception] = {}
        self._bases = _find_bases(link)
        for place in dict.fromkeys((*asked, *self._bases)):
            try:
                is_of_iptables = _is_of_iptables(link, *place)
                table: _Table = (
                    iptablesrules.Iptables(link, *place) if is_of_iptables else _Native(*place)
                )
                self._chains[place] = table.read(port)
                self._tables[place] = table
            except (HostAgentError, *openings.MALFORMED) as error:
                self._failures[place] = error

    def open(
        self, place: _Place, ours: set[str], passages: Sequence[Passage], *, is_there: bool
    ) -> Outcome:
        """Make one table right: the chains with rules of ours, and those of the passages."""
        if place in self._failures:
            raise self._failures[place]
        if self._is_stale:  # our change to another table has made a new generation
            self._chains[place] = self._tables[place].read(self._port)
        text = " ".join(place)
        bases = self._bases.get(place, ())
        listed = admission.keep_denials(self._chains[place], text, bases, self._besides(place))
        refused = []
        chains = set(ours)
        for passage in passages:
            reason = _find_reason(passage, listed)
            if reason:
                refused.append(f"{passage}: {reason}")
            else:
                chains.add(passage.chain)
        changes = {name: openings.arrange(listed[name]) for name in sorted(chains)}
        changes = {name: change for name, change in changes.items() if change}
        opened = [name for name in sorted(chains) if any(r.repetitions for r in listed[name])]
        has_changed = False
        if opened or is_there:
            self._is_stale = True
            has_changed = self._tables[place].apply(changes, is_needed=bool(opened))
        return Outcome(
            tuple(f"chain {text} {name}" for name in opened), tuple(refused), has_changed
        )

    def _besides(self, place: _Place) -> list[denials.Barrier]:
        """What the chains of other tables may deny, which the same packets meet."""
        found: list[denials.Barrier] = []
        for other, bases in self._bases.items():
            is_met = "inet" in (other[0], place[0]) or other[0] == place[0]
            if other == place or not is_met:
                continue
            text = " ".join(other)
            if other in self._failures:
                reason = f"table {text}, which cannot be read ({_say(self._failures[other])}),"
                found.append(denials.Barrier(denials.EVERY, reason))
                continue
            rules = admission.place_rules(self._chains[other], text)
            for base in bases:
                found += denials.collect(rules, base)
        return found


def _find_reason(passage: Passage, listed: Mapping[str, Sequence[openings.Listed]]) -> str:
    """Why the rule of a passage is not repeated; or nothing."""
    rules = listed.get(passage.chain, ())
    rule = next((each for each in rules if each.handle == passage.handle), None)
    if rule is None:
        return "it has gone meanwhile"
    if rule.problem or rule.repetitions:
        return rule.problem
    return "it does not name the port"


def _find_bases(link: connection.Connection) -> dict[_Place, list[str]]:
    """Find the chains of others that the kernel calls for what comes in, once it is translated."""
    found: dict[_Place, list[str]] = {}
    for family, number in present.FAMILIES.items():
        for body in link.dump(messages.GETCHAIN, family=number, is_strict=False):
            table, name, hook = messages.read_chain(body)
            is_ours = table in model.OUR_TABLES or table.startswith(model.PROBE_TABLE_PREFIX)
            if hook is None or (is_ours and family == "inet"):
                continue
            is_late = hook.number == _PREROUTING and hook.priority > _TRANSLATION
            if hook.number == _INPUT or is_late:
                found.setdefault((family, table), []).append(name)
    return found


def _is_of_iptables(link: connection.Connection, family: str, table: str) -> bool:
    """Whether a table has the name and the chains of iptables-nft, which would not bear others."""
    if family not in firewallprograms.IPTABLES or table not in _OF_IPTABLES:
        return False
    chains = link.dump(messages.GETCHAIN, family=present.FAMILIES[family], is_strict=False)
    found = [messages.read_chain(body) for body in chains]
    return any(
        hook is not None and name in _BUILT_IN for place, name, hook in found if place == table
    )
