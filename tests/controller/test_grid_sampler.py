from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from controller.events import JobCreated, TrialCreated
from controller.history import History
from controller.samplers.grid import GridSampler
from controller.trial import Objective
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.rules import Sum
from search_spaces.space import Params, Space, SpaceError

SPACE = Space(
    {
        "kind": Choice(("linear", "wsd")),
        "warmup": Float(0.0, 0.8),
        "decay": Float(0.1, 0.9),
        "layers": Int(1, 4),
    },
    conditions=(OneOf("decay", "kind", ("wsd",)),),
    rules=(Sum(("warmup", "decay"), high=1.0),),
)


def key(params: Params) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def searched(sampler: GridSampler, count: int, seed: int = 0, enqueued: Sequence[Params] = ()) -> History:
    """Trials one after the other that never end: pending ones count as tried."""
    history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
    for number in range(count):
        if number < len(enqueued):
            params: Params = enqueued[number]
            labels: Mapping[str, Any] = {"origin": "enqueued"}
        else:
            proposal = sampler.propose(history, history.generator())
            params, labels = proposal.params, proposal.labels
        history.apply(TrialCreated(number, params, 0, labels=labels))
        history.apply(JobCreated(number, number, 0, 1))
    return history


@pytest.mark.parametrize("points", [3, {"warmup": 4, "decay": 3, "layers": 2}])
def test_every_point_is_tried_once_before_any_comes_again(points: Any) -> None:
    grid = {key(params) for params in SPACE.grid(points)}
    sampler = GridSampler(SPACE, points=points)
    assert len(sampler) == len(grid)
    history = searched(sampler, len(grid) + 5)
    assert {key(trial.params) for trial in history.trials[: len(grid)]} == grid
    assert all(trial.labels == {"origin": "grid"} for trial in history.trials[: len(grid)])
    for trial in history.trials[len(grid) :]:
        assert trial.labels == {"origin": "grid-repeat"}
        assert key(trial.params) in grid


def test_what_was_tried_otherwise_is_left_out() -> None:
    grid = list(SPACE.grid(2))
    history = searched(GridSampler(SPACE, points=2), len(grid) + 1, enqueued=[SPACE.most_likely(), *grid[:3]])
    tried = [key(trial.params) for trial in history.trials[1:]]
    assert sorted(tried) == sorted(map(key, grid))


def test_the_order_is_random_by_seed() -> None:
    orders = [
        [key(trial.params) for trial in searched(GridSampler(SPACE, points=2), 8, seed).trials] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    in_the_order_of_the_grid = [key(params) for params in SPACE.grid(2)]
    assert all(order != in_the_order_of_the_grid[:8] for order in orders)


@pytest.mark.parametrize("limit", [30, 100, 1_000])
def test_the_finest_grid_within_the_limit(limit: int) -> None:
    sampler = GridSampler(SPACE, limit=limit)
    sizes = {points: len(list(SPACE.grid(points))) for points in range(1, 24)}
    finest = max(points for points, size in sizes.items() if size <= limit)
    assert len(sampler) == sizes[finest] <= limit < sizes[finest + 1]


def test_the_finest_grid_of_few_values_is_all_of_them() -> None:
    assert len(GridSampler(Space({"a": Choice((1, 2, 3)), "b": Int(1, 5)}))) == 15
    assert len(GridSampler(Space({"a": Float(0.0, 1.0)}), limit=7)) == 7
    assert len(GridSampler(Space({"a": Float(0.5, 0.5)}))) == 1


def test_a_grid_of_a_hundred_thousand_points() -> None:
    space = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0), "c": Choice((1, 2, 3))})
    sampler = GridSampler(space, points={"a": 200, "b": 166}, limit=100_000)
    assert len(sampler) == 200 * 166 * 3
    assert len({key(trial.params) for trial in searched(sampler, 200).trials}) == 200


def test_the_last_points_of_a_grid_are_drawn_evenly() -> None:
    space = Space({"a": Int(0, 99)})
    sampler = GridSampler(space)
    history = searched(sampler, 96, enqueued=[{"a": value} for value in range(96)])
    drawn = [sampler.propose(history, np.random.default_rng(seed)).params["a"] for seed in range(800)]
    counts = np.bincount(drawn, minlength=100)
    assert not counts[:96].any()
    assert counts[96:] == pytest.approx([200] * 4, abs=50)


def test_a_grid_that_cannot_be_is_refused() -> None:
    with pytest.raises(SpaceError, match="expected a grid of at most 100 assignments, got more"):
        GridSampler(SPACE, points=20, limit=100)
    with pytest.raises(SpaceError, match="at most 10 assignments"):
        GridSampler(Space({"a": Choice(tuple(range(11)))}), limit=10)
    with pytest.raises(ValueError, match="expected limit >= 1, got 0"):
        GridSampler(SPACE, limit=0)
    narrow = Space({"a": Float(0, 1), "b": Float(0, 1)}, rules=(Sum(("a", "b"), low=1.4, high=1.6),))
    with pytest.raises(SpaceError, match="got no point with points=2; take more"):
        GridSampler(narrow, points=2)
