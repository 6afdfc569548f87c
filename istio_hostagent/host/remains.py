"""What Istio's scripts have left in nf_tables: found and taken out.

Found by `redirect.takeover` from what is read here: the tables of iptables-nft, and the tables of
their nftables mode. All of it goes in one transaction, for the generation that was looked at: if
anybody else commits in between it is looked at anew.
Not here: legacy tables (`legacyremains`), what TPROXY needs besides rules (`tproxyremains`), and
seeing that there is nothing at all (`glance`).
"""

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import KernelBusy
from ..redirect import model, takeover
from . import compatrules, glance, nftpresence
from .nfnetlink import connection, framing, messages

FAMILIES = {2: "iptables-nft", 10: "ip6tables-nft"}  # NFPROTO_IPV4, NFPROTO_IPV6
NOT_REPLACED = "rules of ours are not there"
_GETFLOWTABLE = 23
_ACCEPT = 1
_MAX_TRIES = 20


class _Chain(NamedTuple):
    """A chain without its rules."""

    name: str
    is_built_in: bool
    policy: int


class _Compat(NamedTuple):
    """One table of iptables-nft; `handles`: of its rules, in the same order."""

    table: takeover.Table
    chains: tuple[_Chain, ...]
    handles: tuple[bytes, ...]


class Seen(NamedTuple):
    """What is there, the messages that take it out, and whether rules of ours are there."""

    remains: tuple[takeover.Remains, ...]
    messages: tuple[messages.Message, ...]
    generation: int
    has_ours: bool


def find(link: connection.Connection) -> Seen:
    """What is in nf_tables now; raises KernelBusy, NotPermitted."""
    for _ in range(_MAX_TRIES):
        generation = link.generation()
        remains: list[takeover.Remains] = []
        away: list[messages.Message] = []
        for family, place in FAMILIES.items():
            _find_compat(link, family, place, remains, away)
        _find_native(link, remains, away)
        has_ours = is_ours_there(link)
        if generation == link.generation():
            return Seen(tuple(remains), tuple(away), generation, has_ours)
    raise KernelBusy("others keep changing the rules while they are read")


def connect() -> connection.Connection | None:
    """Give a connection to nf_tables, None where it cannot be used; raises KernelBusy."""
    sock, _ = nftpresence.open_socket()
    return connection.Connection(sock) if sock is not None else None


def is_ours_there(link: connection.Connection | None) -> bool:
    """Whether rules of ours capture, in either place; raises KernelBusy, NotPermitted."""
    if glance.is_ours_in_legacy():
        return True
    if link is None:
        return False
    heads = map(messages.read_table, link.dump(messages.GETTABLE, is_strict=False))
    return any([head.name == model.MAIN_TABLE for head in heads])


def take_out(link: connection.Connection, *, is_replaced: bool) -> None:
    """Take out what `find` finds; raises ApplyRejected, KernelBusy, NotPermitted.

    `is_replaced`: only while rules of ours are there.
    """
    for _ in range(_MAX_TRIES):
        seen = find(link)
        if is_replaced and not seen.has_ours:
            raise KernelBusy(NOT_REPLACED)
        try:
            link.commit(seen.messages, lambda seen=seen: seen.generation)  # type: ignore[misc]
        except KernelBusy:
            continue
        return
    raise KernelBusy("others keep changing the rules while those of Istio are taken out")


def _find_compat(
    link: connection.Connection,
    family: int,
    place: str,
    remains: list[takeover.Remains],
    away: list[messages.Message],
) -> None:
    chains: dict[str, list[_Chain]] = {}
    for body in link.dump(messages.GETCHAIN, family=family, is_strict=False):
        table, name, hook = messages.read_chain(body)
        chain = _Chain(name, hook is not None, hook.policy if hook is not None else _ACCEPT)
        chains.setdefault(table, []).append(chain)
    # Rules are read only where something of theirs is.
    own = {chain.name for found in chains.values() for chain in found} & takeover.CHAINS
    if not own:
        return
    tables = [
        _read_table(link, family, name, found)
        for name, found in chains.items()
        if name in takeover.TABLES
    ]
    takings = takeover.find([each.table for each in tables])
    count = sum(len(taking.rules) for taking in takings)
    if count:
        author = takeover.name_author([each.table for each in tables])
        remains.append(takeover.Remains(count, author, place))
    by_name = {each.table.name: each for each in tables}
    for taking in takings:
        away += _take_out_of(link, family, by_name[taking.table], taking)


def _read_table(
    link: connection.Connection, family: int, name: str, chains: list[_Chain]
) -> _Compat:
    rules, handles = [], []
    body = framing.pack_text(1, name)
    for each in link.dump(messages.GETRULE, body, family=family, is_strict=False):
        chain, handle, data, comment = messages.read_raw_rule(each)
        rules.append(compatrules.read(family, chain, data, comment))
        handles.append(handle)
    own = tuple(chain.name for chain in chains if not chain.is_built_in)
    return _Compat(takeover.Table(name, own, tuple(rules)), tuple(chains), tuple(handles))


def _take_out_of(
    link: connection.Connection, family: int, found: _Compat, taking: takeover.Taking
) -> Iterator[messages.Message]:
    name = taking.table
    if _is_all(found, taking) and not _has_more(link, family, name):
        # iptables-nft made it for them, and makes it again for whoever needs it.
        yield messages.delete_table(name, family)
        return
    for number in taking.rules:
        chain = found.table.rules[number].chain
        yield messages.delete_rule(name, chain, found.handles[number], family)
    for chain in taking.chains:
        yield messages.delete_chain(name, chain, family)


def _is_all(found: _Compat, taking: takeover.Taking) -> bool:
    """Whether nothing but chains without rules and without a policy would be left."""
    others = [chain for chain in found.chains if chain.name not in taking.chains]
    is_open = all(chain.is_built_in and chain.policy == _ACCEPT for chain in others)
    return is_open and len(taking.rules) == len(found.table.rules)


def _has_more(link: connection.Connection, family: int, table: str) -> bool:
    """Whether a table has anything but chains."""
    body = framing.pack_text(1, table)
    commands = (messages.GETSET, messages.GETOBJ, _GETFLOWTABLE)
    return any(
        bool(list(link.dump(command, body, family=family, is_strict=False)))
        for command in commands
    )


def _find_native(
    link: connection.Connection,
    remains: list[takeover.Remains],
    away: list[messages.Message],
) -> None:
    heads = map(messages.read_table, link.dump(messages.GETTABLE, is_strict=False))
    names = [head.name for head in heads if head.name in takeover.NATIVE_TABLES]
    count = sum(
        len(list(link.dump(messages.GETRULE, framing.pack_text(1, name), is_strict=False)))
        for name in names
    )
    if names:
        remains.append(takeover.Remains(count, "istio-iptables", takeover.NFTABLES))
        away += [messages.delete_table(name) for name in names]
