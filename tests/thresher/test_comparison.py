from __future__ import annotations

import json
import math

import numpy as np
import pytest

from controller.events import Reported
from controller.finalists import Finalists
from controller.trial import FailureKind, Objective, Report
from tests.thresher.written_study import DIFFICULTY, FULL, LOSS, WEIGHTS, WrittenStudy
from thresher.comparison import Comparison, compare, label_of, plain_data
from thresher.conclusions import estimates_sentences

MATCH = Objective("exact_match", "maximize")


def complete_study() -> WrittenStudy:
    """Default, two finalists, two repeats each, all tested. Trial 2 was found best, and is in its repeats."""
    study = WrittenStudy()
    for value in (2.30, 2.11, 2.05):
        study.found(value)
    for trial_id, values in ((2, (2.09, 2.10)), (1, (2.12, 2.10)), (0, (2.31, 2.29))):
        study.repeat(trial_id, *values)
    noise = np.random.default_rng(1)
    for trial in list(study.history.trials):
        family = trial.trial_id if trial.repeat_of is None else trial.repeat_of
        offset = (0.2 if family == 0 else 0.0) + noise.normal(0, 0.005)
        values = DIFFICULTY + offset + noise.normal(0, 0.05, 60)
        study.test(trial.trial_id, values, answers=(f"answer of {trial.trial_id}",), test_exact_match=0.5 - offset)
    study.test(0, DIFFICULTY + 1.0, budget=0, test_exact_match=0.0)
    return study


def differences(comparison: Comparison) -> dict[int | None, str | None]:
    return {difference.trial_id: difference.verdict for difference in comparison.differences}


def test_contenders_are_ranked_by_the_mean_of_their_repeats() -> None:
    comparison = compare(complete_study().history, Finalists(2, 2))

    assert [contender.trial_id for contender in comparison.contenders] == [2, 1, 0]
    winner = comparison.winner
    assert winner is not None
    assert winner.losses == (2.05, 2.09, 2.10)
    assert winner.mean == pytest.approx(2.095)
    assert winner.values == {"validation_loss": pytest.approx(2.095)}
    assert winner.interval is not None
    assert winner.interval.low < 2.095 < winner.interval.high
    assert winner.runs == (2, 3, 4)
    assert (winner.repeated, winner.counted) == (True, 2)
    assert comparison.ties == (1,)


def test_verdicts_and_test_losses_of_a_complete_study() -> None:
    study = complete_study()

    comparison = compare(study.history, Finalists(2, 2))

    assert differences(comparison) == {0: "better", None: "better", 1: "tie"}
    assert comparison.gaps == ()
    winner = comparison.winner
    assert winner is not None
    assert winner.test is not None
    repeats = winner.runs[1:]
    values = np.array([[v for v, _ in study.history.trials[run].tests[FULL].per_example] for run in repeats])
    assert winner.test.loss == pytest.approx(np.average(values.mean(axis=0), weights=WEIGHTS))
    matches = [study.history.trials[run].tests[FULL].metrics["test_exact_match"] for run in repeats]
    assert winner.test.metrics == {
        "test_loss": pytest.approx(winner.test.loss),
        "test_exact_match": pytest.approx(np.mean(matches)),
    }
    assert (winner.test.runs, winner.test.examples) == (2, 60)
    assert winner.test.generations == ("answer of 3",)
    assert winner.test.interval is not None
    assert winner.test.interval.low < winner.test.loss < winner.test.interval.high
    assert comparison.base is not None
    assert comparison.base.loss == pytest.approx(np.average(DIFFICULTY + 1, weights=WEIGHTS))


def test_the_test_set_does_not_choose_the_winner() -> None:
    study = WrittenStudy()
    study.found(2.3)
    study.found(2.2)
    study.test(0, DIFFICULTY)
    study.test(1, DIFFICULTY + 0.5 + np.linspace(-0.1, 0.1, 60))

    comparison = compare(study.history, Finalists(1, 0))

    assert comparison.winner is not None
    assert comparison.winner.trial_id == 1
    assert differences(comparison) == {0: "worse"}
    assert comparison.differences[0].value > 0.4


def test_seeds_that_differ_widen_the_intervals() -> None:
    def width(spread: float) -> float:
        study = WrittenStudy()
        study.found(2.3)
        study.found(2.2)
        runs = [*study.repeat(1, 2.2, 2.2), *study.repeat(0, 2.3, 2.3)]
        for place, run in enumerate((0, 1, *runs)):
            study.test(run, DIFFICULTY + (0.1 if run in (0, *runs[2:]) else 0.0) + spread * (place % 2))
        interval = compare(study.history, Finalists(1, 2)).differences[0].interval
        assert interval is not None
        return interval.high - interval.low

    assert width(0.0) < 1e-9
    assert width(0.05) > 0.05


def test_a_maximised_metric_is_best_where_it_is_largest() -> None:
    """Also on the test set, where the values by example are those of the metric."""
    study = WrittenStudy(MATCH)
    study.found(0.5)
    study.found(0.7)
    study.repeat(1, 0.64, 0.66)
    study.repeat(0, 0.5, 0.52)
    hits = np.zeros(200)
    rng = np.random.default_rng(0)
    for trial in list(study.history.trials):
        is_winner = 1 in (trial.trial_id, trial.repeat_of)
        answers = (np.arange(200) < (150 if is_winner else 80)).astype(float)
        answers[rng.integers(200, size=4)] = 1.0
        study.test(trial.trial_id, answers, weights=np.ones(200), metric="test_exact_match", test_loss=2.0)
    study.test(0, hits, budget=0, weights=np.ones(200), metric="test_exact_match", test_loss=3.0)

    comparison = compare(study.history, Finalists(1, 2))

    assert comparison.sign == -1
    assert comparison.winner is not None
    assert comparison.winner.trial_id == 1
    assert comparison.value(comparison.winner.mean) == pytest.approx(0.65)
    assert differences(comparison) == {0: "better", None: "better"}
    data = comparison.to_json()
    assert data["contenders"][0]["mean"] == pytest.approx(0.65)
    low, high = data["contenders"][0]["interval"]
    assert low < 0.65 < high
    against_default = next(entry for entry in data["differences"] if entry["trial_id"] == 0)
    assert against_default["value"] > 0.2
    low, high = against_default["interval"]
    assert 0 < low < against_default["value"] < high
    assert data["base_model"]["value"] == 0.0
    assert data["test_metric"] == "test_exact_match"
    assert data["selection"]["lead_found"] == pytest.approx(0.2)
    assert data["selection"]["vanished"] == pytest.approx(0.2 - 0.14)


def test_nothing_right_with_any_seed_is_no_certainty() -> None:
    """The default has no right answer whatever its seed; that does not tell how far the seeds of others differ."""
    study = WrittenStudy(MATCH)
    study.found(0.0)
    study.found(0.36)
    study.repeat(1, 0.39)
    study.repeat(0, 0.0)
    for trial, value in zip(list(study.history.trials), (0, 9, 12, 0), strict=True):
        answers = (np.arange(40) < value).astype(float)
        study.test(trial.trial_id, answers, weights=np.ones(40), metric="test_exact_match", test_loss=2.0)

    comparison = compare(study.history, Finalists(1, 1))

    assert [contender.interval for contender in comparison.contenders] == [None, None]
    assert comparison.ties == (0,)
    assert comparison.selection.interval is None
    assert "The runs do not tell how far seeds differ: no intervals on validation, where all count as tied." in (
        comparison.gaps
    )
    assert "Intervals on the test set are over its examples alone: the runs do not tell how far seeds differ." in (
        comparison.gaps
    )
    assert str(comparison.to_json()["contenders"][1]["mean"]) == "0.0"  # no -0.0
    assert not any("nterval" in sentence for sentence in estimates_sentences(comparison))


def test_every_objective_has_its_mean() -> None:
    study = WrittenStudy(LOSS, MATCH)
    study.found({"validation_loss": 2.3, "exact_match": 0.4})
    study.found({"validation_loss": 2.1, "exact_match": 0.9})
    study.repeat(1, {"validation_loss": 2.2, "exact_match": 0.5}, {"validation_loss": 2.2, "exact_match": 0.6})

    winner = compare(study.history, Finalists(1, 2, test=False)).winner

    assert winner is not None
    assert winner.values == {"validation_loss": pytest.approx(2.2), "exact_match": pytest.approx(0.55)}


def test_the_same_history_gives_the_same_comparison() -> None:
    history = complete_study().history

    assert compare(history, Finalists(2, 2)) == compare(history, Finalists(2, 2))


def test_json_holds_every_number_and_no_nan() -> None:
    study = WrittenStudy()
    study.found(2.3)
    comparison = compare(study.history, Finalists(1, 0))

    data = json.loads(json.dumps(comparison.to_json(), allow_nan=False))

    assert data["winner"] == 0
    assert data["contenders"][0]["standard_error"] is None
    assert data["contenders"][0]["mean_is_over"] == "the run that it was chosen by"
    assert data["selection"]["unknown"].startswith("the default is the only finalist")
    full = json.loads(json.dumps(compare(complete_study().history, Finalists(2, 2)).to_json(), allow_nan=False))
    assert [entry["verdict"] for entry in full["differences"]] == ["better", "better", "tie"]
    first = full["contenders"][0]
    assert (first["found"], first["repeats"], first["mean_is_over"]) == (2.05, [2.09, 2.10], "repeats")
    assert len(first["interval"]) == 2
    assert set(first["test"]) == {"value", "interval", "runs", "examples", "metrics"}
    assert full["selection"]["vanished"] == pytest.approx(0.25 - 0.205)
    assert full["selection"]["vanished_share"] == pytest.approx(0.18)


def test_nothing_reached_the_full_budget() -> None:
    study = WrittenStudy()
    study.found(FailureKind.OOM)

    comparison = compare(study.history, Finalists(2, 2))

    assert comparison.winner is None
    assert comparison.contenders == comparison.differences == ()
    assert comparison.gaps == ("No trial reached the full budget of 900: there is nothing to compare.",)
    assert compare(WrittenStudy().history, Finalists()).winner is None


def test_what_is_missing_is_said() -> None:
    study = WrittenStudy()
    study.found(FailureKind.DIVERGED)
    study.found(2.1)
    study.found(2.2)
    study.repeat(1, FailureKind.OOM, 2.12)
    study.test(1, DIFFICULTY)
    study.test(4, FailureKind.CRASH)

    comparison = compare(study.history, Finalists(2, 2))

    gaps = comparison.gaps
    assert "The default configuration (trial 0) failed (diverged): there is no default to compare with." in gaps
    assert "trial 1: 1 of 3 runs gave no result (oom)." in gaps
    assert "trial 2 has no repeat: its estimate is optimistic, so it ranks after the others." in gaps
    assert "Trial 4 has no test result." in gaps
    assert "Trial 2 has no test result." in gaps
    assert "The base model has no test result." in gaps
    assert "Intervals on the test set are over its examples alone: the runs do not tell how far seeds differ." in gaps
    assert comparison.winner is not None
    assert comparison.winner.test is not None  # by the run that it was chosen by, since the repeat has no result
    assert comparison.winner.test.runs == 1


def test_no_test_set_and_single_runs_are_said() -> None:
    study = WrittenStudy()
    study.found(2.3)
    study.found(2.2)

    comparison = compare(study.history, Finalists(1, 0, test=False))

    assert comparison.differences == ()
    assert comparison.gaps == (
        "No repeats: the estimates are those of the runs that the finalists were chosen by, so they are optimistic, "
        "and how much of the differences on validation is chance is unknown.",
        "There is no test set: nothing here was measured on data that the search did not choose by.",
    )


@pytest.mark.parametrize(
    ("values", "weights", "gap"),
    [
        (DIFFICULTY[:1], WEIGHTS[:1], "no interval"),
        (np.full(60, math.nan), WEIGHTS, "test_loss is no number"),
        (DIFFICULTY[:8], WEIGHTS[:8], "Only 8 test examples"),
        (DIFFICULTY[:50], WEIGHTS[:50], "Not all were tested on the same examples"),
    ],
    ids=["one example", "nan", "few", "others"],
)
def test_losses_by_example_that_cannot_be_compared(values: np.ndarray, weights: np.ndarray, gap: str) -> None:
    study = WrittenStudy()
    study.found(2.3)
    study.found(2.2)
    study.test(0, DIFFICULTY + 0.3)
    study.test(1, values, weights=weights)

    comparison = compare(study.history, Finalists(1, 0))

    assert any(gap in sentence for sentence in comparison.gaps), comparison.gaps
    assert differences(comparison) == {0: None}
    json.dumps(comparison.to_json(), allow_nan=False)


def test_the_metric_stands_in_for_losses_by_example() -> None:
    study = WrittenStudy()
    study.found(2.3)
    study.apply(Reported(Report(study.job(0, FULL, FULL, "test"), FULL, {"test_loss": 2.5}, 1.0)))

    winner = compare(study.history, Finalists(1, 0)).winner

    assert winner is not None
    assert winner.test is not None
    assert (winner.test.loss, winner.test.interval) == (2.5, None)


def test_losses_by_example_do_not_stand_in_for_another_objective() -> None:
    study = WrittenStudy(MATCH)
    study.found(0.5)
    study.test(0, DIFFICULTY)

    comparison = compare(study.history, Finalists(1, 0))

    assert comparison.contenders[0].test is not None
    assert comparison.contenders[0].test.interval is None
    assert "default: test_exact_match is no number or was not measured." in comparison.gaps


def test_words_and_plain_data() -> None:
    assert [label_of(trial_id) for trial_id in (None, 0, 3)] == ["base model", "default", "trial 3"]
    assert plain_data({"a": (1, math.inf), "b": {"c": math.nan}}) == {"a": [1, None], "b": {"c": None}}
