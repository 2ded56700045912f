from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.schedulers.brackets import apportioned, checked_ladder, halved, hyperband_brackets
from controller.schedulers.rungs import geometric_rungs

# Li et al. 2018, Table 1: (n_i, r_i) of the brackets s = 4 to 0 for R = 81 and eta = 3.
TABLE = [
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
    [(27, 3), (9, 9), (3, 27), (1, 81)],
    [(9, 9), (3, 27), (1, 81)],
    [(6, 27), (2, 81)],
    [(5, 81)],
]


def rows(max_resource: int, eta: int, **options: str) -> list[list[tuple[int, int]]]:
    brackets = hyperband_brackets(geometric_rungs(1, max_resource, eta), eta, **options)  # type: ignore[arg-type]
    return [list(zip(bracket.sizes, bracket.budgets, strict=True)) for bracket in brackets]


def test_the_table_of_the_paper() -> None:
    assert rows(81, 3, sizes="table") == TABLE


def test_the_algorithm_of_the_paper_starts_more_trials_in_the_middle_brackets() -> None:
    assert rows(81, 3) == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


def algorithm_1(resource: int, eta: int) -> list[list[tuple[int, int]]]:
    """Algorithm 1 of Li et al. 2018 in exact fractions; a budget that is no integer is rounded up."""
    s_max = 0
    while Fraction(resource, eta ** (s_max + 1)) >= 1:
        s_max += 1
    result = []
    for s in range(s_max, -1, -1):
        n = math.ceil(Fraction((s_max + 1) * resource, resource) * Fraction(eta**s, s + 1))
        r = Fraction(resource, eta**s)
        result.append([(math.floor(Fraction(n, eta**i)), math.ceil(r * eta**i)) for i in range(s + 1)])
    return result


@pytest.mark.parametrize("eta", [2, 3, 4, 5])
def test_every_bracket_of_every_resource_equals_exact_arithmetic(eta: int) -> None:
    for resource in range(1, 1001):
        assert rows(resource, eta) == algorithm_1(resource, eta)


def test_no_bracket_is_lost_to_a_rounded_logarithm() -> None:
    assert math.floor(math.log(243, 3)) == 4
    assert [len(bracket) for bracket in rows(243, 3)] == [6, 5, 4, 3, 2, 1]
    for eta in (2, 3, 4, 5, 10):
        for power in range(1, 12):
            assert len(rows(eta**power - 1, eta)) == power
            assert len(rows(eta**power, eta)) == power + 1


@given(st.integers(1, 12), st.integers(2, 6), st.sampled_from(["algorithm", "table"]))
def test_sizes_depend_on_the_number_of_rungs_alone(rungs: int, eta: int, sizes: str) -> None:
    brackets = hyperband_brackets([10 + 7 * level for level in range(rungs)], eta, sizes=sizes)  # type: ignore[arg-type]
    for s, bracket in zip(range(rungs - 1, -1, -1), brackets, strict=True):
        assert len(bracket.budgets) == len(bracket.sizes) == s + 1
        assert bracket.budgets[-1] == 10 + 7 * (rungs - 1)
        assert bracket.sizes == halved(bracket.sizes[0], s + 1, eta)
        assert bracket.sizes[-1] >= 1
    assert brackets[0].sizes[0] == eta ** (rungs - 1)
    assert brackets[-1].sizes == (rungs,)


def test_halving_keeps_at_least_one() -> None:
    assert halved(27, 4, 3) == (27, 9, 3, 1)
    assert halved(20, 4, 3) == (20, 6, 2, 1)
    assert halved(2, 4, 3) == (2, 1, 1, 1)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_shares_are_proportional_and_add_up(total: int, weights: list[int]) -> None:
    shares = apportioned(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - Fraction(total * weight, sum(weights))) < 1


def test_ties_of_shares_go_to_the_earlier() -> None:
    assert apportioned(3, [1, 1]) == (2, 1)
    assert apportioned(10, [81, 34, 15, 8, 5]) == (6, 2, 1, 1, 0)


@pytest.mark.parametrize(
    ("budgets", "options", "expected"),
    [
        ((), {}, "strictly increasing rungs"),
        ((3, 1), {}, "strictly increasing rungs"),
        ((1, 3), {"reduction_factor": 1}, "reduction_factor >= 2"),
        ((1, 3), {"max_trials": 0}, "max_trials >= 1"),
        ((1, 3), {"keep": -1}, "keep >= 0"),
    ],
)
def test_what_cannot_be_is_refused(budgets: tuple[int, ...], options: dict[str, int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        checked_ladder(budgets, **({"max_trials": 3} | options))
    with pytest.raises(ValueError, match="expected sizes to be one of"):
        hyperband_brackets((1, 3), 3, sizes="paper")  # type: ignore[arg-type]
