from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from controller.events import Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.pareto import (
    crowded_order,
    crowding_distances,
    front_of,
    hypervolume,
    non_dominated_ranks,
    pareto_front,
)
from controller.trial import Failure, FailureKind, Objective, Report

NUMBERS = st.integers(0, 5).map(float)
TABLES = st.integers(1, 5).flatmap(lambda k: st.lists(st.lists(NUMBERS, min_size=k, max_size=k), max_size=30))


def some(rows: int, objectives: int, seed: int, levels: int | None = None) -> Any:
    """Losses: uniform, or on a few levels so that many tie."""
    rng = np.random.default_rng(seed)
    shape = rows, objectives
    return rng.random(shape) if levels is None else rng.integers(0, levels, shape) / levels


@pytest.mark.parametrize(
    ("losses", "front"),
    [
        ([], []),
        ([(1.0,), (0.5,), (2.0,)], [1]),
        ([(1, 4), (2, 2), (4, 1), (3, 3), (2, 5)], [0, 1, 2]),
        ([(1, 1), (1, 1), (1, 2)], [0, 1]),
        ([(1, math.nan), (math.inf, 0), (3, 3)], [2]),
    ],
    ids=["nothing", "one objective", "a curve", "equals", "no numbers"],
)
def test_the_front(losses: Sequence[Sequence[float]], front: list[int]) -> None:
    assert pareto_front(losses) == front


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=12))
def test_everything_is_on_the_front_or_beaten_by_it(losses: list[tuple[float, float, float]]) -> None:
    front = pareto_front(losses)
    for place, row in enumerate(losses):
        beaten = any(
            losses[other] != row and all(a <= b for a, b in zip(losses[other], row, strict=True)) for other in front
        )
        assert beaten != (place in front)


def test_the_front_of_a_study_is_that_of_the_full_budget() -> None:
    history = History(seed=0, objectives=[Objective("loss"), Objective("accuracy", "maximize")], horizon=9)

    def trial(budget: int, loss: float, accuracy: float, repeat_of: int | None = None) -> None:
        trial_id, job_id = len(history.trials), len(history.jobs)
        history.apply(TrialCreated(trial_id, {}, 0, repeat_of=repeat_of))
        history.apply(JobCreated(job_id, trial_id, 0, budget))
        history.apply(Reported(Report(job_id, budget, {"loss": loss, "accuracy": accuracy}, 1.0)))

    trial(9, 2.0, 0.9)
    trial(9, 1.5, 0.7)
    trial(9, 2.5, 0.8)  # dominated by the first
    trial(3, 0.1, 1.0)  # at a lower budget
    trial(9, 1.0, 1.0, repeat_of=0)
    history.apply(TrialCreated(5, {}, 0))
    history.apply(JobCreated(5, 5, 0, 9))
    history.apply(Failed(Failure(5, FailureKind.OOM, "too large")))

    assert [trial.trial_id for trial in front_of(history)] == [1, 0]


@given(TABLES)
def test_a_rank_is_one_more_than_the_highest_of_what_dominates(losses: list[list[float]]) -> None:
    ranks = non_dominated_ranks(losses)
    for row, rank in zip(losses, ranks, strict=True):
        above = [
            int(ranks[place])
            for place, other in enumerate(losses)
            if other != row and all(a <= b for a, b in zip(other, row, strict=True))
        ]
        assert rank == 1 + max(above, default=-1)


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("levels", [None, 4])
def test_the_fronts_are_those_of_pymoo(objectives: int, levels: int | None) -> None:
    losses = some(400, objectives, objectives, levels)  # more than a block of rows
    fronts = NonDominatedSorting().do(losses)
    ranks = non_dominated_ranks(losses)
    assert len(fronts) == ranks.max() + 1
    for rank, front in enumerate(fronts):
        assert np.flatnonzero(ranks == rank).tolist() == sorted(front)


def test_what_is_not_finite_comes_behind_the_last_front() -> None:
    losses = [(3.0, 3.0), (math.nan, 0.0), (1.0, 1.0), (0.0, math.inf), (-math.inf, 0.0)]
    assert non_dominated_ranks(losses).tolist() == [1, 2, 0, 2, 2]
    assert crowded_order(losses).tolist() == [2, 0, 1, 3, 4]
    assert non_dominated_ranks([(math.nan,)] * 2).tolist() == [0, 0]
    assert non_dominated_ranks([]).tolist() == crowded_order([]).tolist() == []


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("levels", [None, 5])
def test_crowding_is_that_of_pymoo(objectives: int, levels: int | None) -> None:
    losses = some(50, objectives, 7, levels)
    theirs = calc_crowding_distance(losses) * objectives  # pymoo takes the mean over the objectives
    assert crowding_distances(losses) == pytest.approx(theirs)


def test_crowding_by_hand() -> None:
    assert crowding_distances([(0, 10), (1, 4), (5, 0)]).tolist() == [math.inf, 2.0, math.inf]
    assert crowding_distances([(0, 10), (1, 4), (2, 3), (5, 0)])[1:3] == pytest.approx([2 / 5 + 7 / 10, 4 / 5 + 4 / 10])
    assert crowding_distances([(1, 2), (2, 1)]).tolist() == [math.inf] * 2
    assert crowding_distances([(1, 2)] * 3).tolist() == [0.0] * 3  # nobody has room
    assert crowding_distances([]).tolist() == []


def test_the_crowded_order_is_by_front_and_then_by_room() -> None:
    losses = [(9, 9), (0, 10), (1, 4), (2, 3), (5, 0), (6, 6)]
    assert crowded_order(losses).tolist() == [1, 4, 3, 2, 5, 0]
    assert crowded_order([(3.0,), (1.0,), (2.0,), (1.0,)]).tolist() == [1, 3, 2, 0]  # one objective: by loss and age


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("levels", [None, 6])
def test_the_hypervolume_is_that_of_pymoo(objectives: int, levels: int | None) -> None:
    for rows in (1, 2, 9, 25):
        losses = some(rows, objectives, rows, levels)
        for corner in (1.1, 0.7):
            reference = np.full(objectives, corner)
            assert hypervolume(losses, reference) == pytest.approx(HV(ref_point=reference)(losses), abs=1e-12)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_the_hypervolume_is_the_share_of_random_points_that_are_dominated(objectives: int) -> None:
    losses = some(12, objectives, 3)
    points = np.random.default_rng(0).random((20_000, objectives))
    dominated = (losses[:, None] <= points).all(axis=2).any(axis=0).mean()
    assert hypervolume(losses, [1.0] * objectives) == pytest.approx(dominated, abs=0.015)


def test_the_hypervolume_of_little() -> None:
    assert hypervolume([], (1.0, 1.0)) == 0.0
    assert hypervolume([(0.5, 1.0), (2.0, 0.0), (math.nan, 0.0)], (1.0, 1.0)) == 0.0  # none is better throughout
    assert hypervolume([(0.5, 0.5), (0.5, 0.5), (0.75, 0.75)], (1.0, 1.0)) == 0.25
    for reference in ((1.0,), (1.0, math.inf), 1.0):
        with pytest.raises(ValueError, match="expected a finite reference for each objective"):
            hypervolume([(0.5, 0.5)], reference)  # type: ignore[arg-type]


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), max_size=12), st.lists(NUMBERS, min_size=3, max_size=3))
def test_a_row_more_never_covers_less(losses: list[list[float]], row: list[float]) -> None:
    reference = (6.0, 6.0, 6.0)
    before, after = hypervolume(losses, reference), hypervolume([*losses, row], reference)
    assert after >= before - 1e-9
    beaten = any(all(a <= b for a, b in zip(other, row, strict=True)) for other in losses)
    assert (after > before + 1e-9) != beaten
