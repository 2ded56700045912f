from __future__ import annotations

import math

import pytest
import torch
from transformers import get_scheduler

from llm_tuning.recipe import Recipe, ScheduleKind
from llm_tuning.schedule import learning_rate, learning_rate_factor, total_steps

_TRANSFORMERS_NAMES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "wsd": "warmup_stable_decay",
}


@pytest.mark.parametrize("kind", list(_TRANSFORMERS_NAMES))
@pytest.mark.parametrize(("total", "warmup", "decay"), [(20, 3, 5), (20, 0, 0), (7, 7, 0), (10, 4, 6), (1, 0, 1)])
def test_the_closed_form_equals_the_scheduler_of_transformers(
    kind: ScheduleKind, total: int, warmup: int, decay: int
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        _TRANSFORMERS_NAMES[kind],
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total,
        scheduler_specific_kwargs={"num_decay_steps": decay} if kind == "wsd" else None,
    )
    expected, got = [], []
    for step in range(total + 2):
        expected.append(scheduler.get_last_lr()[0])
        got.append(learning_rate_factor(kind, step, total, warmup, decay))
        optimizer.step()
        scheduler.step()
    assert got == pytest.approx(expected, abs=1e-15)


def test_the_last_batch_reaches_or_passes_the_horizon() -> None:
    assert [total_steps(horizon, 16) for horizon in (1, 16, 17, 320)] == [1, 1, 2, 20]


def test_fractions_of_steps_are_rounded_up() -> None:
    recipe = Recipe.from_params({"optimizer.batch_size": 10, "schedule.warmup": 0.11, "optimizer.learning_rate": 2.0})
    assert total_steps(100, recipe.batch_size) == 10
    assert learning_rate(recipe, 1, horizon=100) == 1.0  # two steps of warmup, not one
    assert learning_rate(recipe, 2, horizon=100) == 2.0


def test_decay_gives_way_where_rounding_would_make_it_overlap_with_warmup() -> None:
    params = {"schedule.kind": "wsd", "schedule.warmup": 0.5, "schedule.decay": 0.5, "optimizer.batch_size": 1}
    recipe = Recipe.from_params({**params, "optimizer.learning_rate": 1.0})
    rates = [learning_rate(recipe, step, horizon=5) for step in range(5)]
    # Three steps of warmup (2.5 rounded up), so two of decay.
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, 1, 0.5 * (1 + math.cos(math.pi / 2))])
