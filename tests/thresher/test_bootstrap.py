from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from controller.intervals import Deviation, Interval, pooled_deviation, student_quantile
from controller.trial import Objective, Report
from tests.thresher.written_study import DIFFICULTY, FULL, WEIGHTS
from thresher.bootstrap import TestSample, are_paired, bootstrap, on_test_set, percentile_interval, sample_of

TEST_LOSS = Objective("test_loss")


def report(*pairs: tuple[float, float], told: float | None = None, metric: str = "test_loss") -> Report:
    """A test report whose metric is the weighted mean of its pairs, unless something else is told."""
    values, weights = zip(*((v, w) for v, w in pairs if w), strict=True) if pairs else ((0.0,), (1.0,))
    mean = float(np.average(values, weights=weights))
    return Report(0, FULL, {metric: mean if told is None else told}, 1.0, pairs)


def test_resamples_of_examples_agree_with_all_of_them_enumerated() -> None:
    values = np.array([[1.0, 2.0, 4.0], [1.5, 2.5, 3.0], [0.5, 2.0, 6.0]])
    weights = np.array([1.0, 5.0, 2.0])
    exact = [
        values[:, list(examples)].mean(axis=0) @ weights[list(examples)] / weights[list(examples)].sum()
        for examples in itertools.product(range(3), repeat=3)
    ]

    means = bootstrap([TestSample(values, weights)], seed=0, resamples=100_000)[:, 0]

    assert means.mean() == pytest.approx(np.mean(exact), abs=0.02)
    assert means.std() == pytest.approx(np.std(exact), rel=0.02)
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(exact, [0.1, 0.5, 0.9]), abs=0.05)


def test_the_part_of_the_examples_has_its_closed_form() -> None:
    means = bootstrap([TestSample(DIFFICULTY[None, :], np.ones(60))], seed=0, resamples=20_000)
    assert means[:, 0].std() == pytest.approx(DIFFICULTY.std() / math.sqrt(60), rel=0.03)


@pytest.mark.parametrize("freedom", [1, 2, 5])
def test_the_part_of_the_seeds_is_students_t(freedom: int) -> None:
    """Examples that are all alike leave nothing else."""
    flat = np.full((2, 60), 2.0)
    samples = [TestSample(flat, WEIGHTS), TestSample(flat[:1], WEIGHTS), TestSample(flat[:1], WEIGHTS, trained=False)]

    means = bootstrap(samples, seed=0, deviation=Deviation(0.1, freedom), resamples=100_000)

    quantile = student_quantile(freedom)
    interval = percentile_interval(means[:, 0])
    assert (interval.high - interval.low) / 2 == pytest.approx(quantile * 0.1 / math.sqrt(2), rel=0.05)
    difference = percentile_interval(means[:, 0] - means[:, 1])
    assert difference.high == pytest.approx(quantile * 0.1 * math.sqrt(1 / 2 + 1), rel=0.05)
    assert percentile_interval(means[:, 2]) == Interval(pytest.approx(2.0), pytest.approx(2.0))


def test_resamples_are_split_into_chunks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = TestSample(DIFFICULTY[None, :], WEIGHTS)
    whole = bootstrap([sample], seed=5, resamples=1000)
    monkeypatch.setattr("thresher.bootstrap._CHUNK", 60 * 7)

    split = bootstrap([sample], seed=5, resamples=1000)

    assert split.shape == (1000, 1)
    assert np.isfinite(split).all()
    assert split.std() == pytest.approx(whole.std(), rel=0.1)


def test_differences_are_paired_on_examples() -> None:
    better, worse = TestSample(DIFFICULTY[None, :], WEIGHTS), TestSample(DIFFICULTY[None, :] + 0.01, WEIGHTS)

    means = bootstrap([better, worse], seed=0, resamples=2000)

    assert percentile_interval(means[:, 0] - means[:, 1]) == Interval(pytest.approx(-0.01), pytest.approx(-0.01))
    alone = percentile_interval(means[:, 0])
    assert alone.high - alone.low > 0.2


@pytest.mark.parametrize("seed_noise", [0.0, 0.02, 0.2], ids=["examples decide", "both", "seeds decide"])
def test_intervals_of_differences_cover_the_truth(seed_noise: float) -> None:
    """Four configurations of two runs each, an effect of 0.05. Nominal: 95 %."""
    rng = np.random.default_rng(0)
    covered, studies = 0, 300
    for study in range(studies):
        weights = rng.integers(3, 30, 80).astype(float)
        difficulty = rng.gamma(2, 1, 80)
        effects = (0.0, 0.05, 0.1, 0.1)
        runs = [
            difficulty
            + effect
            + rng.normal(0, 0.3, 80)  # what the configuration is better and worse at
            + rng.normal(0, 0.1, (2, 80))
            + rng.normal(0, seed_noise, (2, 1))
            for effect in effects
        ]
        deviation = pooled_deviation([np.average(values, axis=1, weights=weights).tolist() for values in runs])
        samples = [TestSample(values, weights) for values in runs]
        means = bootstrap(samples, seed=study, deviation=deviation, resamples=400)
        interval = percentile_interval(means[:, 0] - means[:, 1])
        covered += interval.low <= -0.05 <= interval.high
    assert 0.92 <= covered / studies <= 0.99


def test_intervals_of_one_run_cover_the_truth() -> None:
    """The mean of a gamma distribution by examples alone. Nominal: 95 %."""
    rng = np.random.default_rng(1)
    covered = 0
    for study in range(600):
        sample = TestSample(rng.gamma(2, 1, (1, 80)), rng.integers(3, 30, 80).astype(float))
        interval = percentile_interval(bootstrap([sample], seed=study, resamples=400)[:, 0])
        covered += interval.low <= 2 <= interval.high
    assert 0.92 <= covered / 600 <= 0.97


def test_examples_without_weight_say_nothing() -> None:
    sample = sample_of([report((1.0, 2.0), (math.nan, 0.0), (3.0, 2.0))], TEST_LOSS)

    assert sample is not None
    assert sample.mean == 2.0
    assert len(sample.weights) == 2


def test_runs_on_other_examples_do_not_match() -> None:
    one, other = report((1.0, 2.0), (2.0, 1.0)), report((1.0, 2.0), (2.0, 3.0))

    assert sample_of([one, one], TEST_LOSS) is not None
    assert sample_of([one, other], TEST_LOSS) is None
    assert sample_of([], TEST_LOSS) is None
    assert sample_of([report()], TEST_LOSS) is None


def test_values_of_another_metric_are_none_of_the_objective() -> None:
    pairs = ((1.0, 2.0), (2.0, 1.0))
    assert sample_of([report(*pairs, told=0.7)], TEST_LOSS) is None
    assert sample_of([report(*pairs, metric="test_exact_match")], TEST_LOSS) is None


def test_values_of_a_maximised_metric_become_losses() -> None:
    objective = Objective("test_exact_match", "maximize")
    sample = sample_of([report((1.0, 1.0), (0.0, 1.0), (1.0, 1.0), metric="test_exact_match")], objective)
    assert sample is not None
    assert sample.values.tolist() == [[-1.0, 0.0, -1.0]]
    assert are_paired(sample, sample)


@pytest.mark.parametrize(
    ("metric", "name"),
    [("validation_loss", "test_loss"), ("token_accuracy", "test_token_accuracy"), ("exact_match", "test_exact_match")],
)
def test_what_an_objective_is_called_on_the_test_set(metric: str, name: str) -> None:
    assert on_test_set(Objective(metric, "maximize")) == Objective(name, "maximize")
