"""The merit of configurations: improvement, limits and priors together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from controller.surrogates.acquisition import log_expected_improvement
from controller.surrogates.features import Features
from controller.surrogates.gaussian_process import GaussianProcess, Hyperparameters
from controller.surrogates.merit import Limit, Merit, OneObjective, SeveralObjectives
from search_spaces.domains import Float
from search_spaces.priors import Normal
from search_spaces.space import Space

RNG = np.random.default_rng(0)
SPACE = Space({"x": Float(0, 1), "y": Float(0, 1)}, priors={"x": Normal(0.3, 0.2)})
POINTS, ELSEWHERE = RNG.random((12, 2)), RNG.random((7, 2))
GROUPS, SHAPE = np.arange(2), Hyperparameters(np.array([0.4, 0.9]), 1.0, 0.01)


def process(targets: np.ndarray) -> GaussianProcess:
    return GaussianProcess(POINTS, targets, GROUPS, SHAPE)


def test_improvement_is_averaged_over_imagined_results() -> None:
    targets = RNG.normal(size=(12, 3))
    best = np.array([-1.0, -0.5, 0.2])
    ours = np.exp(OneObjective(process(targets), best).log(ELSEWHERE))
    each = []
    for column in range(3):
        mean, variance = process(targets[:, column]).predict(ELSEWHERE)
        each.append(np.exp(log_expected_improvement(mean, np.sqrt(variance), best[column])))
    assert ours == pytest.approx(np.mean(each, axis=0))
    single = OneObjective(process(targets[:, 0]), best[:1])
    assert np.exp(single.log(ELSEWHERE)) == pytest.approx(each[0])


@pytest.mark.parametrize("caution", [0.0, 3.0])
def test_a_limit_is_a_probability_that_counts_more_where_it_is_small(caution: float) -> None:
    limited = process(RNG.normal(size=12))
    mean, variance = limited.predict(ELSEWHERE)
    expected = norm.cdf((0.1 - mean) / np.sqrt(variance))
    ours = np.exp(Limit(limited, 0.1, caution).log(ELSEWHERE))
    assert (expected > 0.5).any()
    assert (expected < 0.5).any()
    assert ours == pytest.approx(expected * np.minimum(2 * expected, 1.0) ** caution)


def test_the_parts_are_multiplied() -> None:
    features = Features(SPACE)
    improvement = OneObjective(process(RNG.normal(size=12)), np.array([0.0]))
    limits = (Limit(process(RNG.normal(size=12)), 0.3), Limit(process(RNG.normal(size=12)), -0.2))
    prior = np.array([SPACE.log_prior(params) for params in SPACE.decode_many(ELSEWHERE)])
    parts = sum(limit.log(ELSEWHERE) for limit in limits)
    whole = Merit(SPACE, features, improvement, limits, 0.5).score(ELSEWHERE)
    assert whole == pytest.approx(improvement.log(ELSEWHERE) + parts + 0.5 * prior)
    assert Merit(SPACE, features, None, limits, 0.0).score(ELSEWHERE) == pytest.approx(parts)


def test_several_objectives_prefer_what_dominates_the_front() -> None:
    losses = np.stack([POINTS[:, 0], 1.0 - POINTS[:, 0] + POINTS[:, 1]], axis=1)
    processes = tuple(process((column - column.mean()) / column.std()) for column in losses.T)
    means = np.stack([one.predict(POINTS)[0] for one in processes], axis=1)
    normal = RNG.standard_normal((128, 2))
    for weights in (None, np.array([0.5, 0.5])):
        several = SeveralObjectives(processes, means, normal, weights, means.min(axis=0), means.max(axis=0))
        low, high = several.log(np.array([[0.5, 0.0], [0.5, 1.0]]))  # x0 trades one for the other, x1 only costs
        assert low > high + 1.0
