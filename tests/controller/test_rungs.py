from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.schedulers.rungs import coarse_rungs, fine_rungs, geometric_rungs


@pytest.mark.parametrize(
    ("arguments", "rungs"),
    [
        ((1, 27, 3), (1, 3, 9, 27)),
        ((1, 243, 3), (1, 3, 9, 27, 81, 243)),  # six: a rounded logarithm gives five
        ((100, 1000, 3), (112, 334, 1000)),
        ((1, 1, 2), (1,)),
        ((9, 10, 2), (10,)),
        ((5, 10, 2), (5, 10)),
    ],
)
def test_examples(arguments: tuple[int, int, int], rungs: tuple[int, ...]) -> None:
    assert geometric_rungs(*arguments) == rungs


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(2, 10))
def test_rungs_increase_from_the_smallest_budget_to_exactly_the_full_one(low: int, more: int, eta: int) -> None:
    high = low + more
    rungs = geometric_rungs(low, high, eta)
    assert rungs[-1] == high
    assert rungs[0] >= low
    assert rungs[0] <= low * eta  # no further rung would fit below
    assert all(1 < upper / lower <= eta for lower, upper in pairwise(rungs))


@pytest.mark.parametrize("arguments", [(0, 9, 3), (10, 9, 3), (1, 9, 1)])
def test_what_cannot_be_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        geometric_rungs(*arguments)


@pytest.mark.parametrize(
    ("budgets", "rungs"),
    [
        ((2, 6, 18, 52), (2, 3, 4, 6, 9, 14, 21, 32, 52)),
        ((1, 3, 9, 27), (1, 2, 3, 4, 6, 9, 14, 21, 27)),
        ((1000, 3000, 9000), (1000, 1500, 2250, 3375, 5062, 9000)),
        ((8, 16), (8, 12, 16)),
        ((9, 10), (9, 10)),
        ((1, 2), (1, 2)),
        ((5,), (5,)),
    ],
)
def test_a_fine_ladder(budgets: tuple[int, ...], rungs: tuple[int, ...]) -> None:
    assert fine_rungs(budgets) == rungs


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_fine_ladder_keeps_its_ends_and_its_steps(low: int, more: int) -> None:
    rungs = fine_rungs((low, low + more))
    assert (rungs[0], rungs[-1]) == (low, low + more)
    assert all(lower < upper <= max(lower + 1, 1.81 * lower + 1) for lower, upper in pairwise(rungs))
    assert fine_rungs(rungs) == rungs


@pytest.mark.parametrize("budgets", [(), (0, 9), (9, 3)])
def test_no_fine_ladder(budgets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected rungs from 1 on"):
        fine_rungs(budgets)


def test_coarse_rungs_are_three_times_apart_and_end_at_the_full_budget() -> None:
    assert coarse_rungs((2, 3, 4, 6, 9, 14, 21, 32, 52)) == (2, 6, 21, 52)
    assert coarse_rungs((2, 6, 18, 52)) == (2, 6, 18, 52)
    assert coarse_rungs((1, 2, 3, 4, 5)) == (1, 5)  # 3 of 5 is too close to the full budget
    assert coarse_rungs((2, 3)) == (2, 3)
    assert coarse_rungs((5,)) == (5,)
