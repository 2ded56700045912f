from __future__ import annotations

from typing import Any

import pytest

from controller.events import JobCreated, TrialCreated
from controller.history import History
from controller.samplers.random import RandomSampler
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Done, StartNew, Wait
from controller.trial import Objective
from search_spaces.space import Space


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_every_trial_gets_the_full_budget(study: Any, fake_task: Any, space: Space, workers: int | None) -> None:
    task = fake_task()
    history = study(Composed(RandomSampler(space), FullBudget(5)), task, horizon=9).run(workers)
    assert [list(trial.reports) for trial in history.trials] == [[9]] * 5
    assert task.trained == 45


def test_it_waits_for_the_search_alone() -> None:
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    scheduler = FullBudget(1)
    assert scheduler.next(history) == StartNew(9)
    history.apply(TrialCreated(0, {}, 0))
    history.apply(JobCreated(0, 0, 0, 9))
    assert scheduler.next(history) == Wait()
    history.apply(TrialCreated(1, {}, 0, repeat_of=0))
    history.apply(JobCreated(1, 1, 0, 9))
    history.trials[0].running = None
    del history.running[0]
    assert isinstance(scheduler.next(history), Done)  # a repeat is running, which is not its business


def test_the_best_keep_their_checkpoints(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    history = study(Composed(RandomSampler(space), FullBudget(6)), fake_task(quality), horizon=9).run()
    ranked = sorted(range(6), key=lambda trial_id: history.loss(trial_id, 9))
    assert FullBudget(6, keep=2).retain(history) == set(ranked[:2])


def test_it_needs_a_trial() -> None:
    with pytest.raises(ValueError, match="expected max_trials >= 1, got 0"):
        FullBudget(0)
