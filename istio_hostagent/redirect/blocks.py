"""Very many networks, cut so that the kernel finds most of them by a hash.

Blocks of one prefix length go into a set of single values, which a rule looks up by as many
leading bits of the address; what is left stays in the set of intervals. An interval set of ten
thousand networks is a tree: a look-up takes 2.5 us of the 10 us in which a connection is set up,
one by hash 0.4 us, and the kernel takes half the time to fill it. Each rule more costs every
connection, so that few lengths are taken, and only for many blocks.
Not here: arithmetic (`ranges`), which rules look where (`policy`).
"""

from collections.abc import Iterator, Sequence

from ..config.packed import PackedRanges, pack
from . import ranges

# So many blocks of one length are worth a rule of their own.
LEAST = 1024
MOST_LENGTHS = 2

Blocks = tuple[tuple[int, PackedRanges], ...]  # by prefix length; each as the range of its first


def split(
    networks: Sequence[tuple[int, int]], least: int = LEAST
) -> tuple[Blocks, Sequence[tuple[int, int]]]:
    """Give the blocks that are found by hash, and the ranges that are left; `networks` merged."""
    if len(networks) < least or not isinstance(networks, PackedRanges):
        return (), networks
    width = networks.width
    bits = 8 * width
    counts = [0] * (bits + 1)
    for _, length in _cut(networks, bits):
        counts[length] += 1
    frequent = sorted(range(1, bits), key=counts.__getitem__, reverse=True)[:MOST_LENGTHS]
    hashed = {length: bytearray() for length in sorted(frequent) if counts[length] >= least}
    left = bytearray()
    for start, length in _cut(networks, bits):
        if length in hashed:
            hashed[length] += 2 * start.to_bytes(width, "big")
        else:
            end = start + (1 << (bits - length)) - 1
            left += start.to_bytes(width, "big") + end.to_bytes(width, "big")
    found = tuple((length, PackedRanges(width, bytes(data))) for length, data in hashed.items())
    # What was cut and stays is put together again.
    return found, pack(width, ranges.join(PackedRanges(width, bytes(left))))


def _cut(networks: PackedRanges, bits: int) -> Iterator[tuple[int, int]]:
    """Give the blocks of all networks: first address and prefix length."""
    for first, last in networks:
        size = last - first + 1
        if size & (size - 1) or first & (size - 1):
            yield from ranges.to_cidrs(first, last, bits)
        else:  # nearly all of them
            yield first, bits + 1 - size.bit_length()
