from __future__ import annotations

import itertools

import pytest

from search_spaces.domains import Choice, Domain, Float, Int
from search_spaces.intervals import Box
from search_spaces.ranges import Continuous, Large, Listed, variable


def test_each_domain_has_its_kind() -> None:
    kinds = {Listed: Int(1, 1024), Large: Int(0, 1024), Continuous: Float(0, 1)}
    for kind, domain in kinds.items():
        assert type(variable(domain)) is kind
    assert isinstance(variable(Choice(("a",))), Listed)


@pytest.mark.parametrize("domain", [Int(1, 40, log=True), Choice((1, 2, 8, 9)), Float(0.0, 2.0), Int(1, 10**6)])
def test_values_come_from_the_nearest_on(domain: Domain) -> None:
    one = variable(domain)
    want = domain.decode(0.4)
    low, high = one.coordinate(domain.decode(0.2)), one.coordinate(domain.decode(0.9))
    values = list(itertools.islice(one.from_nearest(want, low, high), 200))
    assert values[0] == want
    assert all(low <= one.coordinate(value) <= high for value in values)
    if not isinstance(one, Large):
        moves = [abs(domain.encode(value) - domain.encode(want)) for value in values]
        ends = 2 if isinstance(one, Continuous) else 0  # which come last
        assert moves[: len(moves) - ends] == sorted(moves[: len(moves) - ends])
    if isinstance(one, Listed):
        assert len(set(values)) == len(values) == sum(low <= value <= high for value in one._values)
    outside = next(iter(one.from_nearest(domain.decode(0.0), low, high)))
    assert one.coordinate(outside) == pytest.approx(low)


def test_words_stand_at_their_place_in_the_list_and_are_all_equally_far() -> None:
    one = variable(Choice(("x", True, 1.5)))
    assert [one.coordinate(value) for value in ("x", True, 1.5)] == [0, 1, 2]
    assert one.value(1) is True
    assert list(one.from_nearest(True, 0, 2)) == [True, "x", 1.5]
    assert list(one.from_nearest(True, 2, 2)) == [1.5]
    assert one.reach(True, 0.99) == (1, 1)


def test_numbers_in_no_order_are_sorted_for_the_rules_and_equally_far() -> None:
    one = variable(Choice((8, 2, 4)))
    assert (one.first, one.last) == (2, 8)
    assert list(one.from_nearest(8, 2, 8)) == [8, 2, 4]
    assert one.reach(4, 0.9) == (4, 4)


def test_a_radius_holds_what_lies_within_it() -> None:
    assert variable(Int(0, 9)).reach(4, 0.25) == (2, 6)
    assert variable(Choice((1, 2, 4, 8))).reach(2, 0.3) == (1, 4)
    low, high = variable(Float(1e-4, 1.0, log=True)).reach(1e-2, 0.25)
    assert (low, high) == pytest.approx((1e-3, 1e-1))
    assert variable(Int(0, 10**6 - 1)).reach(5, 0.1)[0] == 0


def test_ranges_snap_to_values() -> None:
    box = Box([0.5, 1.2, 0.25, 4.0000000001], [7.5, 99.9, 0.75, 4.0000000001], [True] * 4)
    assert variable(Choice((1, 4, 8))).snap(box, 0)
    assert variable(Int(0, 10**6)).snap(box, 1)
    assert variable(Float(0, 1)).snap(box, 2)
    assert variable(Int(0, 10)).snap(box, 3)  # which is rounding
    assert (box.low, box.high) == ([1, 2, 0.25, 4], [4, 99, 0.75, 4])
    assert not variable(Choice((1, 4, 8))).snap(Box([5], [7], [True]), 0)
    assert not variable(Int(0, 10**6)).snap(Box([5.2], [5.8], [True]), 0)


def test_large_integers_know_their_multiples_and_divisors() -> None:
    one = variable(Int(-100, 10**6))
    assert isinstance(one, Large)
    assert list(itertools.islice(one.multiples(7, 24, -100, 10**6), 4)) == [21, 28, 14, 35]
    assert list(one.multiples(7, 24, 22, 27)) == []
    assert list(one.multiples(7, 500, 0, 20)) == [14, 7, 0]
    assert list(one.divisors(12, 5, -3, 100)) == [4, 6, 3, 2, 1, -1, -2, 12, -3]
