"""Very many networks are cut into blocks and what is left, and nothing gets lost."""

from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config.packed import PackedRanges, pack
from istio_hostagent.redirect import blocks, ranges

ends = st.tuples(st.integers(0, 4096), st.integers(0, 300)).map(lambda p: (p[0], p[0] + p[1]))
some_networks = st.lists(ends, max_size=60).map(lambda found: pack(4, ranges.merge(found)))


@given(some_networks, st.integers(1, 6))
def test_together_they_are_what_was_given(networks: PackedRanges, least: int) -> None:
    hashed, left = blocks.split(networks, least)
    whole = [
        (first, first + (1 << (32 - length)) - 1)
        for length, content in hashed
        for first, last in content
        if first == last and first % (1 << (32 - length)) == 0
    ]
    assert len(whole) == sum(len(content) for _, content in hashed)
    assert ranges.merge((*whole, *left)) == tuple(networks)
    assert all(length > 0 and len(content) >= least for length, content in hashed)
    assert len(hashed) <= blocks.MOST_LENGTHS
    assert tuple(left) == ranges.merge(left)


def test_few_networks_stay_intervals() -> None:
    few = pack(4, ((i << 9, (i << 9) + 255) for i in range(blocks.LEAST - 1)))
    assert blocks.split(few) == ((), few)


def test_very_many_of_one_length_are_found_by_hash() -> None:
    many = [(i << 9, (i << 9) + 255) for i in range(blocks.LEAST)]
    hashed, left = blocks.split(pack(4, [*many, (1 << 31, (1 << 31) + 9)]))
    assert [(length, len(content)) for length, content in hashed] == [(24, blocks.LEAST)]
    assert tuple(left) == ((1 << 31, (1 << 31) + 9),)
