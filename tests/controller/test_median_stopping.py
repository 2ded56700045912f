from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from controller.history import History
from controller.schedulers.median_stopping import MedianStopping
from controller.strategy import Resume, StartNew
from tests.controller.scheduler_simulation import (
    Compared,
    Discarding,
    Move,
    Simulation,
    finish,
    new_history,
    noisy,
    submit,
)

RUNGS = (1, 3, 9, 27)


@dataclass
class Reference:
    """The rule, one trial at a time, from nothing but the reports of the trials."""

    budgets: tuple[int, ...]
    max_trials: int
    min_trials: int
    grace_budget: int
    compare: str

    def get_job(self, history: History) -> Move | None:
        """(trial, budget) of the job that is due."""
        best_paused = None
        for budget, above in reversed(list(pairwise(self.budgets))):
            paused = [t for t in history.trials if t.budget == budget and not t.running and not t.failure]
            paused.sort(key=lambda trial: (history.loss(trial.trial_id, budget), trial.trial_id))
            fit = [
                (self._held(history, t.trial_id, budget), t.trial_id)
                for t in paused
                if not self._stops(history, t.trial_id, budget)
            ]
            if fit:
                return min(fit)[1], above
            if paused and best_paused is None:
                best_paused = paused[0].trial_id, above
        if len(history.trials) < self.max_trials:
            return len(history.trials), self.budgets[0]
        if history.running or any(self.budgets[-1] in trial.reports for trial in history.trials):
            return None
        return best_paused

    def _stops(self, history: History, trial_id: int, budget: int) -> bool:
        averages = []
        for other in history.trials:
            if budget in other.reports and other.trial_id != trial_id:
                averages.append(self._average(history, other.trial_id, budget))
            elif other.failure and history.jobs[other.failure.job_id].to_budget == budget:
                averages.append(math.inf)
        if budget <= self.grace_budget or len(averages) < self.min_trials:
            return False
        return self._best_or_average(history, trial_id, budget) > statistics.median(averages)

    def _held(self, history: History, trial_id: int, budget: int) -> float:
        """Who goes first: the lowest of what is judged, or of the losses where nothing is."""
        others = sum(
            budget in trial.reports
            or (trial.failure is not None and history.jobs[trial.failure.job_id].to_budget == budget)
            for trial in history.trials
        )
        if budget <= self.grace_budget or others - 1 < self.min_trials:
            return history.loss(trial_id, budget)
        return self._best_or_average(history, trial_id, budget)

    def _best_or_average(self, history: History, trial_id: int, budget: int) -> float:
        if self.compare == "average":
            return self._average(history, trial_id, budget)
        return min(history.loss(trial_id, rung) for rung in self.budgets if rung <= budget)

    def _average(self, history: History, trial_id: int, budget: int) -> float:
        return statistics.fmean(history.loss(trial_id, rung) for rung in self.budgets if rung <= budget)


@pytest.mark.parametrize("compare", ["best", "average"])
@pytest.mark.parametrize("failing", [0.0, 0.3])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_it_equals_the_reference_for_every_seed(workers: int, failing: float, compare: str) -> None:
    for seed in range(10):
        options: Any = {"min_trials": 1 + seed % 4, "grace_budget": (0, 1, 4)[seed % 3], "compare": compare}
        scheduler = MedianStopping(RUNGS, max_trials=1 + 3 * seed, **options)
        compared = Compared(scheduler, Reference(RUNGS, 1 + 3 * seed, **options))
        history, _ = Simulation(compared, noisy(seed, failing=failing), workers, seed).run()
        assert history.num_started() == 1 + 3 * seed


def history_of(scheduler: MedianStopping, *results: tuple[float, ...]) -> History:
    """Trials that were trained as far as they have results, as if all went on."""
    history = new_history(scheduler.budgets[-1])
    for losses in results:
        for place, (budget, loss) in enumerate(zip(scheduler.budgets, losses, strict=False)):
            trial_id = len(history.trials) - 1
            submit(history, Resume(trial_id, budget) if place else StartNew(budget))
            finish(history, history.jobs[-1], loss)
    return history


def test_best_is_held_against_running_averages() -> None:
    """The averages of the others at the second rung are 3, 4 and 5, their median is 4."""
    others = [(4.0, 2.0), (5.0, 3.0), (6.0, 4.0)]
    paper = MedianStopping((1, 2, 3), max_trials=4)
    averages = MedianStopping((1, 2, 3), max_trials=4, compare="average")
    for losses, goes_on in [((8.0, 3.9), True), ((8.0, 4.0), True), ((8.0, 4.1), False), ((3.9, 9.0), True)]:
        history = history_of(paper, *others, losses)
        assert (3 in paper._fit(history, 2)) == goes_on
    for losses, goes_on in [((5.0, 3.0), True), ((8.0, 0.1), False), ((4.5, 3.6), False)]:
        history = history_of(averages, *others, losses)
        assert (3 in averages._fit(history, 2)) == goes_on


def test_a_stopped_trial_goes_on_once_the_median_has_passed_it() -> None:
    losses = [0.3, 0.2, 0.1, 0.5, 0.9, 0.8, 0.7]
    scheduler = MedianStopping((1, 9), max_trials=7, min_trials=3)
    _, moves = Simulation(scheduler, lambda trial, budget: losses[trial], horizon=9).run()
    # The first three come before there are three others. With the last one, 0.5 is the median of the others of 3.
    assert moves[:6] == [(0, 1), (0, 9), (1, 1), (1, 9), (2, 1), (2, 9)]
    assert moves[6:] == [(3, 1), (4, 1), (5, 1), (6, 1), (3, 9)]


def test_half_of_perfectly_ranked_trials_go_on_where_averages_are_compared() -> None:
    promoted: list[list[int]] = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(40).tolist()
        scheduler = MedianStopping(RUNGS, max_trials=40, compare="average")
        history, _ = Simulation(scheduler, lambda t, b, order=order: float(order[t]), 3, seed).run()  # type: ignore[misc]
        sizes = [len(history.rung(budget).ranking) for budget in RUNGS]
        for below, above in pairwise(sizes):
            assert below // 2 <= above < below
        promoted.append(sizes[1:])
        best = history.best()
        assert best is not None
        assert order[best.trial_id] == 0
        # Whoever was stopped is worse than the median of the others, now that all are there.
        assert scheduler._fit(history, 1) == []
        assert all(order[trial] >= 20 for _, trial in history.rung(1).waiting)
    assert np.mean(promoted, axis=0) == pytest.approx(
        [24, 17, 13], abs=3
    )  # a little over half: the first are not judged


def test_a_grace_period_stops_nobody() -> None:
    scheduler = MedianStopping(RUNGS, max_trials=20, grace_budget=3, compare="average")
    history, _ = Simulation(scheduler, lambda trial, budget: float(trial)).run()
    assert [len(history.rung(budget).ranking) for budget in RUNGS[:3]] == [20, 20, 20]
    assert len(history.rung(27).ranking) < 12
    everything = MedianStopping(RUNGS, max_trials=20, grace_budget=27)
    history, _ = Simulation(everything, noisy(0)).run()
    assert len(history.rung(27).ranking) == 20


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
@pytest.mark.parametrize("max_trials", [1, 2, 3])
def test_fewer_trials_than_a_median_takes_are_all_trained(workers: int, max_trials: int) -> None:
    history, _ = Simulation(MedianStopping(RUNGS, max_trials=max_trials), noisy(0), workers).run()
    assert len(history.rung(27).arrivals) == max_trials


def test_failures_count_as_infinitely_bad() -> None:
    """Where half of the others failed, the median is infinite and nobody is stopped."""
    history, _ = Simulation(
        MedianStopping((1, 27), max_trials=20), lambda trial, budget: None if trial % 2 else float(trial)
    ).run()
    assert len(history.rung(27).arrivals) == 10
    history, _ = Simulation(MedianStopping((1, 27), max_trials=20), lambda trial, budget: None, 3).run()
    assert len(history.jobs) == 20


def test_when_all_that_went_on_failed_the_next_best_does() -> None:
    def loss(trial: int, budget: int) -> float | None:
        return None if trial < 10 and budget > 1 else float(trial)

    history, _ = Simulation(MedianStopping(RUNGS, max_trials=12), loss).run()
    assert history.rung(27).arrivals == [10]


@pytest.mark.parametrize("compare", ["best", "average"])
def test_what_is_resumed_was_retained(compare: Any) -> None:
    for seed in range(30):
        scheduler = MedianStopping(
            RUNGS, max_trials=1 + 2 * seed, min_trials=1 + seed % 4, grace_budget=seed % 2, compare=compare
        )
        shelf = Discarding(scheduler)
        simulation = Simulation(scheduler, noisy(seed), 1 + seed % 5, seed, on_result=shelf.on_result)
        simulation.on_move = shelf.on_move
        history, _ = simulation.run()
        assert not shelf.missed
        assert scheduler.retain(history) == {history.rung(27).ranking[0][1]}


def test_what_is_retained_is_little() -> None:
    for compare in ("best", "average"):
        scheduler = MedianStopping(RUNGS, max_trials=81, compare=compare)  # type: ignore[arg-type]
        shelf = Discarding(scheduler)
        Simulation(scheduler, noisy(0), 4, on_result=shelf.on_result).run()
        assert max(shelf.sizes) <= 81 // 2
        assert np.mean(shelf.sizes) < 81 // 4


def test_one_instance_answers_about_several_histories() -> None:
    """What it remembers of one must not reach the other."""
    scheduler = MedianStopping(RUNGS, max_trials=20, compare="average")
    done, _ = Simulation(scheduler, noisy(0), 2).run()
    other, _ = Simulation(scheduler, noisy(1), 3).run()
    for history in (done, other, done):
        assert scheduler.retain(history) == {history.rung(27).ranking[0][1]}
        assert scheduler._fit(history, 1) == MedianStopping(RUNGS, max_trials=20, compare="average")._fit(history, 1)


@pytest.mark.parametrize(
    ("budgets", "options", "expected"),
    [
        ((3, 1), {}, "strictly increasing rungs"),
        ((1, 3), {"max_trials": 0}, "max_trials >= 1"),
        ((1, 3), {"min_trials": 0}, "min_trials >= 1"),
        ((1, 3), {"grace_budget": -1}, "grace_budget >= 0"),
        ((1, 3), {"compare": "last"}, "expected compare to be one of"),
    ],
)
def test_what_cannot_be_is_refused(budgets: tuple[int, ...], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MedianStopping(budgets, **({"max_trials": 3} | options))
