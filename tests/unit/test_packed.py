"""Ranges in few bytes behave like the tuple of pairs that they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.config import packed

WIDTHS = st.sampled_from((2, 4, 16))


@st.composite
def packable(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    width = draw(WIDTHS)
    number = st.integers(0, (1 << (8 * width)) - 1)
    return width, draw(st.lists(st.tuples(number, number), max_size=8))


@given(packable())
def test_what_is_packed_comes_out_again(made: tuple[int, list[tuple[int, int]]]) -> None:
    width, ranges = made
    held = packed.pack(width, ranges)
    assert list(held) == ranges
    assert len(held) == len(ranges)
    assert [held[index] for index in range(-len(ranges), len(ranges))] == ranges * 2
    assert held[1:] == tuple(ranges[1:])
    assert bool(held) is bool(ranges)


@given(packable())
def test_sorted_ranges_ascend_and_come_once(made: tuple[int, list[tuple[int, int]]]) -> None:
    width, ranges = made
    for order in (ranges, sorted(ranges), sorted(ranges, reverse=True)):
        assert list(packed.sort(packed.pack(width, order))) == sorted(set(ranges))


def test_many_ranges_in_no_order_are_sorted() -> None:
    ranges = [(number * 7919 % 10_007, 20_000) for number in range(10_000)]
    assert list(packed.sort(packed.pack(4, ranges))) == sorted(set(ranges))


def test_equal_ranges_are_one_value() -> None:
    ranges = [(1, 2), (5, 5)]
    held = packed.pack(4, ranges)
    assert {held: "found"}[packed.pack(4, iter(ranges))] == "found"
    assert held != packed.pack(4, ranges[:1])
    assert held != packed.pack(16, ranges)


def test_there_is_nothing_behind_the_last_one() -> None:
    with pytest.raises(IndexError):
        packed.pack(4, [(1, 2)])[1]


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        packed.pack(2, [(1, 1 << 16)])


@given(packable(), packable())
def test_a_difference_is_what_only_one_of_two_has(
    made: tuple[int, list[tuple[int, int]]], others: tuple[int, list[tuple[int, int]]]
) -> None:
    width, before = made
    after = [each for each in others[1] if max(each) < 1 << (8 * width)] + before[::2]
    one, other = (packed.sort(packed.pack(width, each)) for each in (before, after))
    found = packed.differ(one, other, most=100)
    assert found is not None
    assert list(found[0]) == sorted(set(before) - set(after))
    assert list(found[1]) == sorted(set(after) - set(before))


def test_a_few_differences_among_very_many_ranges_are_found_and_many_are_not() -> None:
    ranges = [(number, number) for number in range(0, 20_000, 2)]
    before = packed.pack(4, ranges)
    for at in (0, 511, 512, 5000, len(ranges) - 1):
        shorter = packed.pack(4, [*ranges[:at], *ranges[at + 1 :]])
        assert packed.differ(before, shorter, 1) == (
            packed.pack(4, [ranges[at]]),
            packed.pack(4, []),
        )
        assert packed.differ(shorter, before, 1) == (
            packed.pack(4, []),
            packed.pack(4, [ranges[at]]),
        )
    assert packed.differ(before, packed.pack(4, ranges[:-3]), 2) is None
