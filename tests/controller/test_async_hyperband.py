from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest

from controller.history import History
from controller.schedulers.async_hyperband import AsyncHyperband
from controller.schedulers.brackets import apportioned, hyperband_brackets
from controller.strategy import StartNew
from controller.trial import Trial
from tests.controller.scheduler_simulation import Compared, Discarding, Move, Simulation, new_history, noisy, submit

RUNGS = (1, 3, 9, 27)
ROUND = [27, 12, 6, 4]


class Reference:
    """`get_job` of Li et al. 2020, Alg. 2, for several brackets, from nothing but the reports of the trials."""

    def __init__(self, budgets: tuple[int, ...], eta: int, max_trials: int) -> None:
        self.budgets, self.eta, self.max_trials = budgets, eta, max_trials
        s_max = len(budgets) - 1
        sizes = [-(-(s_max + 1) * eta**s // (s + 1)) for s in range(s_max, -1, -1)]
        exact = [Fraction(max_trials * size, sum(sizes)) for size in sizes]
        self.shares = [int(share) for share in exact]
        cut_most = sorted(range(s_max + 1), key=lambda bracket: self.shares[bracket] - exact[bracket])
        for bracket in cut_most[: max_trials - sum(self.shares)]:
            self.shares[bracket] += 1

    def get_job(self, history: History) -> Move | None:
        """(trial, budget) of the job that is due."""
        members = [[trial for trial in history.trials if trial.labels["bracket"] == b] for b in range(len(self.shares))]
        due = [self._promotion(history, of, share) for of, share in zip(members, self.shares, strict=True)]
        promotions = [move for move in due if move]
        if promotions:
            return max(promotions, key=lambda move: move[1])
        count = len(history.trials) + 1
        if count > self.max_trials:
            return None
        lag = [
            Fraction(share * count, self.max_trials) - len(of) for share, of in zip(self.shares, members, strict=True)
        ]
        free = [bracket for bracket, of in enumerate(members) if len(of) < self.shares[bracket]]
        return count - 1, self.budgets[max(free, key=lambda bracket: lag[bracket])]

    def _promotion(self, history: History, members: list[Trial], share: int) -> Move | None:
        best_paused = None
        for budget, above in reversed(list(pairwise(self.budgets))):
            results = sorted((history.loss(t.trial_id, budget), t.trial_id) for t in members if budget in t.reports)
            failed = [t for t in members if t.failure and history.jobs[t.failure.job_id].to_budget == budget]
            paused = {t.trial_id for t in members if t.budget == budget and not t.running and not t.failure}
            for place, (_, trial_id) in enumerate(results):
                if trial_id in paused and place < (len(results) + len(failed)) // self.eta:
                    return trial_id, above
                if trial_id in paused:
                    best_paused = best_paused or (trial_id, above)
        at_the_top = any(self.budgets[-1] in trial.reports for trial in members)
        over = len(members) == share and not any(trial.running for trial in members)
        return best_paused if over and not at_the_top else None


@pytest.mark.parametrize("failing", [0.0, 0.3])
@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("eta", [2, 3])
def test_it_equals_the_reference_for_every_seed(eta: int, workers: int, failing: float) -> None:
    budgets = (1, eta, eta**2)
    for seed in range(12):
        scheduler = AsyncHyperband(budgets, max_trials=1 + 4 * seed, reduction_factor=eta)
        compared = Compared(scheduler, Reference(budgets, eta, 1 + 4 * seed))
        history, _ = Simulation(compared, noisy(seed, failing=failing), workers, seed).run()
        assert history.num_started() == 1 + 4 * seed


def test_trials_go_to_the_brackets_in_proportion_at_any_time() -> None:
    for max_trials in (1, 2, 5, 20, 49, 100, 300):
        shares = apportioned(max_trials, ROUND)

        def check(move: Move, history: History, shares: tuple[int, ...] = shares, total: int = max_trials) -> None:
            for bracket, share in enumerate(shares):
                exact = Fraction(share * history.num_started(), total)
                assert abs(history.num_started(bracket) - exact) < Fraction(3, 2)

        history, _ = Simulation(AsyncHyperband(RUNGS, max_trials=max_trials), noisy(0), 3, on_move=check).run()
        assert tuple(history.num_started(bracket) for bracket in range(4)) == shares
    assert apportioned(49, ROUND) == tuple(ROUND)


def test_a_trial_starts_at_the_rung_of_its_bracket_and_is_ranked_there() -> None:
    history, _ = Simulation(AsyncHyperband(RUNGS, max_trials=98), noisy(0), 3).run()
    for trial in history.trials:
        bracket = int(trial.labels["bracket"])
        assert next(iter(trial.reports)) == RUNGS[bracket]
        for budget in trial.reports:
            assert (history.loss(trial.trial_id, budget), trial.trial_id) in history.rung(budget, bracket).ranking
    assert all(history.rung(27, bracket).arrivals for bracket in range(4))


def test_no_worker_waits_before_all_trials_are_started() -> None:
    def check(idle: int, history: History) -> None:
        assert history.num_started() == 60

    Simulation(AsyncHyperband(RUNGS, max_trials=60), noisy(0), 7, on_wait=check).run()


@pytest.mark.parametrize("workers", [1, 7, 64])
def test_fewer_trials_than_brackets(workers: int) -> None:
    for max_trials in range(1, 6):
        history, _ = Simulation(AsyncHyperband(RUNGS, max_trials=max_trials), noisy(max_trials), workers).run()
        assert history.num_started() == max_trials
        for bracket in {trial.labels["bracket"] for trial in history.trials}:
            assert history.rung(27, int(bracket)).arrivals  # each brings one to the end


def test_one_rung_is_full_trainings() -> None:
    _, moves = Simulation(AsyncHyperband((27,), max_trials=5), noisy(0), 2).run()
    assert moves == [(trial, 27) for trial in range(5)]


def test_it_ends_when_everything_fails() -> None:
    history, moves = Simulation(AsyncHyperband(RUNGS, max_trials=10), lambda trial, budget: None, 3).run()
    assert len(moves) == 10
    assert history.best() is None


@pytest.mark.parametrize("capped", [False, True])
def test_what_is_resumed_was_retained_and_that_is_little(capped: bool) -> None:
    for seed in range(20):
        scheduler = AsyncHyperband(RUNGS, max_trials=10 + 7 * seed, cap_promotions=capped, keep=2)
        shelf = Discarding(scheduler)
        simulation = Simulation(scheduler, noisy(seed), 1 + seed % 5, seed, on_result=shelf.on_result)
        simulation.on_move = shelf.on_move
        history, _ = simulation.run()
        assert not shelf.missed
        assert max(shelf.sizes) <= scheduler.max_trials // 3 + 6
        assert scheduler.retain(history) == {trial for _, trial in history.rung(27).ranking[:2]}


def test_a_cap_reaches_the_brackets() -> None:
    history, _ = Simulation(AsyncHyperband(RUNGS, max_trials=49, cap_promotions=True), noisy(0), 4).run()
    for number, bracket in enumerate(hyperband_brackets(RUNGS, 3)):
        for budget, size in zip(bracket.budgets, bracket.sizes, strict=True):
            assert len(history.rung(budget, number).ranking) <= size


def test_a_study_that_is_made_longer_goes_on() -> None:
    history, _ = Simulation(AsyncHyperband(RUNGS, max_trials=20), noisy(0), 3).run()
    history, _ = Simulation(AsyncHyperband(RUNGS, max_trials=70), noisy(0), 3).run(history)
    assert [history.num_started(bracket) for bracket in range(4)] == list(apportioned(70, ROUND))


def test_the_first_trials_are_spread() -> None:
    scheduler, history = AsyncHyperband(RUNGS, max_trials=49), new_history(27)
    brackets = []
    for _ in range(49):
        decision = scheduler.next(history)
        assert isinstance(decision, StartNew)
        brackets.append(decision.labels["bracket"])
        submit(history, decision)
    assert brackets[:8] == [0, 1, 0, 2, 0, 3, 0, 1]
