"""How the finalists compare: seeds on validation data, bootstrap intervals on test data, and verdicts.

The winner is chosen by validation alone, see `controller.finalists.standings`; the test set only says what the
choice is worth. Where something was not measured the result says so instead of guessing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from controller.finalists import DEFAULT_TRIAL, Finalists, Standing, runs_of, standings
from controller.history import History
from controller.trial import Report
from search_spaces.space import Params

TEST_METRIC = "test_loss"
RESAMPLES = 10_000
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


@dataclass(frozen=True, slots=True)
class TestScore:
    """A loss on the test set.

    Attributes:
        runs: how many trained models it is the mean of.
        interval: None where the losses by example are missing, fewer than two or do not match, see `sample_of`.
        examples: how many it rests on; 0 where that is not known.
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

    def to_json(self) -> dict[str, Any]:
        """Everything but the generations as plain data; what is no number becomes None."""
        data: dict[str, Any] = plain_data(asdict(self))
        for score in (data["base"], *(contender["test"] for contender in data["contenders"])):
            if score is not None:
                del score["generations"]
        for entry, difference in zip(data["differences"], self.differences, strict=True):
            entry["verdict"] = difference.verdict
        data["winner"] = None if self.winner is None else self.winner.trial_id
        return data


def compare(history: History, finalists: Finalists, *, resamples: int = RESAMPLES) -> Comparison:
    """Compare the finalists of a study as far as they were repeated and tested.

    Intervals are percentiles of `bootstrap`, seeded by the study; those of a difference are paired, i.e. both losses
    are computed on the same resampled examples (Efron and Tibshirani 1993, chapter 16; Koehn 2004). Each holds by
    itself with 95 %: nothing is corrected for the number of comparisons.
    """
    rows = standings(history, finalists)
    reports = [[run.tests[history.horizon] for run in row.runs if history.horizon in run.tests] for row in rows]
    base_reports = [trial.tests[0] for trial in history.trials if 0 in trial.tests][:1]
    tested = dict(zip([*(row.trial.trial_id for row in rows), None], [*reports, base_reports], strict=True))
    scores, differences = _test_scores(tested, history.seed, resamples)
    gaps = _gaps(history, rows)
    if not finalists.test:
        gaps.append("There is no test set: nothing here was measured on data that the search did not choose by.")
    elif rows:
        gaps += _test_gaps(history, rows, scores)
    objective = history.objectives[0]
    return Comparison(
        metric=objective.metric,
        sign=1 if objective.direction == "minimize" else -1,
        contenders=tuple(_contender(row, score) for row, score in zip(rows, scores[:-1], strict=True)),
        base=scores[-1],
        differences=tuple(sorted(differences, key=lambda difference: (difference.trial_id or 0) > 0)),
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
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def sample_of(reports: Sequence[Report]) -> TestSample | None:
    """The losses of the runs of one configuration by example.

    None if they are missing, infinite, of fewer than two examples, or do not match.
    """
    lengths = {len(report.per_example) for report in reports}
    if len(lengths) != 1 or lengths == {0}:
        return None
    pairs = np.array([report.per_example for report in reports], dtype=np.float64)  # [runs, examples, 2]
    weights = pairs[0, :, 1]
    measured = weights > 0  # an example without weight, such as an empty answer, says nothing
    values = pairs[:, measured, 0]
    if measured.sum() < 2 or (pairs[:, :, 1] != weights).any() or not np.isfinite(values).all():
        return None
    return TestSample(values, weights[measured])


def label_of(trial_id: int | None) -> str:
    """What to call a contender, or the base model (None)."""
    if trial_id is None:
        return "base model"
    return "default" if trial_id == DEFAULT_TRIAL else f"trial {trial_id}"


def plain_data(value: Any) -> Any:
    """A value made of mappings, sequences and scalars as JSON has it: with lists, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: plain_data(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _test_scores(
    reports: Mapping[int | None, Sequence[Report]], seed: int, resamples: int
) -> tuple[list[TestScore | None], list[Difference]]:
    """Scores of trials (the base model: None) in the order given, and the differences of the first to the others."""
    samples = [sample_of(group) for group in reports.values()]
    means = _resampled_means(samples, seed, resamples)
    scores: list[TestScore | None] = []
    differences = []
    for place, (trial_id, group) in enumerate(reports.items()):
        if not group:
            scores.append(None)
            continue
        sample, first = samples[place], samples[0]
        interval = percentile_interval(means[place]) if place in means else None
        values = [report.metrics.get(TEST_METRIC, math.nan) for report in group]
        loss, examples = (_mean(values), 0) if sample is None else (sample.mean, len(sample.weights))
        scores.append(TestScore(loss, interval, len(group), examples, group[0].generations))
        if place and scores[0] is not None:
            paired = first is not None and sample is not None and _are_paired(first, sample)
            interval = percentile_interval(means[0] - means[place]) if paired else None
            differences.append(Difference(trial_id, scores[0].loss - loss, interval))
    return scores, differences


def _resampled_means(samples: Sequence[TestSample | None], seed: int, resamples: int) -> dict[int, Floats]:
    """Bootstrapped means by position; those measured on the same examples are resampled together."""
    means: dict[int, Floats] = {}
    known = {place: sample for place, sample in enumerate(samples) if sample is not None}
    for place, sample in known.items():
        if place not in means:
            paired = {other: their for other, their in known.items() if _are_paired(their, sample)}
            columns = bootstrap(list(paired.values()), seed=seed, resamples=resamples).T
            means |= dict(zip(paired, columns, strict=True))
    return means


def _are_paired(one: TestSample, other: TestSample) -> bool:
    return np.array_equal(one.weights, other.weights)  # the same examples, as far as that can be told


def _contender(row: Standing, score: TestScore | None) -> Contender:
    trial, runs = row.trial, tuple(run.trial_id for run in row.runs)
    return Contender(trial.trial_id, trial.params, runs, row.losses, row.mean, row.standard_error, score)


def _validation_ties(rows: Sequence[Standing]) -> tuple[int, ...]:
    """Who cannot be told from the winner. Seeds differ between trials, so nothing can be paired.

    An unknown standard error (a single run) is no ground to tell anybody apart.
    """
    return tuple(
        row.trial.trial_id
        for row in rows[1:]
        if not row.mean - rows[0].mean > 2 * math.hypot(row.standard_error, rows[0].standard_error)
    )


def _selection(rows: Sequence[Standing]) -> Selection | None:
    if not rows or rows[0].trial.trial_id == DEFAULT_TRIAL or len(rows[0].losses) < 2:
        return None
    winner = rows[0].losses
    default = next((row.losses for row in rows if row.trial.trial_id == DEFAULT_TRIAL), ())
    if len(default) < 2:
        return Selection(winner[0], _mean(winner[1:]))
    return Selection(winner[0], _mean(winner[1:]), default[0], _mean(default[1:]))


def _gaps(history: History, rows: Sequence[Standing]) -> list[str]:
    """What is missing on validation."""
    if not rows:
        return [f"No trial reached the full budget of {history.horizon}: there is nothing to compare."]
    gaps = []
    if all(row.trial.trial_id != DEFAULT_TRIAL for row in rows):
        failure = history.trials[DEFAULT_TRIAL].failure
        why = f"failed ({failure.kind.value})" if failure else "did not reach the full budget"
        gaps.append(f"The default configuration (trial 0) {why}: there is no default to compare with.")
    for row in rows:
        planned = runs_of(history, row.trial)
        missing = [run for run in planned if run not in row.runs]
        if missing:
            ends = ", ".join(run.failure.kind.value if run.failure else "not finished" for run in missing)
            gaps.append(f"{_label(row)}: {len(missing)} of {len(planned)} runs gave no result ({ends}).")
    if all(len(row.losses) < 2 for row in rows):
        gaps.append("One run each: how much of the differences on validation is chance is unknown.")
    return gaps


def _test_gaps(history: History, rows: Sequence[Standing], scores: Sequence[TestScore | None]) -> list[str]:
    """What is missing on the test set. The last score is that of the base model."""
    horizon = history.horizon
    untested = [run.trial_id for row in rows for run in row.runs if horizon not in run.tests]
    gaps = [f"Trial {trial_id} has no test result." for trial_id in untested]
    if scores[-1] is None:
        gaps.append("The base model has no test result.")
    for label, score in zip([*map(_label, rows), label_of(None)], scores, strict=True):
        if score is not None and not math.isfinite(score.loss):
            gaps.append(f"{label}: the test loss is no number.")
        elif score is not None and score.interval is None:
            gaps.append(f"{label}: no interval, since losses by example are missing, too few or do not match.")
    counts = {score.examples for score in scores if score is not None and score.interval is not None}
    if counts and min(counts) < FEW_EXAMPLES:
        gaps.append(f"Only {min(counts)} test examples: the intervals are rough.")
    if len(counts) > 1:
        gaps.append("Not all were tested on the same examples: where not, differences have no interval.")
    return gaps


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _label(row: Standing) -> str:
    return label_of(row.trial.trial_id)
