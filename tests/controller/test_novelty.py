from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.surrogates.novelty import log_novelty

DISTANCES = np.linspace(0.0, 2.0, 21)
KNOWN = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.5, 0.8, 1.0, 1.2])
CLOSE_ONES_REPEAT = KNOWN < 0.3


def test_without_repetitions_everything_is_new() -> None:
    assert log_novelty(DISTANCES, KNOWN, np.zeros(9, np.bool_)).tolist() == [0.0] * 21
    assert log_novelty(DISTANCES, np.empty(0), np.empty(0, np.bool_)).tolist() == [0.0] * 21


def test_the_distance_at_which_results_are_new_is_learnt() -> None:
    many = np.tile(KNOWN, 10)
    near, far = np.exp(log_novelty(np.array([0.1, 0.8]), many, np.tile(CLOSE_ONES_REPEAT, 10)))
    assert near < 0.2
    assert far > 0.8
    near, far = np.exp(log_novelty(np.array([0.1, 0.8]), many, np.tile(KNOWN < 0.03, 10)))
    assert near > 0.6
    assert far > 0.95


def test_few_repetitions_are_less_certain_than_many() -> None:
    once = log_novelty(np.array([0.05]), KNOWN, CLOSE_ONES_REPEAT)
    often = log_novelty(np.array([0.05]), np.tile(KNOWN, 10), np.tile(CLOSE_ONES_REPEAT, 10))
    assert often < once < 0.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), min_size=1, max_size=40),
)
def test_it_is_a_probability_that_grows_with_the_distance(known: list[tuple[float, bool]]) -> None:
    distances, repeated = np.array([one[0] for one in known]), np.array([one[1] for one in known])
    logs = log_novelty(DISTANCES, distances, repeated)
    assert (logs <= 0.0).all()
    assert (np.diff(logs) >= 0.0).all()
    assert np.isfinite(logs).all()


def test_it_is_at_the_mode_of_the_posterior() -> None:
    """Constant and slope, read off two distances, are no worse than any near them."""
    first, second = log_novelty(np.array([0.0, 1.0]), KNOWN, CLOSE_ONES_REPEAT)
    constant = -np.log(np.expm1(-first))
    slope = -np.log(np.expm1(-second)) - constant

    def posterior(constant: float, slope: float) -> float:
        scores = constant + slope * KNOWN
        chances = 1.0 / (1.0 + np.exp(-scores))
        likelihood = np.sum(np.log(np.where(CLOSE_ONES_REPEAT, 1.0 - chances, chances)))
        return float(likelihood - 0.5 * (constant / 2.0) ** 2 - 0.5 * ((slope - 3.0) / 5.0) ** 2)

    assert slope > 0.0
    best = posterior(constant, slope)
    for move in ((0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.0, -0.05)):
        assert best > posterior(constant + move[0], slope + move[1])
    assert best == pytest.approx(posterior(constant + 1e-4, slope), abs=1e-5)
