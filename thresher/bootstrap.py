"""Intervals of test results by resampling: over the examples of the test set, and over the seeds of the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controller.intervals import CONFIDENCE, Deviation, Interval
from controller.trial import Objective, Report

RESAMPLES = 10_000

Floats = npt.NDArray[np.float64]

_CHUNK = 2_000_000  # example draws held at a time: 16 MB as int64


@dataclass(frozen=True, slots=True)
class TestSample:
    """Test losses by example; lower is better.

    Attributes:
        values: [runs, examples], float64.
        weights: [examples], float64, positive (answer tokens, say); the same for all runs.
        trained: whether another seed would have given other values; not so for the base model.
    """

    __test__ = False  # not a test case, whatever a test runner makes of the name
    values: Floats
    weights: Floats
    trained: bool = True

    @property
    def mean(self) -> float:
        """sum_i w_i v_i / sum_i w_i, with v_i the mean of example i over the runs."""
        return float(self.values.mean(axis=0) @ self.weights / self.weights.sum())


def bootstrap(
    samples: Sequence[TestSample], *, seed: int, deviation: Deviation | None = None, resamples: int = RESAMPLES
) -> Floats:
    """Mean losses of models on other test sets and with other seeds, [resamples, len(samples)].

    Each resample draws N of the N examples with replacement, in common for all samples, and takes the weighted
    mean of each: the paired bootstrap (Efron and Tibshirani 1993, ch. 6 and 8). For the seeds each mean of R runs
    is moved by `deviation` / sqrt(R) times a draw of Student's t, with the same estimate of the deviation for all
    samples of a resample. To draw the runs with replacement too, as one does with many, would give an interval
    between the two or three values there are, which covers the truth in far fewer than 95 % of studies.

    The noise of single examples between runs is in both parts, so where it dominates the intervals are a little
    too wide.

    Args:
        samples: all on the same examples.
        deviation: between the means of runs that differ by their seed; None leaves the seeds out.
    """
    rng = np.random.default_rng(seed)
    weights = samples[0].weights
    count = len(weights)
    weighted = np.stack([sample.values.mean(axis=0) * weights for sample in samples], axis=1)
    means = np.empty((resamples, len(samples)))
    step = max(1, _CHUNK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        multiplicity = np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        means[start : start + rows] = multiplicity @ weighted / (multiplicity @ weights)[:, None]
    if deviation is not None:
        scale = deviation.value * np.sqrt(deviation.freedom / rng.chisquare(deviation.freedom, resamples))
        for column, sample in enumerate(samples):
            if sample.trained:
                means[:, column] += scale * rng.standard_normal(resamples) / math.sqrt(len(sample.values))
    return means


def percentile_interval(values: Floats) -> Interval:
    """The central 95 % of bootstrapped values, [resamples]."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def on_test_set(objective: Objective) -> Objective:
    """What an objective is called on the test set: test_loss for validation_loss, test_<metric> for any other."""
    return Objective(f"test_{objective.metric.removeprefix('validation_')}", objective.direction)


def sample_of(reports: Sequence[Report], objective: Objective, *, trained: bool = True) -> TestSample | None:
    """The losses of the runs of one configuration by example.

    None if they are missing, infinite, of fewer than two examples, do not match between the runs, or are not those
    of the objective: their weighted mean must be the metric that the run reports.

    Args:
        objective: as the test reports call it, see `on_test_set`.
    """
    lengths = {len(report.per_example) for report in reports}
    if len(lengths) != 1 or lengths == {0}:
        return None
    pairs = np.array([report.per_example for report in reports], dtype=np.float64)  # [runs, examples, 2]
    weights = pairs[0, :, 1]
    measured = weights > 0  # an example without weight, such as an empty answer, says nothing
    values, kept = pairs[:, measured, 0], weights[measured]
    if measured.sum() < 2 or (pairs[:, :, 1] != weights).any() or not np.isfinite(values).all():
        return None
    told = [report.metrics.get(objective.metric, math.nan) for report in reports]
    if not np.allclose(values @ kept / kept.sum(), told, rtol=1e-4, atol=1e-6):
        return None
    return TestSample(values if objective.direction == "minimize" else -values, kept, trained)


def are_paired(one: TestSample, other: TestSample) -> bool:
    """Whether two samples are on the same examples, as far as that can be told."""
    return np.array_equal(one.weights, other.weights)
