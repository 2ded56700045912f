from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from controller.history import History
from controller.schedulers.brackets import hyperband_brackets
from controller.schedulers.hyperband import Hyperband
from controller.schedulers.rungs import geometric_rungs
from controller.strategy import Resume, StartNew, Wait
from tests.controller.scheduler_simulation import (
    Discarding,
    Loss,
    Move,
    Simulation,
    finish,
    new_history,
    noisy,
    submit,
)

RUNGS = (1, 3, 9, 27)
ROUND = [27, 12, 6, 4]  # Algorithm 1 of Li et al. 2018 for four rungs and eta = 3


def reference(budgets: Sequence[int], eta: int, rounds: int, loss: Loss) -> list[Move]:
    """Algorithm 1 of Li et al. 2018, loop by loop: what is trained, in order. Nothing may fail."""
    s_max = len(budgets) - 1
    moves: list[Move] = []
    trials = 0
    for _ in range(rounds):
        for s in range(s_max, -1, -1):
            n = -(-(s_max + 1) * eta**s // (s + 1))
            survivors = list(range(trials, trials + n))
            trials += n
            for i in range(s + 1):
                budget = budgets[s_max - s + i]
                moves += [(trial, budget) for trial in survivors]
                survivors.sort(key=lambda trial, budget=budget: (loss(trial, budget), trial))  # type: ignore[misc]
                survivors = survivors[: n // eta ** (i + 1)]
    return moves


@pytest.mark.parametrize(("eta", "rungs"), [(2, 4), (3, 3), (4, 3), (5, 2), (3, 1)])
def test_it_equals_the_reference_for_every_seed(eta: int, rungs: int) -> None:
    budgets = geometric_rungs(1, eta ** (rungs - 1), eta)
    per_round = sum(bracket.sizes[0] for bracket in hyperband_brackets(budgets, eta))
    for seed in range(10):
        scheduler = Hyperband(budgets, max_trials=2 * per_round, reduction_factor=eta)
        _, moves = Simulation(scheduler, noisy(seed), seed=seed).run()
        assert moves == reference(budgets, eta, 2, noisy(seed))


@pytest.mark.parametrize(
    ("sizes", "started"), [("algorithm", [81, 34, 15, 8, 5]), ("table", [81, 27, 9, 6, 5])], ids=["algorithm", "table"]
)
def test_one_round_of_the_paper(sizes: str, started: list[int]) -> None:
    budgets = geometric_rungs(1, 81, 3)
    scheduler = Hyperband(budgets, max_trials=sum(started), sizes=sizes)  # type: ignore[arg-type]
    history, moves = Simulation(scheduler, lambda trial, budget: float(trial), 4, horizon=81).run()
    assert [history.num_started(bracket) for bracket in range(6)] == [*started, 0]
    for number, bracket in enumerate(hyperband_brackets(budgets, 3, sizes=sizes)):  # type: ignore[arg-type]
        found = [len(history.rung(budget, number).ranking) for budget in bracket.budgets]
        assert found == list(bracket.sizes)
        first = min(trial for trial in range(len(history.trials)) if history.trials[trial].labels["bracket"] == number)
        assert history.rung(81, number).ranking[0][1] == first  # the best of a bracket gets the full budget
    assert len(moves) == sum(sum(bracket.sizes) for bracket in hyperband_brackets(budgets, 3, sizes=sizes))  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("workers", [2, 7, 64])
def test_each_bracket_halves_its_own_trials_however_many_workers(workers: int, overlap: bool) -> None:
    for seed in range(5):
        loss = noisy(seed)
        scheduler = Hyperband(RUNGS, max_trials=98, overlap=overlap)
        history, _ = Simulation(scheduler, loss, workers, seed).run()
        for number in range(8):
            level, survivors = (
                number % 4,
                [t for t, trial in enumerate(history.trials) if trial.labels["bracket"] == number],
            )
            assert len(survivors) == ROUND[level]
            for place, budget in enumerate(RUNGS[level:]):
                assert sorted(history.rung(budget, number).arrivals) == sorted(survivors)
                survivors = sorted(survivors, key=lambda trial: (loss(trial, budget), trial))
                survivors = survivors[: ROUND[level] // 3 ** (place + 1)]


def test_without_overlap_a_bracket_begins_when_the_one_before_it_is_done() -> None:
    def check(move: Move, history: History) -> None:
        number = history.trials[move[0]].labels["bracket"]
        assert {history.trials[job.trial_id].labels["bracket"] for job in history.running.values()} == {number}

    scheduler = Hyperband(RUNGS, max_trials=98, overlap=False)
    history, _ = Simulation(scheduler, noisy(0), 5, on_move=check).run()
    assert [history.num_started(number) for number in range(8)] == ROUND * 2


def test_with_overlap_no_worker_waits_before_all_trials_are_started() -> None:
    def check(idle: int, history: History) -> None:
        assert history.num_started() == 98

    history, moves = Simulation(Hyperband(RUNGS, max_trials=98), noisy(0), 7, on_wait=check).run()
    started = [trial.labels["bracket"] for trial in history.trials]
    assert started == sorted(started)  # brackets begin in their order
    assert len(moves) == len(Simulation(Hyperband(RUNGS, max_trials=98), noisy(0)).run()[1])


@pytest.mark.parametrize("workers", [1, 7])
def test_every_number_of_trials_is_started_exactly(workers: int) -> None:
    for max_trials in (*range(1, 60, 3), 49, 50, 98, 147, 150):
        history, _ = Simulation(Hyperband(RUNGS, max_trials=max_trials), noisy(max_trials), workers).run()
        brackets = Counter(trial.labels["bracket"] for trial in history.trials)
        assert sum(brackets.values()) == history.num_started() == max_trials
        for number in range(max_trials // 49 * 4):
            assert brackets[number] == ROUND[number % 4]
        assert history.rung(27).arrivals
        assert all(history.rung(27, bracket).arrivals for bracket in brackets)  # each brings one to the end


def test_a_round_without_enough_trials_is_a_small_one_of_the_same_shape() -> None:
    def sizes(max_trials: int) -> list[tuple[int | None, int]]:
        return [(bracket.bracket, bracket.max_trials) for bracket in Hyperband(RUNGS, max_trials=max_trials).brackets]

    assert sizes(49) == [(0, 27), (1, 12), (2, 6), (3, 4)]
    assert sizes(20) == [(0, 11), (1, 5), (2, 2), (3, 2)]
    assert sizes(3) == [(0, 2), (1, 1)]
    assert sizes(1) == [(0, 1)]
    assert sizes(49 + 20) == [*sizes(49), (4, 11), (5, 5), (6, 2), (7, 2)]


def test_a_trial_starts_at_the_lowest_rung_of_its_bracket() -> None:
    history, _ = Simulation(Hyperband(RUNGS, max_trials=98), noisy(1), 3).run()
    for trial in history.trials:
        assert next(iter(trial.reports)) == RUNGS[int(trial.labels["bracket"]) % 4]


@pytest.mark.parametrize("workers", [1, 3])
def test_it_ends_with_failures(workers: int) -> None:
    for seed in range(20):
        loss = noisy(seed, failing=0.4)
        history, _ = Simulation(Hyperband(RUNGS, max_trials=60), loss, workers, seed).run()
        assert history.num_started() == 60
        for number in range(8):
            trials = [trial for trial in history.trials if trial.labels["bracket"] == number]
            assert history.rung(27, number).arrivals or all(trial.failure for trial in trials)
    history, moves = Simulation(Hyperband(RUNGS, max_trials=60), lambda trial, budget: None, workers).run()
    assert len(moves) == 60


@pytest.mark.parametrize("overlap", [True, False])
def test_what_is_resumed_was_retained_and_that_is_little(overlap: bool) -> None:
    for seed in range(20):
        scheduler = Hyperband(RUNGS, max_trials=10 + 7 * seed, overlap=overlap, keep=2)
        shelf = Discarding(scheduler)
        simulation = Simulation(scheduler, noisy(seed), 1 + seed % 5, seed, on_result=shelf.on_result)
        simulation.on_move = shelf.on_move
        history, _ = simulation.run()
        assert not shelf.missed
        assert max(shelf.sizes) <= 27 // 3 + 12 // 3 + 4
        assert scheduler.retain(history) == {trial for _, trial in history.rung(27).ranking[:2]}


def test_one_instance_answers_about_several_histories() -> None:
    """What it remembers of one must not reach the other."""
    scheduler = Hyperband(RUNGS, max_trials=60)
    done, _ = Simulation(scheduler, noisy(0), 2).run()
    fresh = new_history(27)
    assert scheduler.next(fresh) == StartNew(1, {"bracket": 0})
    submit(fresh, StartNew(1, {"bracket": 0}))
    assert scheduler.retain(done) == {done.rung(27).ranking[0][1]}
    assert scheduler.next(fresh) == StartNew(1, {"bracket": 0})


@pytest.mark.parametrize("max_trials", [30, 60, 120])
def test_a_study_that_is_made_longer_goes_on(max_trials: int) -> None:
    history, _ = Simulation(Hyperband(RUNGS, max_trials=20), noisy(0), 3).run()
    longer = Hyperband(RUNGS, max_trials=max_trials)
    history, _ = Simulation(longer, noisy(0), 3).run(history)
    assert history.num_started() == max_trials
    for bracket in longer.brackets:
        assert history.num_started(bracket.bracket) >= bracket.max_trials
        assert len(history.rung(27, bracket.bracket).arrivals) >= bracket.sizes[-1]


def test_a_straggler_does_not_hold_up_other_brackets() -> None:
    """The first job of the first bracket never ends; all that does not wait for it does."""
    scheduler, history = Hyperband(RUNGS, max_trials=98), new_history(27)
    decision = scheduler.next(history)
    while isinstance(decision, StartNew | Resume):
        submit(history, decision)
        if len(history.jobs) > 1:
            finish(history, history.jobs[-1], float(history.jobs[-1].job_id))
        decision = scheduler.next(history)
    assert decision == Wait()
    assert [len(history.rung(27, number).arrivals) for number in range(8)] == [0, 1, 2, 4, 1, 1, 2, 4]
