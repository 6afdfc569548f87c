"""Tables and rules in the words of nft(8): for people, for goldens, and for `nft -f`.

Not here: how rules are made (`policy`, `expressions`). Whatever the kernel holds has a text, also
what we would never write: expressions without words of their own appear in square brackets.
"""

import ipaddress
import sys
from collections.abc import Iterator

from . import expressions, model, ranges
from .expressions import LOADS
from .model import Expr, Field

_HOOKS = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
_VERDICTS = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}
_FLAGS = {1: "fin", 2: "syn", 4: "rst", 8: "psh", 16: "ack", 32: "urg"}
# RTN_* of include/uapi/linux/rtnetlink.h, as far as nft(8) has words for them
_ADDRESS_TYPES = (
    *("unspec", "unicast", "local", "broadcast", "anycast", "multicast"),
    *("blackhole", "unreachable", "prohibit"),
)
_UDP = {Field.SPORT: Field.UDP_SPORT, Field.DPORT: Field.UDP_DPORT}
# What is loaded for TCP and UDP alike is told apart by the protocol that the rule asks for.
_FIELDS = {
    load.expressions: field
    for field, load in LOADS.items()
    if load.expressions and field not in _UDP.values()
}
_IMPLIED = {
    (*load.condition, *load.expressions)
    for load in LOADS.values()
    if load.condition and load.is_implied
}
_IMPLYING = {rest[0].name for rest in _IMPLIED}
_BITS = {kind: 8 * width for kind, width in model.WIDTHS.items() if kind.startswith("ip")}
_ADDRESSES = {
    **dict.fromkeys((Field.IP_SADDR, Field.IP_DADDR, Field.ORIGINAL_IP_DADDR), 32),
    **dict.fromkeys((Field.IP6_SADDR, Field.IP6_DADDR, Field.ORIGINAL_IP6_DADDR), 128),
}
# Where only some bits are looked at, a comparison has to be written as one.
_MASKED = (Field.TCP_FLAGS, Field.CT_STATUS_DNAT, Field.CT_STATE_INVALID)
# Bits of which nft(8) asks whether they are set.
_SET_BITS = {Field.CT_STATUS_DNAT: "ct status dnat", Field.CT_STATE_INVALID: "ct state invalid"}


_STATEMENTS = {
    "ct mark set meta mark": expressions.SAVE_MARK,
    "meta mark set ct mark": expressions.RESTORE_MARK,
}


def render_nft(table: model.Table) -> str:
    """Give the whole table for `nft -f`: it replaces a table of that name if there is one."""
    state = expressions.compile_table(table, model.Owner.NOBODY)
    name = table.name
    # Ten thousand lines that are joined, also by StringIO, would all be there at once.
    text = bytearray(f"table inet {name} {{\n}}\ndelete table inet {name}\n".encode())
    for line in render_table(state):
        text += f"{line}\n".encode()
    return text.decode()


def render_table(table: model.TableState) -> Iterator[str]:
    """Give the lines of `nft list table`, counters without their numbers."""
    yield f"table inet {table.name} {{"
    for named_set in table.sets:
        yield f"\tset {named_set.name} {{"
        yield f"\t\ttype {named_set.kind.removesuffix(model.VALUES)}"
        if not named_set.kind.endswith(model.VALUES):
            yield "\t\tflags interval"
        if named_set.room:
            yield f"\t\tsize {named_set.room}"
        line = "\t\telements = { "
        for number, each in enumerate(named_set.ranges):
            if number:
                yield f"{line},"
                line = "\t\t\t     "
            line += render_range(named_set.kind, *each)
        if named_set.ranges:
            yield f"{line} }}"
        yield "\t}"
    for timeout in table.timeouts:
        yield f"\tct timeout {timeout.name} {{"
        yield "\t\tprotocol tcp"
        yield f"\t\t{render_timeout(timeout)}"
        yield "\t}"
    for chain in table.chains:
        yield f"\tchain {chain.name} {{"
        if chain.hook:
            yield f"\t\t{render_hook(chain.hook)}"
        for rule in chain.rules:
            yield f"\t\t{render_rule(rule)}"
        yield "\t}"
    yield "}"


def render_timeout(timeout: model.Timeout) -> str:
    """Give the line that says what a timeout policy is."""
    if timeout.kind != model.CT_TIMEOUT:
        return f"[ object of type {timeout.kind} ]"
    seconds = ", ".join(f"{state} : {value}" for state, value in timeout.seconds)
    return f"policy = {{ {seconds} }}"


def render_hook(hook: model.Hook) -> str:
    """Give the line that makes a chain a base chain."""
    where = _HOOKS.get(hook.number, str(hook.number))
    policy = "accept" if hook.policy else "drop"
    return f"type {hook.kind} hook {where} priority {hook.priority}; policy {policy};"


def render_range(kind: str, first: int, last: int) -> str:
    """Give one interval: an address, a prefix, a port, or first-last."""
    if kind not in _BITS:
        return str(first) if first == last else f"{first}-{last}"
    if first == last:
        return _address(first, _BITS[kind])
    blocks = ranges.to_cidrs(first, last, _BITS[kind])
    if len(blocks) == 1:
        return f"{_address(first, _BITS[kind])}/{blocks[0][1]}"
    return f"{_address(first, _BITS[kind])}-{_address(last, _BITS[kind])}"


def render_member(named_set: model.NamedSet, first: int, last: int) -> str:
    """Give one member of a set to people: a block with its length, which the set's name tells."""
    text = render_range(named_set.kind, first, last)
    if first != last or not named_set.kind.endswith(model.VALUES):
        return text
    length = named_set.name.partition(model.STAMP_SEPARATOR)[0].rpartition("_")[2]
    return f"{text}/{length}" if length.isdigit() else text


def _address(value: int, bits: int) -> str:
    made = ipaddress.IPv4Address(value) if bits == 32 else ipaddress.IPv6Address(value)
    return str(made)


def render_rule(rule: model.RuleState) -> str:
    """Give one line: conditions, counter, verdict, comment."""
    comment = f' comment "{rule.comment}"' if rule.comment else ""
    return " ".join(_words(rule.expressions)) + comment


def _words(sequence: tuple[Expr, ...]) -> Iterator[str]:
    index = 0
    is_udp = any(sequence[at : at + 2] == expressions.IS_UDP for at in range(len(sequence)))
    while index < len(sequence):
        text, used = _word(sequence[index:], is_udp=is_udp)
        if text:
            yield text
        index += used


def _word(rest: tuple[Expr, ...], *, is_udp: bool) -> tuple[str, int]:
    """Say what the first expressions mean, and how many they are."""
    if _is_implied(rest):
        return "", 2
    for text, expected in _STATEMENTS.items():
        if rest[: len(expected)] == expected:
            return text, len(expected)
    if (level := expressions.read_level(rest[0])) and len(rest) > 1:
        # nft(8) takes a path alone, and shows one where it finds it.
        name = Field.CONTROL_GROUP.value
        if text := _comparison(Field.CONTROL_GROUP, rest[1]):
            return f"{name} level {level}{text.removeprefix(name)}", 2
    for length in (2, 1):  # the longer load first: its beginning may be a load of its own
        field = _FIELDS.get(rest[:length])
        if field and is_udp:
            field = _UDP.get(field, field)
        if field and len(rest) > length and (text := _comparison(field, rest[length])):
            return text, length + 1
        following = rest[length : length + 2]
        if field and len(following) == 2 and (text := _of_prefix(field, *following)):
            return text, length + 2
    for family, kept in expressions.KEEP.items():
        if rest[: len(kept)] == kept:
            return f"dnat {family} to {family} daddr", len(kept)
    attributes = dict(rest[0].attributes)
    if rest[0].name == "immediate" and "verdict" in attributes:
        code, chain = attributes["verdict"], attributes.get("chain", "")
        return f"{_VERDICTS.get(int(code), code)} {chain!s}".rstrip(), 1
    if (statement := _of_number(rest)) is not None:
        return statement, 2
    if rest[0] == Expr("reject", (("type", expressions.REJECT_TCP_RST),)):
        return "reject with tcp reset", 1
    if rest[0].name == "objref" and attributes.get("type") == model.CT_TIMEOUT:
        return f'ct timeout set "{attributes["name"]!s}"', 1
    if rest[0] == expressions.COUNTER:
        return "counter", 1
    return _unknown(rest[0]), 1


def _is_implied(rest: tuple[Expr, ...]) -> bool:
    """Whether the first two expressions are the condition that the words of the next one imply."""
    return rest[0].name in _IMPLYING and (rest[:3] in _IMPLIED or rest[:4] in _IMPLIED)


def _of_number(rest: tuple[Expr, ...]) -> str | None:
    """What is done with a number: it is put into the register, and used by the next one."""
    keys = [key for key, _ in rest[0].attributes]
    number = dict(rest[0].attributes).get("data")
    if rest[0].name != "immediate" or keys != ["dreg", "data"] or not isinstance(number, bytes):
        return None
    if rest[1:2] == (expressions.REDIRECT,):
        return f"redirect to :{int.from_bytes(number, 'big')}"
    if rest[1:2] == (expressions.TPROXY,):
        return f"tproxy to :{int.from_bytes(number, 'big')}"
    if rest[1:2] == (expressions.SET_ZONE,):
        return f"ct zone set {int.from_bytes(number, sys.byteorder)}"
    return None


def _comparison(field: Field, condition: Expr) -> str:
    attributes = dict(condition.attributes)
    name = field.value
    if field is Field.TCP_FLAGS:
        name = "tcp flags & (fin | syn | rst | ack)"
    if condition.name == "lookup" and set(attributes) <= {"set", "sreg", "flags"}:
        is_inverted = attributes.get("flags", 0) == expressions.LOOKUP_INVERTED
        return f"{name} {'!= ' if is_inverted else ''}@{attributes['set']!s}"
    data = attributes.get("data")
    if condition.name != "cmp" or not isinstance(data, bytes) or attributes["op"] not in (0, 1):
        return ""
    number = expressions.decode_value(data, LOADS[field])
    if field in _SET_BITS and (attributes["op"], number) == (expressions.NE, 0):
        return _SET_BITS[field]
    value = _value(field, number)
    if attributes["op"] == expressions.NE:
        return f"{name} != {value}"
    return f"{name} == {value}" if field in _MASKED else f"{name} {value}"


def _of_prefix(field: Field, bits: Expr, condition: Expr) -> str:
    """The leading bits of an address, compared or looked up in a set."""
    mask = dict(bits.attributes).get("mask")
    if field not in _ADDRESSES or not isinstance(mask, bytes):
        return ""
    name, found = field.value, _comparison(field, condition)
    if bits != expressions.keep_bits(mask) or not found:
        return ""
    shown = _value(field, int.from_bytes(mask, "big"))
    operand = found.removeprefix(f"{name} ")
    equals = "" if condition.name == "lookup" or operand.startswith("!=") else "== "
    return f"{name} & {shown} {equals}{operand}"


def _value(field: Field, value: int | str) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if field is Field.L4PROTO:
        return {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}.get(value, str(value))
    if field in (Field.MARK, Field.CT_MARK):
        return f"0x{value:08x}"
    if field in (Field.FIB_DADDR_TYPE, Field.FIB_SADDR_TYPE) and value < len(_ADDRESS_TYPES):
        return _ADDRESS_TYPES[value]
    if field is Field.TCP_FLAGS:
        return " | ".join(name for bit, name in _FLAGS.items() if value & bit) or "0x0"
    if field in _ADDRESSES:
        return _address(value, _ADDRESSES[field])
    return str(value)


def _unknown(expression: Expr) -> str:
    shown = (
        f"{key}=0x{value.hex()}" if isinstance(value, bytes) else f"{key}={value}"
        for key, value in expression.attributes
    )
    return f"[ {' '.join((expression.name, *shown))} ]"
