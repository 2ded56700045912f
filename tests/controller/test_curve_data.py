"""What a surrogate of curves gets to see of a study."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.events import AttemptStarted, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.surrogates import curve_data
from controller.surrogates.curve_data import CurveData, CurvePoints, curve_targets, place_of
from controller.surrogates.curves import CurveHyperparameters
from controller.trial import Continue, Objective, Report
from search_spaces.domains import Float
from search_spaces.space import Space

SPACE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
LOSSES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30).map(np.array)


def recorded(results: Sequence[tuple[int, int, float]], history: History | None = None, wide: int = 0) -> History:
    """A history of (trial, rung, loss) in the order of their reports; the first `wide` trials lie outside the space."""
    history = History(seed=0, objectives=[Objective("loss")], horizon=27) if history is None else history
    for trial_id, rung, loss in results:
        if trial_id == len(history.trials):
            place = trial_id * 0.618 % 1.0
            params = {"x": place + 2.0 * (trial_id < wide), "y": 1.0 - place}
            history.apply(TrialCreated(trial_id, params, seed=trial_id))
        start = history.trials[trial_id].budget
        job_id = len(history.jobs)
        history.apply(JobCreated(job_id, trial_id, start, rung, Continue(trial_id, start) if start else None))
        history.apply(AttemptStarted(job_id, 1))
        history.apply(Reported(Report(job_id, rung, {"loss": loss}, 1.0)))
    return history


def test_measurements_come_in_the_order_of_their_reports() -> None:
    results = [(0, 1, 0.5), (1, 1, 0.4), (1, 3, 0.3), (2, 1, 0.6), (0, 3, 0.45), (1, 27, 0.1)]
    points = CurveData(SPACE).points(recorded(results))
    assert points.trial_ids.tolist() == [0, 1, 1, 2, 0, 1]
    assert points.losses.tolist() == [0.5, 0.4, 0.3, 0.6, 0.45, 0.1]
    assert points.last.tolist() == [False, False, False, True, True, True]
    assert points.places == pytest.approx(place_of([1, 1, 3, 1, 3, 27], 27))
    first = CurveData(SPACE).points(recorded(results), 4)
    assert first.losses.tolist() == [0.5, 0.4, 0.3, 0.6]
    assert first.last.tolist() == [True, False, True, True]  # as it was then


def test_trials_outside_the_space_are_left_out() -> None:
    history = recorded([(0, 1, 0.5), (1, 1, 0.4), (2, 1, 0.3), (2, 3, 0.2)], wide=2)
    data = CurveData(SPACE)
    assert data.points(history).trial_ids.tolist() == [2, 2]
    assert np.isnan(data.units(history)[:2]).all()
    assert np.isfinite(data.hyperparameters(history).logs).all()


def test_many_trials_outside_the_space_do_not_delay_a_fit() -> None:
    """Twenty results outside, then two inside: the fit is one to these two."""
    results = [(trial, 1, 0.1 * trial) for trial in range(22)]
    found = CurveData(SPACE).hyperparameters(recorded(results, wide=20))
    data = CurveData(SPACE)
    points = data.points(recorded(results, wide=20))
    assert len(points.losses) == 2
    assert np.isfinite(found.logs).all()


def test_places_are_logarithmic_and_end_at_the_full_budget() -> None:
    places = place_of([1, 3, 9, 27], 27)
    assert places[-1] == 1.0
    assert np.diff(places) == pytest.approx(np.full(3, np.log(3.0) / 4.0))
    assert place_of(27 * np.exp(-4.0), 27) == pytest.approx(0.0)


@given(LOSSES)
def test_targets_have_mean_0_and_variance_1_and_keep_the_order(losses: np.ndarray) -> None:
    targets = curve_targets(losses)
    assert targets.shape == losses.shape
    assert np.isfinite(targets).all()
    assert np.mean(targets) == pytest.approx(0.0, abs=1e-6)
    assert np.std(targets) == pytest.approx(1.0, abs=1e-6) or np.std(targets) < 1e-6
    order = np.argsort(losses, kind="stable")
    assert (np.diff(targets[order]) >= -1e-9).all()


@given(LOSSES, st.floats(1e-2, 1e2), st.integers(-100, 100))
@settings(max_examples=50)
def test_targets_do_not_depend_on_the_unit(losses: np.ndarray, scale: float, shift: int) -> None:
    rounded = np.round(losses)  # so that what is told apart stays apart
    assert curve_targets(scale * rounded + shift) == pytest.approx(curve_targets(rounded), abs=1e-5)


def test_what_is_far_above_the_median_counts_less() -> None:
    losses = np.array([1.0, 1.1, 1.2, 1.3, 1.4])
    even = np.diff(curve_targets(losses))
    assert even[0] == pytest.approx(even[1])  # below the median as they are
    assert even[2] < even[1]
    huge = curve_targets(np.array([1.0, 1.1, 1.2, 1.3, 1e6]))
    assert huge[3] - huge[0] > 0.1  # one that diverges does not hide the others


def points_of(draw: Sequence[tuple[int, float]]) -> CurvePoints:
    trial_ids = np.array([trial_id for trial_id, _ in draw], np.int64)
    latest = {trial_id: row for row, (trial_id, _) in enumerate(draw)}
    last = np.array([latest[trial_id] == row for row, (trial_id, _) in enumerate(draw)], np.bool_)
    return CurvePoints(trial_ids, np.ones(len(draw)), np.array([loss for _, loss in draw]), last)


@given(st.lists(st.tuples(st.integers(0, 15), st.floats(0.0, 1.0)), min_size=1, max_size=60), st.integers(4, 40))
def test_what_is_selected(draw: list[tuple[int, float]], count: int) -> None:
    points = points_of(draw)
    rows = points.selected(count)
    assert len(rows) == min(count, len(draw))
    assert (np.diff(rows) > 0).all()  # in their order, none twice
    chosen, latest = set(rows.tolist()), np.flatnonzero(points.last)
    assert int(latest[np.argmin(points.losses[latest])]) in chosen
    if len(latest) <= count:
        assert set(latest.tolist()) <= chosen
        rest = np.flatnonzero(~points.last).tolist()
        taken = [points.losses[row] for row in rest if row in chosen]
        left = [points.losses[row] for row in rest if row not in chosen]
        assert not taken or not left or max(taken) <= min(left)
    else:
        assert chosen <= set(latest.tolist())
        assert set(latest[-(count // 4) :].tolist()) <= chosen  # the newest
        others = [row for row in latest.tolist() if row not in chosen]
        best = sorted(points.losses[list(chosen)].tolist())[: count - count // 4]
        assert max(best) <= min(points.losses[others])


def test_hyperparameters_are_those_of_a_schedule_warm_or_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def fit(points: np.ndarray, places: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> CurveHyperparameters:
        fitted.append(len(targets))
        return CurveHyperparameters(np.array([float(len(targets)), *places, *targets]))

    monkeypatch.setattr(curve_data, "fit_curves", fit)
    rng = np.random.default_rng(0)
    warm = CurveData(SPACE)
    history = recorded([])
    for trial_id in range(60):
        recorded([(trial_id, 1, float(rng.random()))], history)
        cold = CurveData(SPACE).hyperparameters(history)
        assert warm.hyperparameters(history).logs.tolist() == cold.logs.tolist()
        assert warm.hyperparameters(history) is warm.hyperparameters(history)
    sizes = sorted(set(fitted))
    assert sizes[:12] == list(range(1, 13))
    assert sizes[12:] == [15, 18, 23, 29, 36, 45, 57]
    assert len(fitted) == 60 + len(sizes)  # every cold one, and a warm one where the schedule asks


def test_another_history_is_read_anew() -> None:
    data = CurveData(SPACE)
    one, other = recorded([(0, 1, 0.1), (1, 1, 0.9)]), recorded([(0, 1, 0.9), (1, 1, 0.3), (0, 3, 0.2)])
    for history in (one, other, one):
        assert data.points(history).losses.tolist() == CurveData(SPACE).points(history).losses.tolist()
        assert data.hyperparameters(history).logs.tolist() == CurveData(SPACE).hyperparameters(history).logs.tolist()
