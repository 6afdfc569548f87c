"""Expressions to bytes and back, driven by one table.

Not here: which expressions a rule is made of (`redirect.expressions`).
Attributes are written in the order in which the kernel dumps them, with every default that it
dumps too: what is read back equals what was sent, byte for byte. Reading drops defaults, and keeps
what it does not know under a name that starts with `?`, so that it equals nothing of ours.
Source: include/uapi/linux/netfilter/nf_tables.h, and the `*_dump` functions of net/netfilter.
"""

import enum
import functools
from typing import NamedTuple

from ...redirect import model
from . import framing
from .framing import pack, pack_be32, pack_nested, pack_text

_LIST_ELEM = 1  # NFTA_LIST_ELEM
_EXPR_NAME, _EXPR_DATA = 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
# Twice what a rule set has of different expressions. Those that name sets change with each reload:
# a larger cache would fill with them, and keep nothing that is needed again.
_CACHED = 128


class _Kind(enum.Enum):
    NUMBER = 1
    TEXT = 2
    DATA = 3  # nested: a value
    RESULT = 4  # nested: a value, or a verdict that may name a chain
    IGNORED = 5  # written as eight zero bytes, not read: counts
    BYTE = 6  # a number of one byte


class _Attribute(NamedTuple):
    name: str
    number: int
    kind: _Kind = _Kind.NUMBER
    default: int | None = None


_SCHEMAS: dict[str, tuple[_Attribute, ...]] = {
    "meta": (_Attribute("key", 2), _Attribute("dreg", 1), _Attribute("sreg", 3)),
    "payload": (
        _Attribute("dreg", 1),
        _Attribute("base", 2),
        _Attribute("offset", 3),
        _Attribute("len", 4),
        _Attribute("sreg", 5),
    ),
    "ct": (
        _Attribute("dreg", 1),
        _Attribute("key", 2),
        _Attribute("direction", 3, _Kind.BYTE),
        _Attribute("sreg", 4),
    ),
    "fib": (_Attribute("dreg", 1), _Attribute("result", 2), _Attribute("flags", 3)),
    "cmp": (_Attribute("sreg", 1), _Attribute("op", 2), _Attribute("data", 3, _Kind.DATA)),
    "bitwise": (
        _Attribute("sreg", 1),
        _Attribute("dreg", 2),
        _Attribute("len", 3),
        _Attribute("op", 6, default=0),  # since 5.6; 0 is mask and xor
        _Attribute("mask", 4, _Kind.DATA),
        _Attribute("xor", 5, _Kind.DATA),
    ),
    "lookup": (
        _Attribute("set", 1, _Kind.TEXT),
        _Attribute("sreg", 2),
        _Attribute("dreg", 3),
        _Attribute("flags", 5, default=0),
    ),
    "immediate": (_Attribute("dreg", 1), _Attribute("data", 2, _Kind.RESULT)),
    "nat": (
        _Attribute("type", 1),
        _Attribute("family", 2),
        _Attribute("addr_min", 3),
        _Attribute("addr_max", 4),
        _Attribute("proto_min", 5),
        _Attribute("proto_max", 6),
        _Attribute("flags", 7),
    ),
    "redir": (_Attribute("proto_min", 1), _Attribute("proto_max", 2), _Attribute("flags", 3)),
    "socket": (_Attribute("key", 1), _Attribute("dreg", 2), _Attribute("level", 3)),
    "tproxy": (_Attribute("family", 1), _Attribute("address", 2), _Attribute("port", 3)),
    "reject": (_Attribute("type", 1),),
    "counter": (
        _Attribute("bytes", 1, _Kind.IGNORED),
        _Attribute("packets", 2, _Kind.IGNORED),
    ),
    "objref": (_Attribute("name", 2, _Kind.TEXT), _Attribute("type", 1)),
    "dynset": (
        _Attribute("sreg", 4),
        _Attribute("op", 3),
        _Attribute("set", 1, _Kind.TEXT),
        _Attribute("flags", 9, default=0),
    ),
}


def encode_expressions(expressions: tuple[model.Expr, ...]) -> bytes:
    """Give the content of NFTA_RULE_EXPRESSIONS; KeyError for an expression we do not write."""
    return b"".join(map(encode, expressions))


@functools.lru_cache(maxsize=_CACHED)
def encode(expression: model.Expr) -> bytes:
    """Give one list element: name and attributes."""
    values = dict(expression.attributes)
    parts = [
        _encode_attribute(attribute, values)
        for attribute in _SCHEMAS[expression.name]
        if _is_written(attribute, values)
    ]
    name = pack_text(_EXPR_NAME, expression.name)
    return pack_nested(_LIST_ELEM, name, pack_nested(_EXPR_DATA, *parts))


def _is_written(attribute: _Attribute, values: dict[str, int | str | bytes]) -> bool:
    if attribute.name in values or attribute.default is not None:
        return True
    return attribute.kind in (_Kind.RESULT, _Kind.IGNORED)


def _encode_attribute(attribute: _Attribute, values: dict[str, int | str | bytes]) -> bytes:
    if attribute.kind is _Kind.IGNORED:
        return pack(attribute.number, bytes(8))
    if attribute.kind is _Kind.RESULT and "verdict" in values:
        verdict = [pack_be32(_VERDICT_CODE, int(values["verdict"]))]
        if "chain" in values:
            verdict.append(pack_text(_VERDICT_CHAIN, str(values["chain"])))
        return pack_nested(attribute.number, pack_nested(_DATA_VERDICT, *verdict))
    value = values.get(attribute.name, attribute.default)
    if isinstance(value, bytes):
        return pack_nested(attribute.number, pack(_DATA_VALUE, value))
    if isinstance(value, str):
        return pack_text(attribute.number, value)
    if value is None:
        raise KeyError(attribute.name)
    if attribute.kind is _Kind.BYTE:
        return pack(attribute.number, bytes((value,)))
    return pack_be32(attribute.number, value)


def decode_expressions(data: bytes) -> tuple[model.Expr, ...]:
    """Read the content of NFTA_RULE_EXPRESSIONS."""
    return tuple(
        [_decode(content) for kind, content in framing.iterate(data) if kind == _LIST_ELEM]
    )


def _decode(content: bytes) -> model.Expr:
    # Counts change with every packet and would fill the cache of everything else.
    if content.startswith(_COUNTER_START):
        return _COUNTER
    return _decode_cached(content)


@functools.lru_cache(maxsize=_CACHED)
def _decode_cached(content: bytes) -> model.Expr:
    parts = framing.read(content)
    name = framing.text(parts.get(_EXPR_NAME, b""))
    schema = _SCHEMAS.get(name)
    if schema is None:
        return model.Expr(f"?{name}", (("?", parts.get(_EXPR_DATA, b"")),))
    found = framing.read(parts.get(_EXPR_DATA, b""))
    values: list[tuple[str, int | str | bytes]] = []
    for attribute in schema:
        data = found.pop(attribute.number, None)
        if data is not None:
            values += _decode_attribute(attribute, data)
    values += ((f"?{number}", data) for number, data in sorted(found.items()))
    return model.Expr(name, tuple(values))


def _decode_attribute(attribute: _Attribute, data: bytes) -> list[tuple[str, int | str | bytes]]:
    if attribute.kind is _Kind.IGNORED:
        return []
    if attribute.kind is _Kind.TEXT:
        return [(attribute.name, framing.text(data))]
    if attribute.kind in (_Kind.NUMBER, _Kind.BYTE):
        number = framing.be32(data)
        return [] if number == attribute.default else [(attribute.name, number)]
    parts = framing.read(data)
    if _DATA_VALUE in parts:
        return [(attribute.name, parts[_DATA_VALUE])]
    verdict = framing.read(parts.get(_DATA_VERDICT, b""))
    code = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big", signed=True)
    values: list[tuple[str, int | str | bytes]] = [("verdict", code)]
    if _VERDICT_CHAIN in verdict:
        values.append(("chain", framing.text(verdict[_VERDICT_CHAIN])))
    return values


_COUNTER = model.Expr("counter")
_COUNTER_START = pack_text(_EXPR_NAME, "counter")
