"""Which rules of a host are what Istio's own scripts have left, known by their shape.

Those are istio-iptables (the command of pilot-agent), istio-iptables.sh of the classic releases
and prepare_proxy.sh of their images; what they write is in `reference/istio-modern.md` 3 and
`reference/istio-legacy.md` 3, as chains with names of their own, and rules in built-in chains.
A rule of a built-in chain is theirs if it jumps into one of these chains, or if such a chain is
there and the rule is, word for word, one that they write beside it. Nothing else is: what is not
understood belongs to somebody else.

Not here: reading rules (`host.xtrules`, `host.compatrules`) and taking them out (`host.remains`).
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import model

# Of both generations; those of ambient mode and of the CNI plugin are no host's of this kind.
CHAINS = frozenset(
    f"ISTIO_{name}"
    for name in (
        *("INBOUND", "IN_REDIRECT", "OUTPUT", "OUTPUT_DNS", "REDIRECT"),
        *("DIVERT", "TPROXY", "DROP"),
    )
)
# Places that are no name of an iptables, of which each takes `-save` and `-restore`.
NFTABLES, ROUTING = "nftables", "the routing policy"
# Tables of iptables in which they write, and of family inet those of the nftables mode.
TABLES = ("filter", "mangle", "nat", "raw")
NATIVE_TABLES = ("istio-proxy-mangle", "istio-proxy-nat", "istio-proxy-raw")
# What TPROXY leaves: packets with this mark look into this table, where everything is local.
TPROXY_MARK, TPROXY_TABLE = 1337, 133

# The words of a rule come in this order, whoever wrote it and whichever way it is kept.
_ORDER = (
    *("-i", "-o", "-s", "-d", "-p", "--sport", "--dport"),
    *("--uid-owner", "--gid-owner", "--mark", "--connmark"),
)
UNKNOWN = "?"  # begins a word for what is not understood

_OWNER = r"--(?:uid|gid)-owner \d+"
_NAMESERVER = r"(?:-%s [0-9a-f.:]+/(?:32|128) )?-p udp"
_TO_NAMESERVER, _FROM_NAMESERVER = _NAMESERVER % "d", _NAMESERVER % "s"
_DNS_REDIRECT = rf"OUTPUT {_TO_NAMESERVER} --dport 53 -j REDIRECT --to-ports 15053"
# What they write into built-in chains without a jump, by table.
_BESIDE: Mapping[str, tuple[str, ...]] = {
    "nat": (
        _DNS_REDIRECT,
        r"POSTROUTING -p udp --dport 15053 -j SNAT --to-source 127\.0\.0\.1",
        r"INPUT -p 255 -j RETURN",  # a question to the kernel that was broken off
    ),
    "mangle": (
        r"PREROUTING -p tcp --mark 0x539 -j CONNMARK --save-mark",
        r"OUTPUT -o lo -p tcp --mark 0x539 -j RETURN",
        rf"OUTPUT -o lo ! -d \S+ -p tcp {_OWNER} -j MARK --set-mark 0x53a",
        r"OUTPUT -p tcp --connmark 0x539 -j CONNMARK --restore-mark",
    ),
    "raw": (
        rf"PREROUTING {_FROM_NAMESERVER} --sport 53 -j CT --zone 1",
        rf"OUTPUT -p udp --dport 53 {_OWNER} -j CT --zone 1",
        rf"OUTPUT -p udp --sport 15053 {_OWNER} -j CT --zone 2",
        rf"OUTPUT {_TO_NAMESERVER} --dport 53 -j CT --zone 2",
    ),
}
# Of the releases that redirected DNS in OUTPUT itself; without that it may be anybody's.
_DNS_EXEMPTION = rf"OUTPUT -p udp --dport 53 {_OWNER} -j RETURN"
_INTERFACE = r"(?:PREROUTING -i|OUTPUT -o) (\S+) -j RETURN"
# At the head of these chains of the table filter, while rules are replaced.
_GUARDED = ("INPUT", "FORWARD", "OUTPUT")


class Part(enum.Enum):
    """Where there may be something of theirs; the value is the word that its worker knows."""

    NETLINK = "netlink"  # nf_tables and the routing policy
    LEGACY_V4 = "ip_tables"
    LEGACY_V6 = "ip6_tables"


class Rule(NamedTuple):
    """One rule. `text`: chain, words in a fixed order, `-j`, target; as iptables-save has it."""

    chain: str
    text: str
    target: str
    comment: str = ""


class Table(NamedTuple):
    """One table of iptables: its chains that are not built in, and its rules in order."""

    name: str
    chains: tuple[str, ...]
    rules: tuple[Rule, ...]


class Taking(NamedTuple):
    """What is Istio's in one table: positions in `Table.rules`, and chains that are theirs."""

    table: str
    rules: tuple[int, ...]
    chains: tuple[str, ...]


class Remains(NamedTuple):
    """So many rules, who has left them, and where they are."""

    rules: int
    author: str
    place: str

    @property
    def text(self) -> str:
        """The same in words."""
        plural = "" if self.rules == 1 else "s"
        return f"{self.rules} rule{plural} of {self.author} in {self.place}"

    @property
    def remedy(self) -> str:
        """The command that takes them out without us."""
        if self.place == NFTABLES:
            names = " ".join(name.rpartition("-")[2] for name in NATIVE_TABLES)
            return f"for t in {names}; do nft delete table inet istio-proxy-$t; done"
        if self.place == ROUTING:
            away = f"$i rule del fwmark {TPROXY_MARK} lookup {TPROXY_TABLE}"
            route = f"$i route flush table {TPROXY_TABLE}"
            return f"for i in 'ip -4' 'ip -6'; do while {away}; do :; done; {route}; done"
        filtered = "grep -v -e ISTIO_ -e 15053"
        return f"{self.place}-save | {filtered} | {self.place}-restore"


def make_rule(chain: str, words: Iterable[str], target: str, comment: str = "") -> Rule:
    """Put the words of a rule, such as `! -d 127.0.0.1/32`, into their order."""
    ordered = sorted(words, key=_rank)
    name = target.split(" ", 1)[0]
    return Rule(chain, " ".join((chain, *ordered, f"-j {target}")), name, comment)


def _rank(word: str) -> tuple[int, str]:
    option = word.removeprefix("! ").split(" ", 1)[0]
    return (_ORDER.index(option) if option in _ORDER else len(_ORDER)), word


def find(tables: Sequence[Table]) -> tuple[Taking, ...]:
    """What is Istio's in the tables of one back end and one family."""
    if not any(CHAINS.intersection(table.chains) for table in tables):
        return ()
    is_theirs = any(CHAINS.intersection(table.chains) - _find_ours(table) for table in tables)
    takings = []
    for table in tables:
        own = CHAINS.intersection(table.chains) - _find_ours(table)
        # Where ours have taken the place of theirs, forms that may be anybody's are left.
        beside = _find_beside(table, is_strict=not is_theirs)
        rules = tuple(
            number
            for number, rule in enumerate(table.rules)
            if (rule.chain in own or rule.target in own or number in beside)
            and not model.is_mark(rule.comment)
        )
        if rules or own:
            takings.append(Taking(table.name, rules, tuple(sorted(own))))
    return tuple(takings)


def _find_ours(table: Table) -> set[str]:
    """Chains of the agent's own in legacy tables, which have the same names."""
    return {rule.chain for rule in table.rules if model.is_mark(rule.comment)}


def _find_beside(table: Table, *, is_strict: bool) -> set[int]:
    """Positions of the rules that belong to their chains, and do not jump there.

    `is_strict`: only such as nobody else has, by their ports and marks.
    """
    texts = [rule.text for rule in table.rules]
    forms = list(_BESIDE.get(table.name, ()))
    if table.name == "nat" and any(re.fullmatch(_DNS_REDIRECT, text) for text in texts):
        forms.append(_DNS_EXEMPTION)
    found = {
        number
        for number, text in enumerate(texts)
        if any(re.fullmatch(form, text) for form in forms)
    }
    if is_strict:
        return found
    if table.name in ("nat", "mangle"):
        found |= _find_interfaces(table, texts)
    if table.name == "filter":
        found |= _find_guardrails(table)
    return found


def _find_interfaces(table: Table, texts: Sequence[str]) -> set[int]:
    """Interfaces that they leave alone: in both directions, or in front of a jump of their own.

    They come before the jump of their chain into theirs, if there is one.
    """
    found = set()
    for number, text in enumerate(texts):
        match = re.fullmatch(_INTERFACE, text)
        if match is None:
            continue
        name = match[1]
        pair = {f"PREROUTING -i {name} -j RETURN", f"OUTPUT -o {name} -j RETURN"}
        guests = rf"PREROUTING -i {re.escape(name)} (?:-d \S+ )?-j ISTIO_REDIRECT"
        is_theirs = pair <= set(texts) or (
            text.startswith("PREROUTING ") and any(re.fullmatch(guests, each) for each in texts)
        )
        if is_theirs and not _is_behind_jump(table, number):
            found.add(number)
    return found


def _is_behind_jump(table: Table, number: int) -> bool:
    chain = table.rules[number].chain
    jumps = ("ISTIO_INBOUND", "ISTIO_OUTPUT")
    before = (rule for rule in table.rules[:number] if rule.chain == chain)
    return any(rule.target in jumps for rule in before)


def _find_guardrails(table: Table) -> set[int]:
    """What drops all TCP and UDP while rules are replaced, where that was broken off."""
    found: set[int] = set()
    for chain in _GUARDED:
        heads = [number for number, rule in enumerate(table.rules) if rule.chain == chain][:2]
        texts = {table.rules[number].text for number in heads}
        if texts != {f"{chain} -p {protocol} -j DROP" for protocol in ("tcp", "udp")}:
            return set()
        found.update(heads)
    return found


def name_author(tables: Sequence[Table]) -> str:
    """Which of the scripts has left its rules in the tables of one back end and one family."""
    rules = [rule for table in tables for rule in table.rules]
    if any(rule.comment.startswith("istio/") for rule in rules):
        return "prepare_proxy.sh"
    ports: dict[str, str] = {}
    for rule in rules:
        if rule.chain in CHAINS and rule.target == "REDIRECT":
            ports.setdefault(rule.chain, rule.text.rsplit(" ", 1)[1])
    outbound, inbound = ports.get("ISTIO_REDIRECT"), ports.get("ISTIO_IN_REDIRECT")
    # Before 1.1 there was one port, and before 1.0 one chain, for both directions.
    is_classic = outbound is not None and inbound in (None, outbound)
    return "istio-iptables.sh" if is_classic else "istio-iptables"


class Outcome(NamedTuple):
    """What was found everywhere, what of it is left, and why as sentences."""

    found: tuple[Remains, ...] = ()
    left: tuple[Remains, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def taken(self) -> tuple[str, ...]:
        """What went, in words."""
        left = {(each.author, each.place): each.rules for each in self.left}
        gone = (
            each._replace(rules=each.rules - left.get((each.author, each.place), 0))
            for each in self.found
        )
        return tuple(each.text for each in gone if each.rules > 0)

    @property
    def unknown(self) -> str:
        """Why not everything that may be there was looked for, or nothing."""
        why = "; ".join(self.errors)
        return f"what Istio's scripts may have left is not known: {why}" if why else ""

    @property
    def problem(self) -> str:
        """What is still there, why, and the commands that mend it; or nothing."""
        texts = ", ".join(each.text for each in self.left)
        why = "; ".join(self.errors)
        if not self.left:
            return self.unknown
        remedies = " and ".join(f"`{each.remedy}`" for each in self.left)
        reason = f" could not be taken out ({why})" if why else " are still there"
        return f"{texts}{reason}; they go with {remedies}"


def render(text: str) -> str:
    """One line of a diff for rules that go, or would."""
    return f"-{text}"


def join(parts: Iterable[Outcome]) -> Outcome:
    """The outcome of all parts together."""
    found: tuple[Remains, ...] = ()
    left: tuple[Remains, ...] = ()
    errors: tuple[str, ...] = ()
    for each in parts:
        found, left, errors = found + each.found, left + each.left, errors + each.errors
    return Outcome(found, left, errors)
