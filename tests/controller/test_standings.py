from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.finalists import Finalists
from controller.history import History
from controller.intervals import student_quantile
from controller.standings import Standing, seed_deviation, selection_of, standings, ties_of
from controller.trial import Direction, Failure, FailureKind, Objective, Report


def study(
    *runs: tuple[float, Sequence[float | None]], direction: Direction = "minimize", count: int = 2
) -> list[Standing]:
    """The standings of a study with trials 0, 1, ...: each with its first value and those of its repeats."""
    history = History(seed=0, objectives=[Objective("loss", direction)], horizon=9)

    def run(value: float | None, repeat_of: int | None = None) -> None:
        trial_id, job_id = len(history.trials), len(history.jobs)
        labels = {} if repeat_of is None else {"finalist": repeat_of}
        history.apply(TrialCreated(trial_id, {}, 0, labels=labels, repeat_of=repeat_of))
        history.apply(JobCreated(job_id, trial_id, 0, 9))
        if value is None:
            history.apply(Failed(Failure(job_id, FailureKind.OOM, "too large")))
        else:
            history.apply(Reported(Report(job_id, 9, {"loss": value}, 1.0)))

    for found, _ in runs:
        run(found)
    for trial_id, (_, repeats) in enumerate(runs):
        for value in repeats:
            run(value, trial_id)
    return standings(history, Finalists(count, 2))


LUCKY = ((2.30, (2.31, 2.29)), (2.11, (2.12, 2.10)), (2.05, (2.15, 2.13)))
"""Trial 2 was found best; in the repeats trial 1 is."""


def test_the_mean_is_over_the_repeats_alone() -> None:
    rows = study(*LUCKY)

    assert [row.trial.trial_id for row in rows] == [1, 2, 0]
    assert [row.mean for row in rows] == pytest.approx([2.11, 2.14, 2.30])
    assert rows[1].losses == (2.05, 2.15, 2.13)
    assert all(row.repeated for row in rows)
    assert [[run.repeat_of for run in row.counted] for row in rows] == [[1, 1], [2, 2], [0, 0]]


def test_intervals_use_the_deviation_of_all_unselected_runs() -> None:
    """The default's own run was chosen by nobody, so it tells of the deviation; those of the finalists do not."""
    rows = study(*LUCKY)

    squares = 2 * (2 * 0.01**2) + np.var([2.30, 2.31, 2.29]) * 3
    deviation = seed_deviation(rows)
    assert deviation is not None
    assert deviation.freedom == 4
    assert deviation.value == pytest.approx(math.sqrt(squares / 4))
    assert rows[0].standard_error == pytest.approx(deviation.value / math.sqrt(2))
    assert rows[0].interval is not None
    margin = student_quantile(4) * rows[0].standard_error
    assert (rows[0].interval.low, rows[0].interval.high) == pytest.approx((2.11 - margin, 2.11 + margin))


def test_one_repeat_each_leaves_the_deviation_to_the_default() -> None:
    rows = study((2.3, (2.32,)), (2.1, (2.2,)))
    deviation = seed_deviation(rows)
    assert deviation is not None
    assert deviation.freedom == 1
    assert deviation.value == pytest.approx(0.02 / math.sqrt(2))


def test_without_repeats_the_estimate_is_the_run_it_was_chosen_by() -> None:
    rows = study((2.3, ()), (2.1, ()))
    assert [row.mean for row in rows] == [2.1, 2.3]
    assert not any(row.repeated for row in rows)
    assert all(math.isnan(row.standard_error) and row.interval is None for row in rows)
    assert ties_of(rows) == rows[1:]  # nothing is known, so nothing can be told apart


def test_one_whose_repeats_all_failed_ranks_last() -> None:
    rows = study((2.3, (2.3, 2.31)), (2.1, (2.2, 2.21)), (1.0, (None, None)))
    assert [row.trial.trial_id for row in rows] == [1, 0, 2]
    assert rows[2].mean == 1.0
    assert not rows[2].repeated
    assert rows[2].interval is None


def test_a_failed_repeat_leaves_the_mean_to_the_others() -> None:
    rows = study((2.3, (2.3, 2.31)), (2.1, (None, 2.2)))
    assert rows[0].mean == 2.2
    assert len(rows[0].runs) == 2


def test_a_maximised_metric_is_best_where_it_is_largest() -> None:
    rows = study((0.71, (0.70,)), (0.83, (0.80,)), direction="maximize")
    assert [row.trial.trial_id for row in rows] == [1, 0]
    assert rows[0].mean == -0.80
    assert selection_of(rows).vanished == pytest.approx(0.12 - 0.10)


@pytest.mark.parametrize(("other", "ties"), [((2.09, 2.10), [0]), ((2.35, 2.36), [])], ids=["within", "beyond"])
def test_ties_are_within_the_interval_of_the_difference(other: tuple[float, float], ties: list[int]) -> None:
    rows = study((other[0], other), (2.04, (2.05, 2.09)))
    assert [row.trial.trial_id for row in ties_of(rows)] == ties


def test_selection_is_the_lead_that_vanished() -> None:
    rows = study((2.30, (2.31, 2.29)), (2.05, (2.10, 2.12)))
    selection = selection_of(rows)

    assert selection.trial_id == 1
    assert selection.lead_found == pytest.approx(0.25)
    assert selection.lead_repeated == pytest.approx(0.19)
    assert selection.vanished == pytest.approx(0.06)
    assert selection.share == pytest.approx(0.24)
    deviation = seed_deviation(rows)
    assert deviation is not None
    assert selection.interval is not None
    assert selection.interval.low == pytest.approx(0.06 - student_quantile(3) * deviation.value)
    assert selection.unknown is None


def test_when_the_default_wins_it_is_about_the_trial_that_was_found_best() -> None:
    rows = study((2.2, (2.2, 2.2)), (2.1, (2.3, 2.3)), (2.15, (2.25, 2.25)))
    assert rows[0].trial.trial_id == 0
    selection = selection_of(rows)
    assert selection.trial_id == 1
    assert selection.lead_repeated == pytest.approx(-0.1)
    assert selection.share == pytest.approx(2.0)


def test_there_is_no_share_of_a_lead_that_was_none() -> None:
    rows = study((2.0, (2.3, 2.3)), (2.1, (2.1, 2.1)))
    selection = selection_of(rows)
    assert selection.trial_id == 1
    assert selection.lead_found == pytest.approx(-0.1)
    assert selection.share is None


@pytest.mark.parametrize(
    ("runs", "unknown"),
    [
        ([(2.3, (2.3,))], "so nothing was selected"),
        ([(2.3, ()), (2.1, ())], "it has no repeats"),
        ([(2.3, (None,)), (2.1, (2.2,))], "the default has no repeats"),
    ],
)
def test_what_is_unknown_of_selection_is_said(runs: list[tuple[float, tuple[float | None, ...]]], unknown: str) -> None:
    selection = selection_of(study(*runs))
    assert selection.unknown is not None
    assert unknown in selection.unknown
    assert selection.share is None


def test_without_a_default_the_result_itself_is_compared() -> None:
    selection = selection_of(study((2.3, (None,)), (2.1, (2.2,))))
    assert selection.vanished == pytest.approx(0.1)
    assert selection.interval is None


def test_selection_is_found_where_there_is_some() -> None:
    """Twenty trials that are all alike, the best of which leads by luck alone; the repeats are honest."""
    rng = np.random.default_rng(3)
    vanished, leads, covered = [], [], 0
    for _ in range(300):
        found = rng.normal(2.0, 0.05, 20)
        best = [0, *np.argsort(found[1:])[:3] + 1]
        rows = study(*((found[place], rng.normal(2.0, 0.05, 2)) for place in best), count=3)
        selection = selection_of(rows)
        assert selection.vanished is not None
        assert selection.lead_found is not None
        assert selection.interval is not None
        vanished.append(selection.vanished)
        leads.append(selection.lead_found)
        covered += selection.interval.low <= selection.lead_found <= selection.interval.high
    assert np.mean(leads) > 0.05
    # The winner is the best of three repeated means, which flatters it a little once more.
    assert 0.5 * np.mean(leads) < np.mean(vanished) <= np.mean(leads)
    assert covered / 300 >= 0.88


def test_runs_that_cannot_differ_do_not_tell_that_seeds_make_no_difference() -> None:
    """The default is at 0 whatever its seed, while the runs of the finalist differ."""
    rows = study((0.0, (0.0,)), (0.36, (0.39,)), direction="maximize")
    assert seed_deviation(rows) is None
    assert [row.interval for row in rows] == [None, None]
    assert len(ties_of(rows)) == 1
    certain = study((0.2, (0.2,)), (0.1, (0.1,)))
    deviation = seed_deviation(certain)
    assert deviation is not None
    assert deviation.value == 0.0
