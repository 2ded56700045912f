"""How the finalists compare: seeds on validation data, bootstrap intervals on test data, and verdicts.

The winner is chosen by validation alone, see `controller.standings`; the test set only says what the choice is
worth. Where something was not measured the result says so instead of guessing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controller.finalists import DEFAULT_TRIAL, Finalists, runs_of
from controller.history import History
from controller.intervals import Deviation, Interval, Verdict
from controller.standings import (
    Selection,
    Standing,
    deviation_between,
    seed_deviation,
    selection_of,
    standings,
    ties_of,
)
from controller.trial import Objective, Report, Trial
from search_spaces.space import Params
from thresher.bootstrap import (
    RESAMPLES,
    Floats,
    TestSample,
    are_paired,
    bootstrap,
    on_test_set,
    percentile_interval,
    sample_of,
)

FEW_EXAMPLES = 30


@dataclass(frozen=True, slots=True)
class TestScore:
    """A result on the test set.

    Attributes:
        loss: the first objective as a loss, the mean over the runs.
        interval: None where the losses by example are missing, fewer than two or do not match, see `sample_of`.
        runs: how many trained models it is the mean of.
        examples: how many it rests on; 0 where that is not known.
        metrics: the mean of everything that the test jobs measured, over the same runs, in its own direction.
        generations: answers of the first run to the first test prompts.
    """

    __test__ = False  # not a test case, whatever a test runner makes of the name
    loss: float
    interval: Interval | None
    runs: int
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    generations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """A finalist, or the default configuration, with all its runs. See Standing for the estimate.

    Attributes:
        runs: the trial and its repeats that reached the full budget.
        losses: validation loss of each run; that of the trial itself, by which it was chosen, first.
        values: the mean of each objective over the runs that `mean` is over, in its own direction.
        test: None if none of its runs was tested.
    """

    trial_id: int
    params: Params
    runs: tuple[int, ...]
    losses: tuple[float, ...]
    mean: float
    standard_error: float
    interval: Interval | None
    values: Mapping[str, float]
    test: TestScore | None = None

    @property
    def repeated(self) -> bool:
        """Whether the mean is over repeats, and not the run that the trial was chosen by."""
        return len(self.losses) > 1

    @property
    def counted(self) -> int:
        """How many runs the mean is over."""
        return max(1, len(self.losses) - 1)


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
class Comparison:
    """All that the end of a study can say about its finalists. Losses are lower-is-better throughout.

    Attributes:
        objectives: of the study; everything here that is one loss is of the first.
        contenders: best first by mean validation loss. The first is the winner.
        base: the base model on the test set.
        differences: winner minus base, default and every other finalist, as far as they were tested.
        ties: the contenders that validation cannot tell from the winner.
        selection: how much of the winner's lead was luck.
        gaps: a sentence for everything that is missing or rough.
    """

    objectives: tuple[Objective, ...]
    contenders: tuple[Contender, ...]
    base: TestScore | None
    differences: tuple[Difference, ...]
    ties: tuple[int, ...]
    selection: Selection
    gaps: tuple[str, ...]

    @property
    def winner(self) -> Contender | None:
        """The contender with the best mean validation loss; None if no trial reached the full budget."""
        return self.contenders[0] if self.contenders else None

    @property
    def metric(self) -> str:
        """The metric of the first objective."""
        return self.objectives[0].metric

    @property
    def sign(self) -> int:
        """What a loss is multiplied by to give the value of its metric."""
        return 1 if self.objectives[0].direction == "minimize" else -1

    def to_json(self) -> dict[str, Any]:
        """Everything but the generations as plain data, in the direction of the metric; no number becomes None."""
        data = {
            "metric": self.metric,
            "direction": self.objectives[0].direction,
            "test_metric": on_test_set(self.objectives[0]).metric,
            "winner": self.winner.trial_id if self.winner else None,
            "contenders": [self._contender_to_json(contender) for contender in self.contenders],
            "base_model": self._score_to_json(self.base),
            "differences": [
                {
                    "winner_minus": label_of(difference.trial_id),
                    "trial_id": difference.trial_id,
                    "value": self.value(difference.value),
                    "interval": self._interval_to_json(difference.interval),
                    "verdict": difference.verdict,
                }
                for difference in self.differences
            ],
            "ties_on_validation": list(self.ties),
            "selection": self._selection_to_json(),
            "gaps": list(self.gaps),
        }
        plain: dict[str, Any] = plain_data(data)
        return plain

    def value(self, loss: float | None) -> float | None:
        """A loss, or a sum of losses, in the direction of the metric; None stays None."""
        return None if loss is None else self.sign * loss + 0.0  # no -0.0 where nothing was right

    def values(self, interval: Interval | None) -> Interval | None:
        """An interval of losses in the direction of the metric."""
        if interval is None or self.sign == 1:
            return interval
        return Interval(0.0 - interval.high, 0.0 - interval.low)

    def _contender_to_json(self, contender: Contender) -> dict[str, Any]:
        return {
            "trial_id": contender.trial_id,
            "params": contender.params,
            "runs": contender.runs,
            "found": self.value(contender.losses[0]),
            "repeats": [self.value(loss) for loss in contender.losses[1:]],
            "mean": self.value(contender.mean),
            "mean_is_over": "repeats" if contender.repeated else "the run that it was chosen by",
            "standard_error": contender.standard_error,
            "interval": self._interval_to_json(contender.interval),
            "objectives": contender.values,
            "test": self._score_to_json(contender.test),
        }

    def _score_to_json(self, score: TestScore | None) -> dict[str, Any] | None:
        if score is None:
            return None
        return {
            "value": self.value(score.loss),
            "interval": self._interval_to_json(score.interval),
            "runs": score.runs,
            "examples": score.examples,
            "metrics": score.metrics,
        }

    def _selection_to_json(self) -> dict[str, Any]:
        """Leads are positive where the trial is better than the default, whatever the direction of the metric."""
        selection = self.selection
        interval = selection.interval
        return {
            "trial_id": selection.trial_id,
            "found": self.value(selection.found),
            "repeated": self.value(selection.repeated),
            "default_found": self.value(selection.default_found),
            "default_repeated": self.value(selection.default_repeated),
            "lead_found": selection.lead_found,
            "lead_repeated": selection.lead_repeated,
            "vanished": selection.vanished,
            "vanished_interval": None if interval is None else [interval.low, interval.high],
            "vanished_share": selection.share,
            "unknown": selection.unknown,
        }

    def _interval_to_json(self, interval: Interval | None) -> list[float] | None:
        shown = self.values(interval)
        return None if shown is None else [shown.low, shown.high]


def compare(history: History, finalists: Finalists, *, resamples: int = RESAMPLES) -> Comparison:
    """Rank the finalists and judge the winner on the test set.

    The same history gives the same result: the bootstrap is seeded by the study's seed.
    """
    rows = standings(history, finalists)
    gaps = _gaps(history, rows)
    groups = {row.trial.trial_id: _tested_runs(history, row) for row in rows}
    reports: dict[int | None, list[Report]] = {
        trial_id: [run.tests[history.horizon] for run in runs] for trial_id, runs in groups.items()
    }
    reports[None] = [trial.tests[0] for trial in history.trials if 0 in trial.tests][:1]
    objective = on_test_set(history.objectives[0])
    deviation = _test_deviation(history, rows, objective)
    scores, differences = _test_scores(reports, objective, deviation, history.seed, resamples)
    if rows and finalists.test:
        gaps += _test_gaps(history, rows, scores, objective, deviation)
    elif rows:
        gaps.append("There is no test set: nothing here was measured on data that the search did not choose by.")
    return Comparison(
        objectives=history.objectives,
        contenders=tuple(_contender(history, row, score) for row, score in zip(rows, scores[:-1], strict=True)),
        base=scores[-1],
        differences=tuple(sorted(differences, key=lambda difference: (difference.trial_id or 0) > 0)),
        ties=tuple(row.trial.trial_id for row in ties_of(rows)),
        selection=selection_of(rows),
        gaps=tuple(gaps),
    )


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


def _tested_runs(history: History, row: Standing) -> list[Trial]:
    """The tested ones of the runs that the estimate is over; failing these, the run that it was chosen by."""
    tested = [run for run in row.runs if history.horizon in run.tests]
    return [run for run in tested if run in row.counted] or tested


def _test_deviation(history: History, rows: Sequence[Standing], objective: Objective) -> Deviation | None:
    """Between the test results of runs that differ by their seed, pooled over all; None if it is unknown."""

    def loss(run: Trial) -> float | None:
        test = run.tests.get(history.horizon)
        return objective.loss(test.metrics) if test and objective.metric in test.metrics else None

    return deviation_between(rows, [[loss(run) for run in row.runs] for row in rows])


def _test_scores(
    reports: Mapping[int | None, Sequence[Report]],
    objective: Objective,
    deviation: Deviation | None,
    seed: int,
    resamples: int,
) -> tuple[list[TestScore | None], list[Difference]]:
    """Scores of trials (the base model: None) in the order given, and the differences of the first to the others."""
    samples = [
        sample_of(group, objective, trained=trial_id is not None) if group else None
        for trial_id, group in reports.items()
    ]
    means = _resampled_means(samples, deviation, seed, resamples)
    scores: list[TestScore | None] = []
    differences = []
    for place, (trial_id, group) in enumerate(reports.items()):
        if not group:
            scores.append(None)
            continue
        sample, first = samples[place], samples[0]
        interval = percentile_interval(means[place]) if place in means else None
        metrics = _mean_metrics(group)
        loss = objective.loss(metrics) if objective.metric in metrics else math.nan
        examples = 0 if sample is None else len(sample.weights)
        scores.append(TestScore(loss, interval, len(group), examples, metrics, group[0].generations))
        if place and scores[0] is not None:
            paired = first is not None and sample is not None and are_paired(first, sample)
            interval = percentile_interval(means[0] - means[place]) if paired else None
            differences.append(Difference(trial_id, scores[0].loss - loss, interval))
    return scores, differences


def _resampled_means(
    samples: Sequence[TestSample | None], deviation: Deviation | None, seed: int, resamples: int
) -> dict[int, Floats]:
    """Bootstrapped means by position; those measured on the same examples are resampled together."""
    means: dict[int, Floats] = {}
    known = {place: sample for place, sample in enumerate(samples) if sample is not None}
    for place, sample in known.items():
        if place not in means:
            paired = {other: their for other, their in known.items() if are_paired(their, sample)}
            drawn = bootstrap(list(paired.values()), seed=seed, deviation=deviation, resamples=resamples)
            means |= dict(zip(paired, drawn.T, strict=True))
    return means


def _contender(history: History, row: Standing, score: TestScore | None) -> Contender:
    metrics = _mean_metrics([run.reports[history.horizon] for run in row.counted])
    return Contender(
        trial_id=row.trial.trial_id,
        params=row.trial.params,
        runs=tuple(run.trial_id for run in row.runs),
        losses=row.losses,
        mean=row.mean,
        standard_error=row.standard_error,
        interval=row.interval,
        values={objective.metric: metrics[objective.metric] for objective in history.objectives},
        test=score,
    )


def _mean_metrics(reports: Sequence[Report]) -> dict[str, float]:
    """The mean of every metric that all of the reports have."""
    names = [name for name in reports[0].metrics if all(name in report.metrics for report in reports)]
    return {name: math.fsum(report.metrics[name] for report in reports) / len(reports) for name in names}


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
    some_repeated = any(row.repeated for row in rows)
    if not some_repeated:
        gaps.append(
            "No repeats: the estimates are those of the runs that the finalists were chosen by, so they are "
            "optimistic, and how much of the differences on validation is chance is unknown."
        )
    elif seed_deviation(rows) is None:
        gaps.append("The runs do not tell how far seeds differ: no intervals on validation, where all count as tied.")
    for row in rows if some_repeated else ():
        if not row.repeated:
            gaps.append(f"{_label(row)} has no repeat: its estimate is optimistic, so it ranks after the others.")
    return gaps


def _test_gaps(
    history: History,
    rows: Sequence[Standing],
    scores: Sequence[TestScore | None],
    objective: Objective,
    deviation: Deviation | None,
) -> list[str]:
    """What is missing on the test set. The last score is that of the base model."""
    horizon = history.horizon
    untested = [run.trial_id for row in rows for run in row.runs if horizon not in run.tests]
    gaps = [f"Trial {trial_id} has no test result." for trial_id in untested]
    if scores[-1] is None:
        gaps.append("The base model has no test result.")
    for label, score in zip([*map(_label, rows), label_of(None)], scores, strict=True):
        if score is not None and not math.isfinite(score.loss):
            gaps.append(f"{label}: {objective.metric} is no number or was not measured.")
        elif score is not None and score.interval is None:
            gaps.append(
                f"{label}: no interval, since values by example are missing, too few, do not match or are not those "
                f"of {objective.metric}."
            )
    counts = {score.examples for score in scores if score is not None and score.interval is not None}
    if counts and deviation is None:
        gaps.append("Intervals on the test set are over its examples alone: the runs do not tell how far seeds differ.")
    if counts and min(counts) < FEW_EXAMPLES:
        gaps.append(f"Only {min(counts)} test examples: the intervals are rough.")
    if len(counts) > 1:
        gaps.append("Not all were tested on the same examples: where not, differences have no interval.")
    return gaps


def _label(row: Standing) -> str:
    return label_of(row.trial.trial_id)
