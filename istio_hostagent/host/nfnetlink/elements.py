"""The elements of a set as messages: putting them in, taking them out, reading them.

Not here: the set itself (`messages`). Very many elements are never all there as objects.
Source: include/uapi/linux/netfilter/nf_tables.h.
"""

import itertools
import struct
from collections.abc import Iterable, Iterator

from ...config import packed
from ...config.packed import PackedRanges
from ...redirect import model
from . import framing, messages
from .framing import be32, pack, pack_be32, pack_text
from .messages import Message

_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END
# The length of an attribute is a 16-bit number; an element of 128 bits takes at most 40 bytes.
_ELEMENTS_PER_MESSAGE = 1200
# By the length of the key, the bytes before it and those behind it, of an interval's start and of
# its end. Every kernel so far gives the key first and then the flags, if there are any.
_ELEMENT_FORMS = {
    width: (
        struct.pack("=HHHH", 8 + width + (-width & 3), 1, 4 + width, 1),
        bytes(-width & 3),
        bytes(-width & 3) + pack_be32(3, _INTERVAL_END),
    )
    for width in model.WIDTHS.values()
}
_KEY_HEAD = struct.Struct("=HHHH")


def new_elements(table: str, named_set: model.NamedSet, number: int) -> Iterator[Message]:
    """Fill a set, as many messages as it takes; `number` as in `new_set`, 0: it is there."""
    step = f"fill set {table} {named_set.name}"
    for body in _element_lists(table, named_set):
        yield Message(messages.NEWSETELEM, framing.NLM_F_CREATE, body + pack_be32(4, number), step)


def delete_elements(table: str, named_set: model.NamedSet) -> Iterator[Message]:
    """Take what this set holds out of the one with its name, as many messages as it takes."""
    for body in _element_lists(table, named_set):
        yield Message(
            messages.DELSETELEM, 0, body, f"take elements out of set {table} {named_set.name}"
        )


def _element_lists(table: str, named_set: model.NamedSet) -> Iterator[bytes]:
    """Give table, set and some elements, until all have been."""
    has_values = named_set.kind.endswith(model.VALUES)
    items = (_encode_values if has_values else _encode_ranges)(named_set.ranges)
    head = pack_text(1, table) + pack_text(2, named_set.name)
    while True:
        content = bytearray()
        for item in itertools.islice(items, _ELEMENTS_PER_MESSAGE):
            content += item
        if not content:
            return
        yield head + pack(3, bytes(content))


def _encode_values(values: PackedRanges) -> Iterator[bytes]:
    head, padding, _ = _ELEMENT_FORMS[values.width]
    # What is read lacks the head of the element itself.
    head = struct.pack("=HH", 4 + len(head) + values.width + len(padding), 1) + head
    for value, _ in values.ends():
        yield head + value + padding


def _encode_ranges(ranges: PackedRanges) -> Iterator[bytes]:
    """Give a start and an end for each range; one that reaches the last value has no end."""
    length = ranges.width
    limit = 1 << (8 * length)
    padding = bytes(-length & 3)
    key_length = 4 + length
    size = 8 + length + len(padding)
    head = struct.pack("=HHHHHH", 4 + size, 1, 4 + key_length, 1, key_length, 1)
    end_head = struct.pack("=HHHHHH", 12 + size, 1, 4 + key_length, 1, key_length, 1)
    end_tail = padding + pack_be32(3, _INTERVAL_END)
    for first, last in ranges.ends():
        yield head + first + padding
        end = int.from_bytes(last, "big") + 1
        if end < limit:
            yield end_head + end.to_bytes(length, "big") + end_tail


def read_keys(body: bytes) -> Iterator[bytes]:
    """Read the answer to GETSETELEM as bytes."""
    for item in _items(body):
        _, kind, length, inner = _KEY_HEAD.unpack_from(item.ljust(_KEY_HEAD.size))
        # As every kernel so far gives it: the key first, and in it the value.
        is_plain = kind == inner == 1 and len(item) >= 4 + length
        yield item[8 : 4 + length] if is_plain else _read_element(item)[0]


def read_ranges(bodies: Iterable[bytes], width: int) -> PackedRanges:
    """Read the answers to GETSETELEM for an interval set whose keys have so many bytes."""
    starts, ends = bytearray(), bytearray()
    head, padding, end_tail = _ELEMENT_FORMS[width]
    for body in bodies:
        for item in _items(body):
            tail = item[8 + width :]
            if item.startswith(head) and tail == padding:
                starts += item[8 : 8 + width]
            elif item.startswith(head) and tail == end_tail:
                ends += item[8 : 8 + width]
            else:
                value, is_end = _read_element(item)
                # One that matches everything has no key (NFT_SET_ELEM_CATCHALL): as a start at
                # zero it makes a range that no set of ours has.
                (ends if is_end else starts).extend(value or bytes(width))
    firsts, behind = (packed.split(packed.ascend(bytes(e), width), width) for e in (starts, ends))
    limit = 1 << (8 * width)
    return packed.pack(
        width, _pair(map(int.from_bytes, firsts), map(int.from_bytes, behind), limit)
    )


def read_values(bodies: Iterable[bytes], width: int) -> PackedRanges:
    """Read the answers to GETSETELEM for a set of single values, in ascending order."""
    values = bytearray()
    head, padding, _ = _ELEMENT_FORMS[width]
    head = struct.pack("=HH", 4 + len(head) + width + len(padding), 1) + head
    for body in bodies:
        values += _read_plain(body, head, width, padding) or b"".join(
            # One that matches everything has no key: all bits set, which no block of ours is.
            _read_element(item)[0] or b"\xff" * width
            for item in _items(body)
        )
    data = bytearray()
    for value in packed.split(packed.ascend(bytes(values), width), width):
        data += value + value
    return PackedRanges(width, bytes(data))


def _read_plain(body: bytes, head: bytes, width: int, padding: bytes) -> bytes:
    """Read elements that are all of one form; of others, and of none, nothing.

    Byte by byte of all at once: in a loop over a hundred thousand it takes ten times as long.
    """
    content = framing.read(body).get(3, b"")
    size = len(head) + width + len(padding)
    count, rest = divmod(len(content), size)
    form = head + bytes(width) + padding
    at_value = range(len(head), len(head) + width)
    if rest or any(
        content[at::size].count(form[at]) != count for at in range(size) if at not in at_value
    ):
        return b""
    values = bytearray(count * width)
    for to, at in enumerate(at_value):
        values[to::width] = content[at::size]
    return bytes(values)


def _read_element(item: bytes) -> tuple[bytes, bool]:
    """Read an element in whatever form: its key, and whether it ends an interval."""
    found = framing.read(item)
    value = framing.read(found.get(1, b"")).get(1, b"")
    return value, bool(be32(found.get(3, b"")) & _INTERVAL_END)


def _items(body: bytes) -> Iterator[bytes]:
    """Give each element of an answer to GETSETELEM."""
    for kind, item in framing.iterate(framing.read(body).get(3, b"")):
        if kind == 1:
            yield item


def _pair(starts: Iterator[int], ends: Iterator[int], limit: int) -> Iterator[tuple[int, int]]:
    """Pair each start with the next end, which is exclusive; the last may have none.

    An end without a start (nft writes one at zero) counts for nothing.
    """
    end = next(ends, limit)
    for start in starts:
        while end <= start:
            end = next(ends, limit)
        yield start, end - 1
