from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from controller.events import AttemptStarted, Event, Failed, JobCreated, Reported, TrialCreated
from controller.finalists import Finalists
from controller.history import History
from controller.trial import Direction, Failure, FailureKind, Objective, Report
from thresher.comparison import (
    Comparison,
    Interval,
    TestSample,
    bootstrap,
    compare,
    percentile_interval,
    sample_of,
)

FULL = 900
RNG = np.random.default_rng(7)
WEIGHTS = RNG.integers(2, 20, 60).astype(float)
DIFFICULTY = RNG.gamma(6, 0.35, 60)


class Study:
    """A history made of the events that a controller would write."""

    def __init__(self, direction: Direction = "minimize", metric: str = "validation_loss") -> None:
        self.metric = metric
        self.history = History(seed=3, objectives=[Objective(metric, direction)], horizon=FULL)

    def apply(self, *events: Event) -> None:
        for event in events:
            self.history.apply(event)

    def run(self, value: float | FailureKind, repeat_of: int | None = None) -> int:
        """A trial that is trained to the full budget, or fails on the way."""
        trial_id = len(self.history.trials)
        labels = {} if repeat_of is None else {"origin": "repeat", "finalist": repeat_of}
        self.apply(TrialCreated(trial_id, {"lora.rank": trial_id}, trial_id, None, labels, repeat_of))
        self._job(trial_id, 0, FULL, "validation", value)
        return trial_id

    def test(
        self, trial_id: int, values: np.ndarray | FailureKind, *, budget: int = FULL, weights: np.ndarray = WEIGHTS
    ) -> None:
        """Measure a trial on the test set: losses by example."""
        self._job(trial_id, budget, budget, "test", values, weights)

    def _job(
        self, trial_id: int, start: int, end: int, split: str, value: object, weights: np.ndarray = WEIGHTS
    ) -> None:
        job_id = len(self.history.jobs)
        self.apply(JobCreated(job_id, trial_id, start, end, split=split), AttemptStarted(job_id, 1))
        if isinstance(value, FailureKind):
            self.apply(Failed(Failure(job_id, value, "no luck")))
        elif isinstance(value, np.ndarray):
            loss = float(value @ weights / weights.sum())
            pairs = tuple(zip(value.tolist(), weights.tolist(), strict=True))
            self.apply(Reported(Report(job_id, end, {"test_loss": loss}, 1.0, pairs, (f"answer of {trial_id}",))))
        else:
            self.apply(Reported(Report(job_id, end, {self.metric: value}, 1.0)))


def complete_study() -> Study:
    """Default, two finalists, two repeats each, all tested. Trial 2 wins on validation by luck of the seeds."""
    study = Study()
    for value in (2.30, 2.11, 2.05):
        study.run(value)
    for trial_id, values in ((2, (2.09, 2.10)), (1, (2.12, 2.10)), (0, (2.31, 2.29))):
        for value in values:
            study.run(value, repeat_of=trial_id)
    noise = np.random.default_rng(1)
    for trial in list(study.history.trials):
        offset = {0: 0.2}.get(trial.trial_id if trial.repeat_of is None else trial.repeat_of, 0.0)
        study.test(trial.trial_id, DIFFICULTY + offset + noise.normal(0, 0.05, 60))
    study.test(0, DIFFICULTY + 1.0, budget=0)
    return study


def differences(comparison: Comparison) -> dict[int | None, str | None]:
    return {difference.trial_id: difference.verdict for difference in comparison.differences}


def test_validation_means_and_standard_errors_are_those_of_the_seeds() -> None:
    comparison = compare(complete_study().history, Finalists(2, 2))

    assert [contender.trial_id for contender in comparison.contenders] == [2, 1, 0]
    winner = comparison.winner
    assert winner is not None
    assert winner.losses == (2.05, 2.09, 2.10)
    assert winner.mean == pytest.approx(2.08)
    assert winner.standard_error == pytest.approx(np.std([2.05, 2.09, 2.10], ddof=1) / math.sqrt(3))
    assert winner.runs == (2, 3, 4)


def test_verdicts_and_test_losses_of_a_complete_study() -> None:
    study = complete_study()

    comparison = compare(study.history, Finalists(2, 2))

    assert differences(comparison) == {0: "better", None: "better", 1: "tie"}
    assert comparison.gaps == ()
    winner = comparison.winner
    assert winner is not None
    assert winner.test is not None
    values = np.array([[v for v, _ in study.history.trials[run].tests[FULL].per_example] for run in winner.runs])
    assert winner.test.loss == pytest.approx(np.average(values.mean(axis=0), weights=WEIGHTS))
    assert (winner.test.runs, winner.test.examples) == (3, 60)
    assert winner.test.generations == ("answer of 2",)
    assert winner.test.interval is not None
    assert winner.test.interval.low < winner.test.loss < winner.test.interval.high
    assert comparison.base is not None
    assert comparison.base.loss == pytest.approx(np.average(DIFFICULTY + 1, weights=WEIGHTS))


def test_the_test_set_does_not_choose_the_winner() -> None:
    study = Study()
    study.run(2.3)
    study.run(2.2)
    study.test(0, DIFFICULTY)
    study.test(1, DIFFICULTY + 0.5 + np.linspace(-0.1, 0.1, 60))

    comparison = compare(study.history, Finalists(1, 0))

    assert comparison.winner is not None
    assert comparison.winner.trial_id == 1
    assert differences(comparison) == {0: "worse"}
    assert comparison.differences[0].value > 0.4


def test_selection_is_the_run_it_was_chosen_by_minus_its_repeats() -> None:
    selection = compare(complete_study().history, Finalists(2, 2)).selection

    assert selection is not None
    assert selection.value == pytest.approx(2.05 - 2.095)
    assert selection.default_found == 2.30
    assert selection.default_repeated == pytest.approx(2.30)


def test_a_default_that_wins_was_not_selected() -> None:
    study = Study()
    for value, repeat_of in ((2.0, None), (2.2, None), (2.01, 0), (2.21, 1)):
        study.run(value, repeat_of)

    comparison = compare(study.history, Finalists(1, 1, test=False))

    assert comparison.winner is not None
    assert comparison.winner.trial_id == 0
    assert comparison.selection is None


@pytest.mark.parametrize(
    ("other", "ties"),
    [((2.05, 2.06, 2.10), (0,)), ((2.35, 2.36, 2.40), ()), ((2.11,), (0,))],
    ids=["within", "beyond", "unknown"],
)
def test_ties_on_validation_are_within_two_standard_errors(other: tuple[float, ...], ties: tuple[int, ...]) -> None:
    study = Study()
    study.run(other[0])
    study.run(2.04)
    for value in other[1:]:
        study.run(value, repeat_of=0)
    for value in (2.05, 2.09):
        study.run(value, repeat_of=1)

    assert compare(study.history, Finalists(1, 2, test=False)).ties == ties


def test_a_maximised_metric_is_best_where_it_is_largest() -> None:
    study = Study("maximize", "accuracy")
    study.run(0.71)
    study.run(0.83)

    comparison = compare(study.history, Finalists(1, 0, test=False))

    assert comparison.sign == -1
    assert comparison.winner is not None
    assert comparison.winner.trial_id == 1
    assert comparison.sign * comparison.winner.mean == pytest.approx(0.83)


def test_bootstrap_agrees_with_all_resamples_enumerated() -> None:
    values = np.array([[1.0, 2.0, 4.0], [1.5, 2.5, 3.0], [0.5, 2.0, 6.0]])
    weights = np.array([1.0, 5.0, 2.0])
    exact = [
        values[list(runs)][:, list(examples)].mean(axis=0) @ weights[list(examples)] / weights[list(examples)].sum()
        for examples in itertools.product(range(3), repeat=3)
        for runs in itertools.product(range(3), repeat=2)
    ]

    means = bootstrap([TestSample(values, weights)], seed=0, resamples=100_000)[:, 0]

    assert means.mean() == pytest.approx(np.mean(exact), abs=0.02)
    assert means.std() == pytest.approx(np.std(exact), rel=0.02)
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(exact, [0.1, 0.5, 0.9]), abs=0.05)


def test_the_variance_over_examples_and_over_runs_has_its_closed_form() -> None:
    examples = TestSample(DIFFICULTY[None, :], np.ones(60))
    effects = np.array([0.1, -0.2, 0.4])
    runs = TestSample(np.broadcast_to(effects[:, None], (3, 60)).copy(), np.ones(60))

    means = bootstrap([examples, runs], seed=0, resamples=20_000)

    assert means[:, 0].std() == pytest.approx(DIFFICULTY.std() / math.sqrt(60), rel=0.03)
    assert means[:, 1].std() == pytest.approx(effects.std(ddof=1) / math.sqrt(3), rel=0.03)


def test_resamples_are_split_into_chunks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = TestSample(DIFFICULTY[None, :], WEIGHTS)
    whole = bootstrap([sample], seed=5, resamples=1000)
    monkeypatch.setattr("thresher.comparison._CHUNK", 60 * 7)

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


def test_intervals_of_differences_cover_the_truth() -> None:
    """Three runs a side, an effect of 0.05, noise by example and by run. Nominal: 95 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for study in range(600):
        weights = rng.integers(3, 30, 80).astype(float)
        difficulty = rng.gamma(2, 1, 80)
        ours = difficulty + rng.normal(0, 0.3, (3, 80)) + rng.normal(0, 0.02, (3, 1))
        theirs = difficulty + 0.05 + rng.normal(0, 0.3, (3, 80)) + rng.normal(0, 0.02, (3, 1))
        means = bootstrap([TestSample(ours, weights), TestSample(theirs, weights)], seed=study, resamples=400)
        interval = percentile_interval(means[:, 0] - means[:, 1])
        covered += interval.low <= -0.05 <= interval.high
    assert 0.94 <= covered / 600 <= 1.0


def test_intervals_of_one_run_cover_the_truth() -> None:
    """The mean of a gamma distribution by examples alone. Nominal: 95 %."""
    rng = np.random.default_rng(1)
    covered = 0
    for study in range(1000):
        sample = TestSample(rng.gamma(2, 1, (1, 80)), rng.integers(3, 30, 80).astype(float))
        interval = percentile_interval(bootstrap([sample], seed=study, resamples=400)[:, 0])
        covered += interval.low <= 2 <= interval.high
    assert 0.92 <= covered / 1000 <= 0.97


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(-0.2, -0.1), "better"),
        (Interval(0.1, 0.2), "worse"),
        (Interval(-0.1, 0.2), "tie"),
        (Interval(0.0, 0.2), "tie"),
        (Interval(0.0, 0.0), "tie"),
    ],
)
def test_verdict(interval: Interval, verdict: str) -> None:
    assert interval.verdict == verdict


def test_the_same_history_gives_the_same_comparison() -> None:
    history = complete_study().history

    assert compare(history, Finalists(2, 2)) == compare(history, Finalists(2, 2))


def test_json_holds_every_number_and_no_nan() -> None:
    study = Study()
    study.run(2.3)
    comparison = compare(study.history, Finalists(1, 0))

    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))

    assert data["winner"] == 0
    assert data["contenders"][0]["standard_error"] is None
    full = json.loads(json.dumps(compare(complete_study().history, Finalists(2, 2)).to_json(), allow_nan=False))
    assert [entry["verdict"] for entry in full["differences"]] == ["better", "better", "tie"]
    assert full["contenders"][0]["losses"] == [2.05, 2.09, 2.10]
    assert set(full["contenders"][0]["test"]) == {"loss", "interval", "runs", "examples"}


def test_nothing_reached_the_full_budget() -> None:
    study = Study()
    study.run(FailureKind.OOM)

    comparison = compare(study.history, Finalists(2, 2))

    assert comparison.winner is None
    assert comparison.contenders == comparison.differences == ()
    assert comparison.gaps == ("No trial reached the full budget of 900: there is nothing to compare.",)
    assert compare(Study().history, Finalists()).winner is None


def test_what_is_missing_is_said() -> None:
    study = Study()
    study.run(FailureKind.DIVERGED)
    study.run(2.1)
    study.run(2.2)
    study.run(FailureKind.OOM, repeat_of=1)
    study.run(2.12, repeat_of=1)
    study.test(1, DIFFICULTY)
    study.test(4, FailureKind.CRASH)

    gaps = compare(study.history, Finalists(2, 2)).gaps

    assert "The default configuration (trial 0) failed (diverged): there is no default to compare with." in gaps
    assert "trial 1: 1 of 3 runs gave no result (oom)." in gaps
    assert "Trial 4 has no test result." in gaps
    assert "Trial 2 has no test result." in gaps
    assert "The base model has no test result." in gaps


def test_no_test_set_and_single_runs_are_said() -> None:
    study = Study()
    study.run(2.3)
    study.run(2.2)

    comparison = compare(study.history, Finalists(1, 0, test=False))

    assert comparison.differences == ()
    assert comparison.gaps == (
        "One run each: how much of the differences on validation is chance is unknown.",
        "There is no test set: nothing here was measured on data that the search did not choose by.",
    )


@pytest.mark.parametrize(
    ("values", "weights", "gap"),
    [
        (DIFFICULTY[:1], WEIGHTS[:1], "no interval"),
        (np.full(60, math.nan), WEIGHTS, "the test loss is no number"),
        (DIFFICULTY[:8], WEIGHTS[:8], "Only 8 test examples"),
        (DIFFICULTY[:50], WEIGHTS[:50], "Not all were tested on the same examples"),
    ],
    ids=["one example", "nan", "few", "others"],
)
def test_losses_by_example_that_cannot_be_compared(values: np.ndarray, weights: np.ndarray, gap: str) -> None:
    study = Study()
    study.run(2.3)
    study.run(2.2)
    study.test(0, DIFFICULTY + 0.3)
    study.test(1, values, weights=weights)

    comparison = compare(study.history, Finalists(1, 0))

    assert any(gap in sentence for sentence in comparison.gaps), comparison.gaps
    assert differences(comparison) == {0: None}
    json.dumps(comparison.to_json(), allow_nan=False)


def test_the_metric_stands_in_for_losses_by_example() -> None:
    study = Study()
    study.run(2.3)
    job_id = len(study.history.jobs)
    study.apply(
        JobCreated(job_id, 0, FULL, FULL, split="test"),
        AttemptStarted(job_id, 1),
        Reported(Report(job_id, FULL, {"test_loss": 2.5}, 1.0)),
    )

    winner = compare(study.history, Finalists(1, 0)).winner

    assert winner is not None
    assert winner.test is not None
    assert (winner.test.loss, winner.test.interval) == (2.5, None)


def test_examples_without_weight_say_nothing() -> None:
    report = Report(0, FULL, {}, 1.0, ((1.0, 2.0), (math.nan, 0.0), (3.0, 2.0)))

    sample = sample_of([report])

    assert sample is not None
    assert sample.mean == 2.0
    assert len(sample.weights) == 2


def test_runs_on_other_examples_do_not_match() -> None:
    one = Report(0, FULL, {}, 1.0, ((1.0, 2.0), (2.0, 1.0)))
    other = Report(1, FULL, {}, 1.0, ((1.0, 2.0), (2.0, 3.0)))

    assert sample_of([one, one]) is not None
    assert sample_of([one, other]) is None
    assert sample_of([]) is None
