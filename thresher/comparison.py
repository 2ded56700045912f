"""How the finalists compare: seeds on validation data, bootstrap intervals on test data, and verdicts.

The winner is chosen by validation alone, see `controller.finalists.standings`; the test set only says what the
choice is worth. Where something was not measured the result says so instead of guessing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from controller.finalists import DEFAULT_TRIAL, Finalists, Standing, runs_of, standings
from controller.history import History
from controller.trial import Report, Trial
from search_spaces.space import Params

TEST_METRIC = "test_loss"
RESAMPLES = 10_000
LEVEL = 0.95
FEW_EXAMPLES = 30

Verdict = Literal["better", "worse", "tie"]
Floats = npt.NDArray[np.float64]

_CHUNK = 2_000_000  # example draws held at a time: 16 MB as int64


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % percentile interval."""

    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What it says as the interval of a difference of losses, ours minus theirs."""
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "tie"


@dataclass(frozen=True, slots=True)
class TestSample:
    """Test losses by example.

    Attributes:
        values: [runs, examples], float64.
        weights: [examples], float64, positive (answer tokens, say); the same for all runs.
    """

    __test__ = False  # not a test case, whatever a test runner makes of the name

    values: Floats
    weights: Floats

    @property
    def mean(self) -> float:
        """sum_i w_i v_i / sum_i w_i, with v_i the mean of example i over the runs."""
        return float(self.values.mean(axis=0) @ self.weights / self.weights.sum())

    def is_paired_with(self, other: TestSample) -> bool:
        """Whether both were measured on the same examples, as far as their weights tell."""
        return np.array_equal(self.weights, other.weights)


@dataclass(frozen=True, slots=True)
class TestScore:
    """A loss on the test set.

    Attributes:
        runs: how many trained models it is the mean of.
        interval: None where the losses of the single examples are unknown or fewer than two.
        generations: answers of the first run to the first test prompts.
    """

    __test__ = False

    loss: float
    interval: Interval | None
    runs: int
    examples: int
    generations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """A finalist, or the default configuration, with all its runs.

    Attributes:
        runs: the trial and its repeats that reached the full budget.
        losses: validation loss of each run; that of the trial itself, by which it was chosen, first.
        standard_error: of their mean; NaN for a single run.
        test: None if none of its runs was tested.
    """

    trial_id: int
    params: Params
    runs: tuple[int, ...]
    losses: tuple[float, ...]
    mean: float
    standard_error: float
    test: TestScore | None = None

    @property
    def label(self) -> str:
        """What to call it."""
        return "default (trial 0)" if self.trial_id == DEFAULT_TRIAL else f"trial {self.trial_id}"


@dataclass(frozen=True, slots=True)
class Difference:
    """Test loss of the winner minus that of another, on the same examples: negative if the winner is better.

    Attributes:
        trial_id: the other; None for the base model.
        interval: None if there is nothing to resample, and then there is no verdict.
    """

    trial_id: int | None
    value: float
    interval: Interval | None

    @property
    def verdict(self) -> Verdict | None:
        """'better' or 'worse' for the winner, 'tie' if the interval contains 0."""
        return None if self.interval is None else self.interval.verdict


@dataclass(frozen=True, slots=True)
class Selection:
    """How much of the winner's validation loss was luck: the best of many is better than it is.

    Attributes:
        found: its loss on the run by which it was chosen.
        repeated: mean loss of its repeats, which no choice has touched.
        default_found, default_repeated: the same of the default configuration, if it was repeated too.
    """

    found: float
    repeated: float
    default_found: float | None = None
    default_repeated: float | None = None

    @property
    def value(self) -> float:
        """found - repeated: negative by what selection flattered the winner."""
        return self.found - self.repeated


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that the end of a study can say about its finalists. Losses are lower-is-better throughout.

    Attributes:
        metric: the validation metric; `sign` times a loss gives its value (-1 for a maximised metric).
        contenders: best first by mean validation loss. The first is the winner.
        base: the base model on the test set.
        differences: winner minus base, default and every other finalist, as far as they were tested.
        ties: the contenders whose validation mean is within two standard errors of the winner's.
        selection: None if the winner is the default (nothing was selected) or has no repeats.
        gaps: a sentence for everything that is missing or rough.
    """

    metric: str
    sign: int
    contenders: tuple[Contender, ...]
    base: TestScore | None
    differences: tuple[Difference, ...]
    ties: tuple[int, ...]
    selection: Selection | None
    gaps: tuple[str, ...]

    @property
    def winner(self) -> Contender | None:
        """The contender with the best mean validation loss; None if no trial reached the full budget."""
        return self.contenders[0] if self.contenders else None

    @property
    def default(self) -> Contender | None:
        """The default configuration, if it reached the full budget."""
        return next((contender for contender in self.contenders if contender.trial_id == DEFAULT_TRIAL), None)

    def difference(self, trial_id: int | None) -> Difference | None:
        """The winner's difference to a contender, or to the base model (None)."""
        return next((difference for difference in self.differences if difference.trial_id == trial_id), None)

    def to_json(self) -> dict[str, Any]:
        """Everything but the generations as plain data; what is no number becomes None."""
        selection = self.selection
        return {
            "metric": self.metric,
            "direction": "minimize" if self.sign > 0 else "maximize",
            "winner": None if self.winner is None else self.winner.trial_id,
            "contenders": [_contender_to_json(contender) for contender in self.contenders],
            "base": _score_to_json(self.base),
            "differences": [
                {
                    "winner_minus": "base" if difference.trial_id is None else difference.trial_id,
                    "value": _number(difference.value),
                    "interval": _interval_to_json(difference.interval),
                    "verdict": difference.verdict,
                }
                for difference in self.differences
            ],
            "validation_ties": list(self.ties),
            "selection": None
            if selection is None
            else {
                "found": selection.found,
                "repeated": selection.repeated,
                "found_minus_repeated": selection.value,
                "default_found": selection.default_found,
                "default_repeated": selection.default_repeated,
            },
            "gaps": list(self.gaps),
        }


def compare(history: History, finalists: Finalists, *, resamples: int = RESAMPLES) -> Comparison:
    """Compare the finalists of a study as far as they were repeated and tested.

    Intervals are percentiles of `bootstrap`, seeded by the study; those of a difference are paired, i.e. both losses
    are computed on the same resampled examples (Efron and Tibshirani 1993, chapter 16; Koehn 2004). Each holds by
    itself with 95 %: nothing is corrected for the number of comparisons.
    """
    rows = standings(history, finalists)
    if not rows:
        gaps = [f"No trial reached the full budget of {history.horizon}: there is nothing to compare."]
    else:
        gaps = _gaps(history, finalists, rows)
    reports = [[run.tests[history.horizon] for run in row.runs if history.horizon in run.tests] for row in rows]
    base_reports = [trial.tests[0] for trial in history.trials if 0 in trial.tests][:1]
    scores, differences = _test_scores([*reports, base_reports], history.seed, resamples)
    if rows and finalists.test:
        gaps += _test_gaps([*(_label(row.trial) for row in rows), "the base model"], [*reports, base_reports], scores)
    objective = history.objectives[0]
    contenders = tuple(
        Contender(
            row.trial.trial_id,
            row.trial.params,
            tuple(run.trial_id for run in row.runs),
            row.losses,
            row.mean,
            row.standard_error,
            score,
        )
        for row, score in zip(rows, scores[:-1], strict=True)
    )
    others = [*(row.trial.trial_id for row in rows), None]
    return Comparison(
        metric=objective.metric,
        sign=1 if objective.direction == "minimize" else -1,
        contenders=contenders,
        base=scores[-1],
        differences=tuple(Difference(others[index], *found) for index, found in differences.items()),
        ties=_validation_ties(rows),
        selection=_selection(rows),
        gaps=tuple(gaps),
    )


def bootstrap(samples: Sequence[TestSample], *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Mean losses of models on resampled test sets, [resamples, len(samples)].

    Each resample draws N of the N examples with replacement, in common for all samples, and takes the weighted mean
    of each. Where a sample has R > 1 runs, R - 1 of them are drawn with replacement, independently of the examples:
    drawing R would make the variance between runs too small by the factor (R - 1) / R, which matters for R = 3
    (McCarthy and Snowden 1985, the "with-replacement bootstrap"; Rao and Wu 1988). Two or three runs still say
    little about how far runs can differ, so where that decides, such intervals are too short.

    Args:
        samples: all on the same examples.
    """
    rng = np.random.default_rng(seed)
    weights = samples[0].weights
    count = len(weights)
    weighted = [(sample.values * weights).T for sample in samples]
    means = np.empty((resamples, len(samples)))
    step = max(1, _CHUNK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = rng.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        multiplicity = np.bincount(draws.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        totals = multiplicity @ weights
        for column, values in enumerate(weighted):
            sums = multiplicity @ values
            runs = values.shape[1]
            if runs > 1:
                sums = np.take_along_axis(sums, rng.integers(runs, size=(rows, runs - 1)), axis=1)
            means[start : start + rows, column] = sums.mean(axis=1) / totals
    return means


def percentile_interval(values: Floats) -> Interval:
    """The central 95 % of bootstrapped values, [resamples]."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def sample_of(reports: Sequence[Report]) -> TestSample | None:
    """The losses of the runs of one configuration by example; None if they are missing, infinite or do not match."""
    if not reports or not all(report.per_example for report in reports):
        return None
    if len({len(report.per_example) for report in reports}) > 1:
        return None
    pairs = np.array([report.per_example for report in reports], dtype=np.float64)  # [runs, examples, 2]
    weights = pairs[0, :, 1]
    measured = weights > 0  # an example without weight, such as an empty answer, says nothing
    values = pairs[:, measured, 0]
    if not measured.any() or (pairs[:, :, 1] != weights).any() or not np.isfinite(values).all():
        return None
    return TestSample(values, weights[measured])


def _test_scores(
    reports: Sequence[Sequence[Report]], seed: int, resamples: int
) -> tuple[list[TestScore | None], dict[int, tuple[float, Interval | None]]]:
    """Scores in the order given, and (difference, interval) of the first to each of the others by their position."""
    samples = [sample_of(group) for group in reports]
    scores: list[TestScore | None] = []
    means: dict[int, Floats] = {}
    for position, (group, sample) in enumerate(zip(reports, samples, strict=True)):
        if not group:
            scores.append(None)
        elif sample is None or len(sample.weights) < 2:
            examples = 0 if sample is None else len(sample.weights)
            loss = _mean_metric(group) if sample is None else sample.mean
            scores.append(TestScore(loss, None, len(group), examples, group[0].generations))
        else:
            if position not in means:
                partners = [i for i, other in enumerate(samples) if other is not None and other.is_paired_with(sample)]
                columns = bootstrap([s for i in partners if (s := samples[i]) is not None], seed=seed, resamples=resamples)
                means |= dict(zip(partners, columns.T, strict=True))
            interval = percentile_interval(means[position])
            scores.append(TestScore(sample.mean, interval, len(group), len(sample.weights), group[0].generations))
    return scores, _differences(scores, samples, means)


def _differences(
    scores: Sequence[TestScore | None], samples: Sequence[TestSample | None], means: Mapping[int, Floats]
) -> dict[int, tuple[float, Interval | None]]:
    first, first_sample = scores[0], samples[0]
    found: dict[int, tuple[float, Interval | None]] = {}
    for position, (score, sample) in enumerate(zip(scores, samples, strict=True)):
        if position == 0 or first is None or score is None:
            continue
        interval = None
        if first_sample is not None and sample is not None and 0 in means and first_sample.is_paired_with(sample):
            interval = percentile_interval(means[0] - means[position])
        found[position] = (first.loss - score.loss, interval)
    return found


def _mean_metric(reports: Sequence[Report]) -> float:
    return sum(report.metrics.get(TEST_METRIC, math.nan) for report in reports) / len(reports)


def _validation_ties(rows: Sequence[Standing]) -> tuple[int, ...]:
    """Who cannot be told from the winner. Seeds differ between trials, so nothing can be paired."""
    return tuple(
        row.trial.trial_id
        for row in rows[1:]
        if row.mean - rows[0].mean <= 2 * math.hypot(row.standard_error, rows[0].standard_error)
    )


def _selection(rows: Sequence[Standing]) -> Selection | None:
    if not rows or rows[0].trial.trial_id == DEFAULT_TRIAL or len(rows[0].losses) < 2:
        return None
    winner = rows[0].losses
    found, repeated = winner[0], sum(winner[1:]) / (len(winner) - 1)
    default = next((row.losses for row in rows if row.trial.trial_id == DEFAULT_TRIAL), ())
    if len(default) < 2:
        return Selection(found, repeated)
    return Selection(found, repeated, default[0], sum(default[1:]) / (len(default) - 1))


def _gaps(history: History, finalists: Finalists, rows: Sequence[Standing]) -> list[str]:
    """What is missing before the test."""
    gaps = []
    default = history.trials[DEFAULT_TRIAL]
    if all(row.trial is not default for row in rows):
        failure = default.failure
        why = f"failed ({failure.kind.value})" if failure is not None else "did not reach the full budget"
        gaps.append(f"The default configuration (trial 0) {why}: there is no default to compare with.")
    for row in rows:
        planned = runs_of(history, row.trial)
        missing = [run for run in planned if run not in row.runs]
        if missing:
            ends = ", ".join(run.failure.kind.value if run.failure else "not finished" for run in missing)
            gaps.append(f"{_label(row.trial)}: {len(missing)} of {len(planned)} runs gave no result ({ends}).")
    if all(len(row.losses) < 2 for row in rows):
        gaps.append("One run each: how much of the differences on validation is chance is unknown.")
    if not finalists.test:
        gaps.append("There is no test set: nothing here was measured on data that the search did not choose by.")
    untested = [run.trial_id for row in rows for run in row.runs if history.horizon not in run.tests]
    if finalists.test and untested:
        tried = {job.trial_id for job in history.jobs if job.split == "test" and job.to_budget == history.horizon}
        for words, trials in (
            ("failed", [trial_id for trial_id in untested if trial_id in tried]),
            ("was not made", [trial_id for trial_id in untested if trial_id not in tried]),
        ):
            if trials:
                gaps.append(f"The test of {_listed(trials)} {words}.")
    return gaps


def _test_gaps(
    labels: Sequence[str], reports: Sequence[Sequence[Report]], scores: Sequence[TestScore | None]
) -> list[str]:
    """What is missing in the test."""
    gaps = []
    for label, group, score in zip(labels, reports, scores, strict=True):
        if score is None:
            gaps.append(f"Not tested: {label}.")
        elif not math.isfinite(score.loss):
            gaps.append(f"{label}: the test loss is no number.")
        elif score.interval is None:
            why = "only one test example" if score.examples else "no matching losses by example"
            gaps.append(f"{label}: no interval ({why} in {len(group)} test reports).")
    counts = [score.examples for score in scores if score is not None and score.interval is not None]
    if counts and min(counts) < FEW_EXAMPLES:
        gaps.append(f"Only {min(counts)} test examples: the intervals are rough.")
    if len(set(counts)) > 1:
        gaps.append("Not all were tested on the same examples: where not, differences have no interval.")
    return gaps


def _label(trial: Trial) -> str:
    return "default (trial 0)" if trial.trial_id == DEFAULT_TRIAL else f"trial {trial.trial_id}"


def _listed(trials: Sequence[int]) -> str:
    return ("trial " if len(trials) == 1 else "trials ") + ", ".join(map(str, trials))


def _contender_to_json(contender: Contender) -> dict[str, Any]:
    return {
        "trial": contender.trial_id,
        "params": dict(contender.params),
        "runs": list(contender.runs),
        "validation_losses": list(contender.losses),
        "mean": contender.mean,
        "standard_error": _number(contender.standard_error),
        "test": _score_to_json(contender.test),
    }


def _score_to_json(score: TestScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {
        "loss": _number(score.loss),
        "interval": _interval_to_json(score.interval),
        "runs": score.runs,
        "examples": score.examples,
    }


def _interval_to_json(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
