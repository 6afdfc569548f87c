"""Many networks in legacy tables: groups of one prefix each, for chains that lead to each of them.

Not here: the rules of those chains (`xtrender`). A network is its first address and its length.
"""

from collections.abc import Sequence
from typing import NamedTuple

Network = tuple[int, int]

# How many branches a chain of networks has.
BRANCHES = 32


class Group(NamedTuple):
    """Networks and the prefix that they have in common."""

    prefix: Network
    networks: Sequence[Network]


def group(networks: Sequence[Network], bits: int) -> list[Group]:
    """Cut networks, which ascend and do not overlap, into so many groups of one prefix each.

    Few are groups of their own. The prefix of a group is as long as it can be. First all have one,
    then the group with the most networks is cut in two.
    """
    if len(networks) <= 2 * BRANCHES:
        return [Group(network, (network,)) for network in networks]
    groups = [Group(_common(networks, bits), networks)]
    while len(groups) < BRANCHES:
        at = max(range(len(groups)), key=lambda index: len(groups[index].networks))
        largest = groups[at].networks
        if len(largest) == 1:
            break
        _, length = groups[at].prefix
        # The first bit behind the common prefix differs, so both halves hold something.
        shift = bits - length - 1
        cut = next(n for n, (start, _) in enumerate(largest) if start >> shift & 1)
        halves = (largest[:cut], largest[cut:])
        groups[at : at + 1] = [Group(_common(half, bits), half) for half in halves]
    return groups


def _common(networks: Sequence[Network], bits: int) -> Network:
    """The longest prefix of all."""
    if len(networks) == 1:
        return networks[0]
    first, last = networks[0][0], networks[-1][0]
    length = bits - (first ^ last).bit_length()
    return first >> (bits - length) << (bits - length) if length else 0, length
