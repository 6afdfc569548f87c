"""Arithmetic on inclusive integer ranges: the form in which sets of ports and addresses are made.

Not here: the form in which they are kept (`config.packed`). A result is always ascending, with
neither overlapping nor touching ranges, which is what an interval set of the kernel needs.
"""

from collections.abc import Iterable, Iterator, Sequence

Ranges = tuple[tuple[int, int], ...]


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sort and join whatever overlaps or touches."""
    return tuple(join(sorted(ranges)))


def join(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join whatever overlaps or touches; `ranges` ascend by their first number."""
    start, end = 0, -2
    for first, last in ranges:
        if first > end + 1:
            if end >= start:
                yield start, end
            start, end = first, last
        elif last > end:
            end = last
    if end >= start:
        yield start, end


def subtract(ranges: Iterable[tuple[int, int]], holes: Sequence[tuple[int, int]]) -> Ranges:
    """Take `holes` out of `ranges`; both merged. The cost is linear in their number."""
    left: list[tuple[int, int]] = []
    index = 0
    for first, last in ranges:
        start = first
        while index < len(holes) and holes[index][1] < start:
            index += 1
        following = index
        while following < len(holes) and holes[following][0] <= last:
            hole_first, hole_last = holes[following]
            if hole_first > start:
                left.append((start, hole_first - 1))
            start = hole_last + 1
            following += 1
        index = max(index, following - 1)
        if start <= last:
            left.append((start, last))
    return tuple(left)


def intersect(ranges: Ranges, others: Ranges) -> Ranges:
    """Keep what is in both; both merged."""
    return subtract(ranges, subtract(ranges, others))


def without(
    ranges: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Give the ranges that are not among `others` with the same two ends; both ascend."""
    following = iter(others)
    other = next(following, None)
    for each in ranges:
        while other is not None and other < each:
            other = next(following, None)
        if each != other:
            yield each


def contains(ranges: Sequence[tuple[int, int]], value: int) -> bool:
    """Whether `value` lies in one of the merged ranges."""
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle][1] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low][0] <= value


def singles(values: Iterable[int]) -> Ranges:
    """Merge single values."""
    return merge((value, value) for value in values)


def to_cidrs(first: int, last: int, bits: int) -> list[tuple[int, int]]:
    """Cut one range into (first address, prefix length) blocks, fewest possible."""
    blocks = []
    while first <= last:
        size = first & -first if first else 1 << bits
        while size > last - first + 1:
            size >>= 1
        blocks.append((first, bits + 1 - size.bit_length()))
        first += size
    return blocks
