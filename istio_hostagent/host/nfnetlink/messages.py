"""The messages of nf_tables: tables, chains, sets, elements and rules to bytes and back.

Not here: sending them (`connection`) and putting them in order (`host.nftables`).
Everything is of family inet, but for what is deleted of others.
Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from typing import NamedTuple

from ...redirect import model
from . import expressions, framing
from .framing import be32, pack, pack_be32, pack_nested, pack_text

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN = 0, 1, 2, 3, 4, 5
NEWRULE, GETRULE, DELRULE, NEWSET, GETSET, DELSET = 6, 7, 8, 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN, GETGEN = 12, 13, 14, 15, 16
NEWOBJ, GETOBJ, DELOBJ, DESTROYSET, DESTROYSETELEM, DESTROYOBJ = 18, 19, 20, 29, 30, 31
TABLE_DORMANT, TABLE_OWNER = 1, 2  # NFT_TABLE_F_*
SET_INTERVAL, SET_EVAL = 0x4, 0x20  # NFT_SET_*
_RECORDS = 4096  # at most, in a recording set
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT, the form in which nft keeps a comment
KEY_TYPES = {"ipv4_addr": 7, "ipv6_addr": 8, "inet_service": 13}
_KEY_NAMES = {number: name for name, number in KEY_TYPES.items()}
_SET_SIZE = 1  # NFTA_SET_DESC_SIZE
# Of a set: table, name, flags, key type, key length, description, user data of nft, handle, and in
# newer kernels back end name and number of elements. Anything else changes what the set does.
_PLAIN_SET = frozenset((1, 2, 3, 4, 5, 9, 13, 16, 19, 20))


# CTA_TIMEOUT_TCP_*, in the words of nft
_TCP_STATES = {"syn_sent": 1, "close": 8}
_TCP = 6


class Message(NamedTuple):
    """One part of a transaction. `step` says in words what it does, for errors."""

    command: int
    flags: int
    body: bytes
    step: str
    family: int = 1  # NFPROTO_INET


class TableHead(NamedTuple):
    """A table without its content; `owner` is the port of the owner's socket, 0 if nobody's."""

    name: str
    flags: int
    owner: int


def new_table(name: str, *, is_owned: bool) -> Message:
    """Make a table; owned means that only this socket may change it, and that it ends with it."""
    body = pack_text(1, name) + pack_be32(2, TABLE_OWNER if is_owned else 0)
    return Message(NEWTABLE, framing.NLM_F_CREATE, body, f"create table {name}")


def delete_table(name: str, family: int = 1) -> Message:
    """Remove a table with all that is in it."""
    return Message(DELTABLE, 0, pack_text(1, name), f"delete table {name}", family)


def delete_rules(table: str, chain: str, family: int = 1) -> Message:
    """Remove every rule of a chain."""
    body = pack_text(1, table) + pack_text(2, chain)
    return Message(DELRULE, 0, body, f"remove the rules of {table} {chain}", family)


def delete_rule(table: str, chain: str, handle: bytes, family: int) -> Message:
    """Remove one rule; `handle` as it was read."""
    body = pack_text(1, table) + pack_text(2, chain) + pack(3, handle)
    return Message(DELRULE, 0, body, f"remove a rule of {table} {chain}", family)


def delete_chain(table: str, name: str, family: int = 1) -> Message:
    """Remove a chain without rules that no rule jumps to."""
    body = pack_text(1, table) + pack_text(3, name)
    return Message(DELCHAIN, 0, body, f"delete chain {table} {name}", family)


def delete_set(table: str, name: str) -> Message:
    """Remove a set that no rule looks at."""
    body = pack_text(1, table) + pack_text(2, name)
    return Message(DELSET, 0, body, f"delete set {table} {name}")


def new_chain(table: str, name: str, hook: model.Hook | None) -> Message:
    """Make an empty chain."""
    body = pack_text(1, table) + pack_text(3, name)
    if hook:
        body += pack_nested(4, pack_be32(1, hook.number), pack_be32(2, hook.priority))
        body += pack_be32(5, hook.policy) + pack_text(7, hook.kind)
    return Message(NEWCHAIN, framing.NLM_F_CREATE, body, f"create chain {table} {name}")


def new_rule(table: str, chain: str, rule: model.RuleState) -> Message:
    """Append a rule to a chain."""
    body = (
        pack_text(1, table)
        + pack_text(2, chain)
        + pack(4, expressions.encode_expressions(rule.expressions))
    )
    if rule.comment:
        comment = rule.comment.encode() + b"\0"
        body += pack(7, bytes((_COMMENT, len(comment))) + comment)
    flags = framing.NLM_F_CREATE | framing.NLM_F_APPEND
    return Message(NEWRULE, flags, body, f"add rule to {table} {chain} ({rule.comment})")


def new_set(table: str, named_set: model.NamedSet, number: int) -> Message:
    """Make an empty set; `number` tells the sets of one transaction apart."""
    has_values = named_set.kind.endswith(model.VALUES)
    body = (
        pack_text(1, table)
        + pack_text(2, named_set.name)
        + pack_be32(3, 0 if has_values else SET_INTERVAL)
        + pack_be32(4, KEY_TYPES[named_set.kind.removesuffix(model.VALUES)])
        + pack_be32(5, named_set.ranges.width)
        # With a size the kernel takes the fastest of its hashes, and nothing above that size.
        + (pack_nested(9, pack_be32(_SET_SIZE, named_set.room)) if named_set.room else b"")
        + pack_be32(10, number)
    )
    return Message(NEWSET, framing.NLM_F_CREATE, body, f"create set {table} {named_set.name}")


def new_timeout(table: str, timeout: model.Timeout) -> Message:
    """Make a timeout policy for TCP; other states get what the host has now."""
    values = (pack_be32(_TCP_STATES[state], value) for state, value in timeout.seconds)
    data = pack(2, bytes((_TCP,))) + pack_nested(3, *values)
    body = _object_head(table, timeout) + pack_nested(4, data)
    return Message(NEWOBJ, framing.NLM_F_CREATE, body, f"create ct timeout {timeout.name}")


def delete_timeout(table: str, timeout: model.Timeout) -> Message:
    """Remove a timeout policy, or another object, that no rule names."""
    body = _object_head(table, timeout)
    return Message(DELOBJ, 0, body, f"delete ct timeout {timeout.name}")


def _object_head(table: str, timeout: model.Timeout) -> bytes:
    return pack_text(1, table) + pack_text(2, timeout.name) + pack_be32(3, timeout.kind)


def read_timeout(body: bytes) -> model.Timeout:
    """Read the answer to GETOBJ; of what is no timeout policy for TCP nothing but the kind."""
    found = framing.read(body)
    name, kind = framing.text(found[2]), be32(found.get(3, b""))
    policy = framing.read(found.get(4, b""))
    if kind != model.CT_TIMEOUT or policy.get(2) != bytes((_TCP,)):
        return model.Timeout(name, (), kind)
    values = framing.read(policy.get(3, b""))
    seconds = ((state, be32(values.get(number, b""))) for state, number in _TCP_STATES.items())
    return model.Timeout(name, tuple(sorted(seconds)), kind)


def new_recording_set(table: str, name: str, number: int, length: int) -> Message:
    """Make a set that rules fill; a key is several values, each padded to four bytes."""
    body = (
        pack_text(1, table)
        + pack_text(2, name)
        + pack_be32(3, SET_EVAL)
        + pack_be32(4, 0)
        + pack_be32(5, length)
        + pack_nested(9, pack_be32(1, _RECORDS))
        + pack_be32(10, number)
    )
    return Message(NEWSET, framing.NLM_F_CREATE, body, f"create set {table} {name}")


def read_table(body: bytes) -> TableHead:
    """Read the answer to GETTABLE."""
    found = framing.read(body)
    return TableHead(framing.text(found[1]), be32(found.get(2, b"")), be32(found.get(7, b"")))


def read_chain(body: bytes) -> tuple[str, str, model.Hook | None]:
    """Read the answer to GETCHAIN: table, name, hook."""
    found = framing.read(body)
    hook = None
    if 4 in found:
        place = framing.read(found[4])
        priority = int.from_bytes(place.get(2, b""), "big", signed=True)
        kind = framing.text(found.get(7, b""))
        if 3 in place or 4 in place:  # bound to devices, or kept by hardware
            kind += " on devices"
        hook = model.Hook(kind, be32(place.get(1, b"")), priority, be32(found.get(5, b"\1")))
    return framing.text(found[1]), framing.text(found[3]), hook


def read_raw_rule(body: bytes) -> tuple[str, bytes, bytes, str]:
    """Read the answer to GETRULE: chain, handle, expressions as bytes, comment."""
    found = framing.read(body)
    comment = _read_comment(found.get(7, b""))
    return framing.text(found[2]), found[3], found.get(4, b""), comment


def read_rule(body: bytes) -> tuple[str, model.RuleState]:
    """Read the answer to GETRULE: chain and rule."""
    found = framing.read(body)
    rule = model.RuleState(
        expressions.decode_expressions(found.get(4, b"")), _read_comment(found.get(7, b""))
    )
    return framing.text(found[2]), rule


def _read_comment(data: bytes) -> str:
    """Find the comment among type, length, value triples of one byte each."""
    offset = 0
    while offset + 2 <= len(data):
        kind, length = data[offset], data[offset + 1]
        if kind == _COMMENT:
            return framing.text(data[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def read_set(body: bytes) -> tuple[str, str, int]:
    """Read the answer to GETSET: name, kind and room. A kind of ours is a plain set."""
    found = framing.read(body)
    name = _KEY_NAMES.get(be32(found.get(4, b"")), "")
    flags = be32(found.get(3, b""))
    own = name if flags == SET_INTERVAL else f"{name}{model.VALUES}" if flags == 0 else ""
    if found.keys() <= _PLAIN_SET and model.WIDTHS.get(own) == be32(found.get(5, b"")):
        room = framing.read(found.get(9, b"")).get(_SET_SIZE, b"")
        return framing.text(found[2]), own, be32(room)
    others = sorted(found.keys() - _PLAIN_SET)
    kind = f"{name or 'key type ' + str(be32(found.get(4, b'')))} flags {flags}"
    return framing.text(found[2]), f"{kind} attributes {others}" if others else kind, 0
