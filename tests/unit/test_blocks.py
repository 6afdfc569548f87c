"""Very many networks are cut into blocks and what is left, and nothing gets lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config import packed
from istio_hostagent.config.packed import PackedRanges, pack
from istio_hostagent.redirect import blocks, ranges

networks = st.tuples(st.integers(0, 4096), st.integers(0, 8)).map(
    lambda p: (p[0] >> p[1] << p[1], p[0] | (1 << p[1]) - 1)
)
some_networks = st.lists(networks, max_size=60).map(lambda found: packed.sort(pack(4, found)))


def split(written: PackedRanges, least: int) -> tuple[blocks.Blocks, list[tuple[int, int]]]:
    hashed, left = blocks.split(written, ranges.merge(written), least)
    return hashed, list(left)


@given(some_networks, st.integers(1, 6))
def test_together_they_are_what_was_given(written: PackedRanges, least: int) -> None:
    hashed, left = split(written, least)
    whole = [
        (first, first + (1 << (32 - length)) - 1)
        for length, content in hashed
        for first, last in content
        if first == last and first % (1 << (32 - length)) == 0
    ]
    assert len(whole) == sum(len(content) for _, content in hashed)
    assert ranges.merge((*whole, *left)) == ranges.merge(written)
    assert all(length > 0 and len(content) >= least for length, content in hashed)
    assert len(hashed) <= blocks.MOST_LENGTHS
    assert left == list(ranges.merge(left))


def test_few_networks_stay_intervals() -> None:
    few = pack(4, ((i << 9, (i << 9) + 255) for i in range(blocks.LEAST - 1)))
    assert split(few, blocks.LEAST) == ((), list(few))


def test_neighbours_that_make_few_ranges_stay_intervals() -> None:
    neighbours = pack(4, ((i << 8, (i << 8) + 255) for i in range(2 * blocks.LEAST)))
    assert split(neighbours, blocks.LEAST) == ((), [(0, (2 * blocks.LEAST << 8) - 1)])


@pytest.mark.parametrize("length", [24, 32])
def test_very_many_of_one_length_are_found_by_hash(length: int) -> None:
    bits = 32 - length
    many = [(2 * i << bits, (2 * i << bits) + (1 << bits) - 1) for i in range(blocks.LEAST)]
    wide = (1 << 31, (1 << 31) + 1023)
    hashed, left = split(pack(4, [*many, wide]), blocks.LEAST)
    assert [(each, len(content)) for each, content in hashed] == [(length, blocks.LEAST)]
    assert left == [wide]


def test_a_neighbour_more_is_a_block_more() -> None:
    many = [(i << 9, (i << 9) + 255) for i in range(blocks.LEAST + 2)]
    beside = (1 << 8, (1 << 8) + 255)
    (before,), _ = split(pack(4, many), blocks.LEAST)
    (after,), _ = split(pack(4, sorted([*many, beside])), blocks.LEAST)
    assert set(after[1]) - set(before[1]) == {(1 << 8, 1 << 8)}
    assert set(before[1]) <= set(after[1])
