from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from controller.events import JobCreated, Reported, TrialCreated
from controller.history import History
from controller.schedulers.asha import ASHA
from controller.strategy import Resume, StartNew, Wait
from controller.trial import Objective, Report
from tests.controller.scheduler_simulation import Move, Simulation, noisy

RUNGS = (1, 3, 9, 27)


class Reference:
    """`get_job` of Li et al. 2020, Alg. 2, word by word, with a number of trials and a last resort added."""

    def __init__(self, budgets: Sequence[int], eta: int, max_trials: int) -> None:
        self.budgets, self.eta, self.max_trials = budgets, eta, max_trials
        self.rungs: list[dict[int, float]] = [{} for _ in budgets]
        self.promoted: list[set[int]] = [set() for _ in budgets]
        self.started = 0

    def get_job(self, running: int) -> Move | None:
        for k in reversed(range(len(self.budgets) - 1)):
            candidates = sorted(self.rungs[k], key=lambda t: (self.rungs[k][t], t))[: len(self.rungs[k]) // self.eta]
            promotable = [trial for trial in candidates if trial not in self.promoted[k]]
            if promotable:
                return self._promote(promotable[0], k)
        if self.started < self.max_trials:
            self.started += 1
            return self.started - 1, self.budgets[0]
        if not running and not self.rungs[-1]:
            for k in reversed(range(len(self.budgets) - 1)):
                if self.rungs[k]:
                    return self._promote(min(self.rungs[k], key=lambda t: (self.rungs[k][t], t)), k)
        return None

    def _promote(self, trial: int, k: int) -> Move:
        self.promoted[k].add(trial)
        return trial, self.budgets[k + 1]

    def result(self, move: Move, loss: float) -> None:
        self.rungs[self.budgets.index(move[1])][move[0]] = loss


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_it_equals_the_reference_for_every_seed(workers: int, eta: int) -> None:
    budgets = [eta**k for k in range(3)]
    for seed in range(30):
        max_trials = 1 + seed * 2
        reference = Reference(budgets, eta, max_trials)
        expected: list[Move | None] = []
        loss = noisy(seed)

        def record(move: Move, history: History, reference: Any = reference, expected: Any = expected) -> None:
            expected.append(reference.get_job(len(history.running) - 1))

        def report(history: History, reference: Any = reference, loss: Any = loss) -> None:
            for level, budget in enumerate(budgets):
                for trial in history.rung(budget).arrivals[len(reference.rungs[level]) :]:
                    reference.result((trial, budget), loss(trial, budget))

        scheduler = ASHA(budgets, max_trials=max_trials, reduction_factor=eta)
        history, moves = Simulation(scheduler, loss, workers, seed, on_result=report, on_move=record).run()
        assert moves == expected
        assert reference.get_job(0) is None
        assert len(history.trials) == max_trials


def test_thirty_perfectly_ranked_trials_take_110_epochs() -> None:
    """Without stopping they would take 30 * 27 = 810. A promotion from 1 to 3 costs 2, since it resumes."""
    epochs = []
    for seed in range(500):
        order = np.random.default_rng(seed).permutation(30)
        losses = order.tolist()
        simulation = Simulation(ASHA(RUNGS, max_trials=30), lambda trial, budget, losses=losses: float(losses[trial]))
        history, _ = simulation.run()
        epochs.append(sum(job.to_budget - job.from_budget for job in history.jobs))
    assert np.mean(epochs) == pytest.approx(110, abs=4)


def test_the_best_of_perfectly_ranked_trials_always_gets_the_full_budget() -> None:
    for seed in range(50):
        losses = np.random.default_rng(seed).permutation(30).tolist()
        history, _ = Simulation(
            ASHA(RUNGS, max_trials=30), lambda trial, budget, losses=losses: float(losses[trial]), seed=seed, workers=3
        ).run()
        best = history.best()
        assert best is not None
        assert losses[best.trial_id] == 0
        assert best.budget == 27


@pytest.mark.parametrize("max_trials", [1, 2, 3, 4])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_fewer_trials_than_eta_still_train_one_to_the_end(max_trials: int, workers: int) -> None:
    scheduler = ASHA(RUNGS, max_trials=max_trials, reduction_factor=4)
    history, _ = Simulation(scheduler, lambda trial, budget: float(trial), workers).run()
    assert history.rung(27).arrivals == [0]
    assert history.num_started() == max_trials


def test_every_rung_that_holds_results_promotes_at_least_one() -> None:
    for seed in range(40):
        scheduler = ASHA(RUNGS, max_trials=2 + seed, reduction_factor=3)
        history, _ = Simulation(scheduler, noisy(seed), workers=1 + seed % 4, seed=seed).run()
        assert all(history.rung(budget).promoted >= 1 for budget in RUNGS[:-1])
        assert history.rung(27).arrivals


def test_a_failed_trial_ranks_last_and_is_never_promoted() -> None:
    def loss(trial: int, budget: int) -> float | None:
        return None if trial % 3 == 0 else float(trial)

    history, moves = Simulation(ASHA(RUNGS, max_trials=30), loss).run()
    assert {trial for trial, budget in moves if budget > 1} & {0, 3, 6, 9} == set()
    # It counts in the rung: of 3 trials, one of which failed, one is promoted.
    assert moves.index((1, 3)) == 3
    assert len(history.rung(1).failed) == 10


def test_when_the_promoted_ones_fail_the_next_best_goes_on() -> None:
    def loss(trial: int, budget: int) -> float | None:
        return None if trial < 2 and budget > 1 else float(trial)

    history, moves = Simulation(ASHA((1, 3, 9), max_trials=4, reduction_factor=4), loss).run()
    assert moves == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 3), (1, 3), (2, 3), (2, 9)]
    assert history.rung(9).arrivals == [2]


def test_a_failure_far_up_brings_in_a_trial_from_below() -> None:
    def loss(trial: int, budget: int) -> float | None:
        return None if trial == 0 and budget == 9 else float(trial)

    _, moves = Simulation(ASHA((1, 3, 9), max_trials=2, reduction_factor=4), loss).run()
    assert moves == [(0, 1), (1, 1), (0, 3), (0, 9), (1, 3), (1, 9)]


def test_it_ends_when_everything_fails() -> None:
    history, moves = Simulation(ASHA(RUNGS, max_trials=10), lambda trial, budget: None, workers=3).run()
    assert len(moves) == 10
    assert history.best() is None
    _, moves = Simulation(ASHA(RUNGS, max_trials=10), lambda t, budget: None if budget > 1 else float(t)).run()
    assert len(moves) == 20  # each is tried at the second rung once


def test_a_cap_never_promotes_more_than_a_full_rung_would() -> None:
    early = 0
    for seed in range(30):
        losses = {}
        for capped in (False, True):
            scheduler = ASHA(RUNGS, max_trials=27, cap_promotions=capped)
            history, _ = Simulation(scheduler, noisy(seed), workers=4, seed=seed).run()
            losses[capped] = [history.rung(budget).promoted for budget in RUNGS[:-1]]
        assert all(promoted <= cap for promoted, cap in zip(losses[True], (9, 3, 1), strict=True))
        early += losses[False] > [9, 3, 1]
    assert early > 0  # without the cap the paper's rule does


def test_only_its_own_bracket_counts() -> None:
    scheduler = ASHA((1, 3), max_trials=3, bracket=1)
    history = History(seed=0, objectives=[Objective("loss")], horizon=3)
    for trial_id, bracket in enumerate([0, 0, 1, 1]):
        history.apply(TrialCreated(trial_id, {}, 0, labels={"bracket": bracket}))
        history.apply(JobCreated(trial_id, trial_id, 0, 1))
        history.apply(Reported(Report(trial_id, 1, {"loss": float(trial_id)}, 1.0)))
    assert scheduler.next(history) == StartNew(1, {"bracket": 1})
    assert scheduler.retain(history) == {2}  # at most one of three can be promoted
    history.apply(TrialCreated(4, {}, 0, labels={"bracket": 1}))
    history.apply(JobCreated(4, 4, 0, 1))
    assert scheduler.next(history) == Wait()
    history.apply(Reported(Report(4, 1, {"loss": 9.0}, 1.0)))
    assert scheduler.next(history) == Resume(2, 3)


@pytest.mark.parametrize("fraction_failing", [0.0, 0.2])
@pytest.mark.parametrize("capped", [False, True])
def test_no_trial_is_resumed_that_was_not_retained(capped: bool, fraction_failing: float) -> None:
    """Only once promoted trials have failed may a last resort want one back."""
    for seed in range(40):
        scheduler = ASHA(RUNGS, max_trials=1 + seed, reduction_factor=2 + seed % 3, cap_promotions=capped)
        fails = np.random.default_rng([seed, 2]).random((50, 32)) < fraction_failing
        table = noisy(seed)
        dropped: set[int] = set()

        def loss(trial: int, budget: int, fails: Any = fails, table: Any = table) -> float | None:
            return None if fails[trial, budget] else table(trial, budget)

        def discard(history: History, scheduler: ASHA = scheduler, dropped: set[int] = dropped) -> None:
            kept = scheduler.retain(history) | {job.trial_id for job in history.running.values()}
            dropped.update(trial.trial_id for trial in history.trials if trial.trial_id not in kept)

        def check(move: Move, history: History, scheduler: ASHA = scheduler, dropped: set[int] = dropped) -> None:
            failed_above = any(history.rung(budget).failed for budget in RUNGS[1:])
            resort = history.num_started() == scheduler.max_trials and len(history.running) == 1
            assert move[0] not in dropped or (failed_above and resort)

        history, _ = Simulation(scheduler, loss, 1 + seed % 5, seed, on_result=discard, on_move=check).run()
        if history.rung(27).arrivals:
            assert scheduler.retain(history) == {history.rung(27).ranking[0][1]}


def test_what_is_retained_is_little() -> None:
    sizes: list[int] = []
    scheduler = ASHA(RUNGS, max_trials=81)
    Simulation(scheduler, noisy(0), 4, on_result=lambda history: sizes.append(len(scheduler.retain(history)))).run()
    assert max(sizes) <= 81 // 3
    assert np.mean(sizes) < 20
    assert sizes[-1] == 1


@pytest.mark.parametrize(
    ("budgets", "options", "expected"),
    [
        ((), {}, "strictly increasing rungs"),
        ((1, 3, 3), {}, "strictly increasing rungs"),
        ((1, 3), {"reduction_factor": 1}, "reduction_factor >= 2"),
        ((1, 3), {"max_trials": 0}, "max_trials >= 1"),
    ],
)
def test_what_cannot_be_is_refused(budgets: tuple[int, ...], options: dict[str, int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ASHA(budgets, **({"max_trials": 3} | options))  # type: ignore[arg-type]
