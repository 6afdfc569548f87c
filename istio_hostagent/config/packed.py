"""Ranges of numbers in few bytes, for as long as they are in force.

Ten thousand networks take 2.5 MB as objects of the standard library, 1.3 MB as tuples of numbers,
and 80 kB here.
Not here: arithmetic (`redirect.ranges`). Always: every number has the same size and begins with
its most significant byte, as addresses and ports do in packets.
"""

import heapq
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

_PIECE = 512  # so many parts are sorted at once


class PackedRanges(Sequence[tuple[int, int]]):
    """Inclusive ranges (first, last) in the order in which they were given; never changes.

    `width`: of one number, in bytes. `data`: first, last, first, last …
    """

    __slots__ = ("data", "width")

    def __init__(self, width: int, data: bytes = b"") -> None:
        """Hold ranges that were packed before."""
        self.width = width
        self.data = data

    def __eq__(self, other: object) -> bool:
        """Whether the other holds the same ranges in the same order."""
        if not isinstance(other, PackedRanges):
            return NotImplemented
        return (self.width, self.data) == (other.width, other.data)

    def __hash__(self) -> int:
        """Equal ranges hash alike."""
        return hash(self.data)

    def __repr__(self) -> str:
        """Show the ranges as numbers."""
        return f"PackedRanges({self.width}, {list(self)})"

    def ends(self) -> Iterator[tuple[bytes, bytes]]:
        """Give the first and the last number of each range as `width` bytes."""
        return struct.iter_unpack(f"{self.width}s{self.width}s", self.data)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give the ranges as numbers."""
        for first, last in self.ends():
            yield int.from_bytes(first, "big"), int.from_bytes(last, "big")

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self.data) // (2 * self.width)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, int], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | tuple[tuple[int, int], ...]:
        """Give one range, or several; raises IndexError."""
        offsets = range(0, len(self.data), 2 * self.width)[index]
        if isinstance(offsets, range):
            return tuple(map(self._read, offsets))
        return self._read(offsets)

    def _read(self, offset: int) -> tuple[int, int]:
        middle, end = offset + self.width, offset + 2 * self.width
        return (
            int.from_bytes(self.data[offset:middle], "big"),
            int.from_bytes(self.data[middle:end], "big"),
        )


def pack_range(width: int, first: int, last: int) -> bytes:
    """Give one range of numbers that fit into `width` bytes; raises OverflowError for others."""
    return first.to_bytes(width, "big") + last.to_bytes(width, "big")


def pack(width: int, ranges: Iterable[tuple[int, int]]) -> PackedRanges:
    """Put ranges together in their order."""
    if isinstance(ranges, PackedRanges) and ranges.width == width:
        return ranges
    data = bytearray()
    for first, last in ranges:
        data += first.to_bytes(width, "big") + last.to_bytes(width, "big")
    return PackedRanges(width, bytes(data))


def sort(ranges: PackedRanges) -> PackedRanges:
    """Give the same ranges, ascending and each once."""
    size = 2 * ranges.width
    data = bytearray()  # join() would take 80 bytes for each part
    for each, _ in itertools.groupby(split(ascend(ranges.data, size), size)):
        data += each
    return PackedRanges(ranges.width, bytes(data))


def differ(
    before: PackedRanges, after: PackedRanges, most: int
) -> tuple[PackedRanges, PackedRanges] | None:
    """Give the ranges that only the one has, and those that only the other has; both ascend.

    None if these are more than `most`. What is equal is compared in pieces, so that a few
    differences among very many ranges take no time and no objects.
    """
    size = 2 * after.width
    one, other = before.data, after.data
    at = to = 0
    removed, added = bytearray(), bytearray()
    while at < len(one) or to < len(other):
        equal = _equal_bytes(one[at : at + _PIECE * size], other[to : to + _PIECE * size], size)
        at += equal
        to += equal
        left, right = one[at : at + size], other[to : to + size]
        if left and left == right:
            continue
        if left and (not right or left < right):
            removed += left
            at += size
        elif right:
            added += right
            to += size
        if len(removed) + len(added) > most * size:
            return None
    return PackedRanges(after.width, bytes(removed)), PackedRanges(after.width, bytes(added))


def _equal_bytes(one: bytes, other: bytes, size: int) -> int:
    """How many bytes are equal from the beginning, in whole parts of so many bytes."""
    if one == other:
        return len(one)
    low, high = 0, min(len(one), len(other)) // size
    while low < high:
        middle = (low + high + 1) // 2
        if one.startswith(other[: middle * size]):
            low = middle
        else:
            high = middle - 1
    return low * size


def split(data: bytes, size: int) -> Iterator[bytes]:
    """Cut into parts of so many bytes."""
    return itertools.chain.from_iterable(struct.iter_unpack(f"{size}s", data))


def ascend(data: bytes, size: int) -> bytes:
    """Put parts of so many bytes into ascending order.

    Ten thousand of them as objects would take their room in the interpreter's memory for ever:
    what ascends or descends needs none, the rest is sorted piece by piece and merged.
    """
    if len(data) == size or all(
        one <= other for one, other in itertools.pairwise(split(data, size))
    ):
        return data
    ordered = bytearray()
    if all(one >= other for one, other in itertools.pairwise(split(data, size))):
        for offset in range(len(data) - size, -1, -size):
            ordered += data[offset : offset + size]
    else:
        pieces = (data[at : at + _PIECE * size] for at in range(0, len(data), _PIECE * size))
        runs = [b"".join(sorted(split(piece, size))) for piece in pieces]
        for each in heapq.merge(*(split(run, size) for run in runs)):
            ordered += each
    return bytes(ordered)
