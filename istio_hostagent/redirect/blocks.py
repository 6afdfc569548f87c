"""Very many networks, cut so that the kernel finds most of them by a hash.

Blocks of one prefix length go into a set of single values, which a rule looks up by as many
leading bits of the address; what is left stays in the set of intervals. An interval set of ten
thousand networks is a tree: a look-up takes 2.5 us of the 10 us in which a connection is set up,
one by hash 0.4 us, and the kernel takes half the time to fill it. Each rule more costs every
connection, so that few lengths are taken, and only for many blocks, single addresses among them.
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
    networks: PackedRanges, merged: Sequence[tuple[int, int]], least: int = LEAST
) -> tuple[Blocks, Sequence[tuple[int, int]]]:
    """Give the blocks that are found by hash, and the ranges that are left.

    `networks` as they were written, ascending; `merged`: the same with what touches joined. Blocks
    are not joined, so that a further one is an element more, whatever its neighbours are.
    """
    if len(merged) < least:
        return (), merged
    width = networks.width
    bits = 8 * width
    outermost = bytearray()
    lengths = bytearray()
    for first, last in _outermost(networks):
        outermost += first + last
        lengths.append(_length(first, last, bits))
    counts = {length: lengths.count(length) for length in set(lengths) - {0}}
    frequent = sorted(sorted(counts), key=counts.__getitem__, reverse=True)[:MOST_LENGTHS]
    hashed = {length: bytearray() for length in sorted(frequent) if counts[length] >= least}
    if not hashed:
        return (), merged
    left = bytearray()
    found = PackedRanges(width, bytes(outermost))
    for length, (first, last) in zip(lengths, found.ends(), strict=True):
        if (content := hashed.get(length)) is not None:
            content += first + first
        else:
            left += first + last
    made = tuple((length, PackedRanges(width, bytes(data))) for length, data in hashed.items())
    return made, pack(width, ranges.join(PackedRanges(width, bytes(left))))


def _outermost(networks: PackedRanges) -> Iterator[tuple[bytes, bytes]]:
    """Leave out the networks that lie in another one; of two, none begins or ends inside it.

    Bytes of one length compare as the numbers do, whose first byte is the highest.
    """
    held: tuple[bytes, bytes] | None = None
    for each in networks.ends():
        if held is None or each[1] > held[1]:
            # With the same first address the wider one comes later.
            if held is not None and each[0] > held[1]:
                yield held
            held = each
    if held is not None:
        yield held


def _length(first: bytes, last: bytes, bits: int) -> int:
    """The prefix length of a network."""
    hosts = int.from_bytes(last, "big") ^ int.from_bytes(first, "big")
    return bits - hosts.bit_length()
