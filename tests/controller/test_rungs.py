from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.schedulers.rungs import geometric_rungs


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
