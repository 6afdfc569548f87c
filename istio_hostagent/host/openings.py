"""What of ours is in other people's firewalls, by netlink alone: found, and taken out.

It is a chain with a name of our own, and the rules that lead there; nobody has to remember where.
Not here: putting it in (`firewalltools`), and what it says (`redirect.openings`).
"""

import errno
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import ApplyRejected, HostAgentError, KernelBusy
from ..redirect import model
from . import nftpresence
from .nfnetlink import connection, expressions, framing, messages

FAMILIES = {"inet": 1, "ip": 2, "ip6": 10}  # NFPROTO_*
# NFT_JUMP, NFT_GOTO: the verdicts that name a chain
_LEADING = (-3, -4)
_MAX_TRIES = 20


class Led(NamedTuple):
    """A rule that leads into our chain, in a chain of somebody else's."""

    family: str
    table: str
    chain: str
    handle: bytes


class Found(NamedTuple):
    """The tables in which our chain is, by family and name, and the rules that lead there."""

    tables: tuple[tuple[str, str], ...] = ()
    rules: tuple[Led, ...] = ()


def is_any() -> bool:
    """Whether our chain is in any table; raises KernelBusy, NotPermitted."""
    link = _connect()
    if link is None:
        return False
    try:
        return bool(_find_tables(link))
    finally:
        link.socket.close()


def find(link: connection.Connection) -> Found:
    """Find all there is now; raises KernelBusy, NotPermitted."""
    tables = _find_tables(link)
    rules = [each for place in tables for each in _find_in(link, place).led]
    return Found(tables, tuple(rules))


def take_out() -> bool:
    """Take all of it out, and say whether there was any.

    Each table on its own: one that cannot be cleaned keeps no other from it. Where somebody else's
    rule, one by another way than a jump, holds our chain, it stays there, empty. Raises the first
    of ApplyRejected, KernelBusy, NotPermitted when all have been tried.
    """
    link = _connect()
    if link is None:
        return False
    try:
        failures: list[HostAgentError] = []
        tables = _find_tables(link)
        is_out = False
        for place in tables:
            try:
                is_out |= _take_out_of(link, place)
            except (ApplyRejected, KernelBusy) as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return is_out
    finally:
        link.socket.close()


def _take_out_of(link: connection.Connection, place: tuple[str, str]) -> bool:
    """Take it out of one table; False: there was nothing, or an empty chain that is held."""
    keeps_chain = False
    for _ in range(_MAX_TRIES):
        generation = link.generation()
        found = _find_in(link, place)
        if place not in _find_tables(link):
            return False
        family, table = place
        number = FAMILIES[family]
        away = [messages.delete_rule(table, each.chain, each.handle, number) for each in found.led]
        if found.own:
            away.append(messages.delete_rules(table, model.OPENINGS_CHAIN, number))
        if not keeps_chain:
            away.append(messages.delete_chain(table, model.OPENINGS_CHAIN, number))
        try:
            # The function is called before the next round.
            return link.commit(away, lambda: generation)  # noqa: B023
        except KernelBusy:
            continue
        except ApplyRejected as error:
            if error.errno != errno.EBUSY or keeps_chain:
                raise
            keeps_chain = True
    raise KernelBusy("others keep changing the rules while ours are taken out of theirs")


class _Rules(NamedTuple):
    """Of one table: the rules that lead into our chain, and how many are in it."""

    led: tuple[Led, ...]
    own: int


def _find_in(link: connection.Connection, place: tuple[str, str]) -> _Rules:
    family, table = place
    body = framing.pack_text(1, table)
    led: list[Led] = []
    own = 0
    for each in link.dump(messages.GETRULE, body, family=FAMILIES[family], is_strict=False):
        chain, handle, data, _ = messages.read_raw_rule(each)
        own += chain == model.OPENINGS_CHAIN
        if leads_to_ours(expressions.decode_expressions(data)):
            led.append(Led(family, table, chain, handle))
    return _Rules(tuple(led), own)


def leads_to_ours(made: Iterable[model.Expr]) -> bool:
    """Whether a rule jumps into our chain: its verdict says so, and neither comment nor prefix."""
    return any(
        values.get("verdict") in _LEADING and values.get("chain") == model.OPENINGS_CHAIN
        for values in (dict(each.attributes) for each in made if each.name == "immediate")
    )


def _connect() -> connection.Connection | None:
    """None: there is no nf_tables, and so there is nothing."""
    sock, _ = nftpresence.open_socket()
    return connection.Connection(sock) if sock is not None else None


def _find_tables(link: connection.Connection) -> tuple[tuple[str, str], ...]:
    found = []
    for family, number in FAMILIES.items():
        for body in link.dump(messages.GETCHAIN, family=number, is_strict=False):
            table, name, _ = messages.read_chain(body)
            if name == model.OPENINGS_CHAIN:
                found.append((family, table))
    return tuple(found)
