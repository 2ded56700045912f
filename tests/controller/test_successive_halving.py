from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from controller.events import JobCreated, TrialCreated
from controller.history import History
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.strategy import Done, Resume, StartNew, Wait
from tests.controller.scheduler_simulation import Discarding, Loss, Move, Simulation, finish, new_history, noisy

RUNGS = (1, 3, 9, 27)


def reference(budgets: Sequence[int], eta: int, n: int, loss: Loss) -> list[list[int]]:
    """The trials of each rung by Algorithm 1 of Li et al. 2018, inner loop, best first. Nothing may fail."""
    survivors, rungs = list(range(n)), []
    for level, budget in enumerate(budgets):
        rungs.append(sorted(survivors, key=lambda trial: (loss(trial, budget), trial)))
        survivors = rungs[-1][: max(1, n // eta ** (level + 1))]
    return rungs


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_it_equals_the_reference_for_every_seed(workers: int, eta: int) -> None:
    budgets = [eta**level for level in range(3)]
    for seed in range(25):
        scheduler = SuccessiveHalving(budgets, max_trials=1 + 2 * seed, reduction_factor=eta)
        history, _ = Simulation(scheduler, noisy(seed), workers, seed).run()
        expected = reference(budgets, eta, 1 + 2 * seed, noisy(seed))
        assert [[trial for _, trial in history.rung(budget).ranking] for budget in budgets] == expected


def test_with_one_worker_the_jobs_come_rung_by_rung_best_first() -> None:
    _, moves = Simulation(SuccessiveHalving(RUNGS, max_trials=20), noisy(3)).run()
    rungs = reference(RUNGS, 3, 20, noisy(3))
    expected: list[Move] = [(trial, 1) for trial in range(20)]
    for budget, below, size in zip(RUNGS[1:], rungs, (6, 2, 1), strict=False):
        expected += [(trial, budget) for trial in below[:size]]
    assert moves == expected


def test_perfectly_ranked_trials_cost_what_the_rungs_cost() -> None:
    history, _ = Simulation(SuccessiveHalving(RUNGS, max_trials=27), lambda trial, budget: float(trial), 5).run()
    assert [len(history.rung(budget).ranking) for budget in RUNGS] == [27, 9, 3, 1]
    assert history.examples == 27 * 1 + 9 * 2 + 3 * 6 + 1 * 18
    assert history.rung(27).arrivals == [0]


@pytest.mark.parametrize("workers", [2, 7, 64])
def test_a_rung_begins_when_the_one_below_is_complete(workers: int) -> None:
    idle = []

    def check(move: Move, history: History) -> None:
        below = [budget for budget in RUNGS if budget < move[1]]
        assert all(not history.rung(budget).heading for budget in below)
        assert move[1] == 1 or history.num_started() == 20

    simulation = Simulation(SuccessiveHalving(RUNGS, max_trials=20), noisy(0), workers, on_move=check)
    simulation.on_wait = lambda count, history: idle.append(count)
    history, _ = simulation.run()
    assert [len(history.rung(budget).ranking) for budget in RUNGS] == [20, 6, 2, 1]
    assert max(idle) == workers


@pytest.mark.parametrize("max_trials", [1, 2, 3, 4])
@pytest.mark.parametrize("workers", [1, 7])
def test_fewer_trials_than_eta_still_train_one_to_the_end(max_trials: int, workers: int) -> None:
    scheduler = SuccessiveHalving(RUNGS, max_trials=max_trials, reduction_factor=5)
    history, _ = Simulation(scheduler, lambda trial, budget: float(trial), workers).run()
    assert history.rung(27).arrivals == [0]
    assert history.num_started() == max_trials
    assert all(history.rung(budget).promoted == 1 for budget in RUNGS[:-1])


def test_failures_rank_last_and_are_not_replaced() -> None:
    def loss(trial: int, budget: int) -> float | None:
        return None if trial % 2 == 0 or (trial, budget) == (1, 3) else float(trial)

    history, _ = Simulation(SuccessiveHalving(RUNGS, max_trials=27), loss).run()
    assert history.rung(3).arrivals == [3, 5, 7, 9, 11, 13, 15, 17]  # and trial 1, the ninth, failed there
    assert history.rung(9).arrivals == [3, 5, 7]
    assert history.rung(27).arrivals == [3]


def test_a_rung_with_too_few_survivors_promotes_them_all() -> None:
    history, moves = Simulation(
        SuccessiveHalving(RUNGS, max_trials=27), lambda trial, budget: float(trial) if trial < 4 else None
    ).run()
    assert [len(history.rung(budget).arrivals) for budget in RUNGS] == [4, 4, 3, 1]
    assert len(moves) == 27 + 4 + 3 + 1


def test_when_the_promoted_ones_fail_the_next_best_goes_on() -> None:
    def loss(trial: int, budget: int) -> float | None:
        return None if trial < 2 and budget > 1 else float(trial)

    history, moves = Simulation(SuccessiveHalving((1, 3, 9), max_trials=6), loss).run()
    assert moves[6:] == [(0, 3), (1, 3), (2, 3), (2, 9)]
    assert history.rung(9).arrivals == [2]


@pytest.mark.parametrize("workers", [1, 7])
def test_it_ends_when_everything_fails(workers: int) -> None:
    history, moves = Simulation(SuccessiveHalving(RUNGS, max_trials=10), lambda trial, budget: None, workers).run()
    assert len(moves) == 10
    assert history.best() is None
    _, moves = Simulation(
        SuccessiveHalving(RUNGS, max_trials=10), lambda t, budget: None if budget > 1 else float(t), workers
    ).run()
    assert sorted(moves) == sorted([(trial, budget) for trial in range(10) for budget in (1, 3)])


def test_only_its_own_bracket_counts() -> None:
    scheduler = SuccessiveHalving((1, 3), max_trials=3, bracket=1)
    history = new_history(3)
    for trial_id, bracket in enumerate([0, 0, 1, 1]):
        history.apply(TrialCreated(trial_id, {}, 0, labels={"bracket": bracket}))
        history.apply(JobCreated(trial_id, trial_id, 0, 1))
        finish(history, history.jobs[trial_id], float(trial_id))
    assert scheduler.next(history) == StartNew(1, {"bracket": 1})
    assert scheduler.retain(history) == {2}
    history.apply(TrialCreated(4, {}, 0, labels={"bracket": 1}))
    history.apply(JobCreated(4, 4, 0, 1))
    assert scheduler.next(history) == Wait()
    finish(history, history.jobs[4], 1.0)
    assert scheduler.next(history) == Resume(4, 3)
    assert SuccessiveHalving((1, 3), max_trials=3, bracket=2).next(history) == StartNew(1, {"bracket": 2})


def test_what_is_resumed_was_retained_and_that_is_little() -> None:
    for seed in range(40):
        n = 1 + 2 * seed
        scheduler = SuccessiveHalving(RUNGS, max_trials=n, reduction_factor=2 + seed % 3)
        shelf = Discarding(scheduler)
        history, _ = Simulation(
            scheduler, noisy(seed), 1 + seed % 5, seed, on_result=shelf.on_result, on_move=shelf.on_move
        ).run()
        assert not shelf.missed
        assert max(shelf.sizes) <= max(1, n // scheduler.reduction_factor) + 1
        assert scheduler.retain(history) == {history.rung(27).ranking[0][1]}


def test_only_a_last_resort_after_failures_wants_back_what_was_discarded() -> None:
    for seed in range(40):
        scheduler = SuccessiveHalving(RUNGS, max_trials=1 + seed)
        shelf = Discarding(scheduler)

        def check(move: Move, history: History, shelf: Discarding = shelf, max_trials: int = 1 + seed) -> None:
            shelf.on_move(move, history)
            if shelf.missed and shelf.missed[-1] == move:
                assert any(history.rung(budget).failed for budget in RUNGS[1:])
                assert history.num_started() == max_trials
                assert len(history.running) == 1

        simulation = Simulation(scheduler, noisy(seed, failing=0.3), 3, seed, on_result=shelf.on_result, on_move=check)
        history, _ = simulation.run()
        assert history.rung(27).arrivals or all(trial.failure for trial in history.trials)


def test_a_study_that_is_made_longer_goes_on() -> None:
    simulation = Simulation(SuccessiveHalving(RUNGS, max_trials=9), noisy(0), 3)
    history, _ = simulation.run()
    assert [len(history.rung(budget).ranking) for budget in RUNGS] == [9, 3, 1, 1]
    longer = SuccessiveHalving(RUNGS, max_trials=27)
    history, _ = Simulation(longer, noisy(0), 3).run(history)
    assert isinstance(longer.next(history), Done)
    promoted = [history.rung(budget).promoted for budget in RUNGS]
    assert promoted[0] == 9
    assert promoted[1] == 3
    assert history.num_started() == 27


def test_keep_says_how_many_checkpoints_stay_at_the_top() -> None:
    table = np.random.default_rng(0).random((20, 32))
    for keep in (0, 1, 3):
        scheduler = SuccessiveHalving((3, 27), max_trials=20, reduction_factor=2, keep=keep)
        history, _ = Simulation(scheduler, lambda trial, budget: float(table[trial, budget])).run()
        assert scheduler.retain(history) == {trial for _, trial in history.rung(27).ranking[:keep]}
