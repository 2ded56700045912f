from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from controller.history import History
from controller.pareto import front_of, non_dominated_ranks
from controller.schedulers.asha import ASHA
from controller.schedulers.mo_asha import MOASHA, _Fronts, epsilon_net
from controller.strategy import Done, StartNew
from tests.controller.scheduler_simulation import Compared, Discarding, Loss, Move, Simulation, noisy

RUNGS = (1, 3, 9, 27)
Row = Sequence[float]


def dominates(one: Row, other: Row) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def net(front: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """An epsilon net as Salinas et al. 2021 (arXiv:2106.05680) describe it, on objectives scaled to the front."""
    columns = list(zip(*(losses for losses, _ in front), strict=True))
    spans = [max(column) - min(column) or 1.0 for column in columns]

    def distance(one: Row, other: Row) -> float:
        return math.hypot(*((a - b) / span for a, b, span in zip(one, other, spans, strict=True)))

    order = [min(front)]
    rest = sorted((entry for entry in front if entry != order[0]), key=lambda entry: entry[1])
    while rest:
        order.append(max(rest, key=lambda entry: min(distance(entry[0], chosen[0]) for chosen in order)))
        rest.remove(order[-1])
    return order


@dataclass
class Reference:
    """ASHA's `get_job` with the ranking of Schmucker et al. 2021, from nothing but the reports of the trials."""

    budgets: tuple[int, ...]
    eta: int
    max_trials: int

    def get_job(self, history: History) -> Move | None:
        """(trial, budget) of the job that is due."""
        best_paused = None
        for budget, above in reversed(list(pairwise(self.budgets))):
            measured = [(history.losses(t.trial_id, budget), t.trial_id) for t in history.trials if budget in t.reports]
            failed = [t for t in history.trials if t.failure and history.jobs[t.failure.job_id].to_budget == budget]
            paused = {t.trial_id for t in history.trials if t.budget == budget and not t.running and not t.failure}
            for _, trial_id in self._order(measured)[: (len(measured) + len(failed)) // self.eta]:
                if trial_id in paused:
                    return trial_id, above
            if paused and best_paused is None:
                best_paused = min((losses[0], t) for losses, t in measured if t in paused)[1], above
        if len(history.trials) < self.max_trials:
            return len(history.trials), self.budgets[0]
        if history.running or any(self.budgets[-1] in trial.reports for trial in history.trials):
            return None
        return best_paused

    def _order(self, rest: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
        order: list[tuple[Row, int]] = []
        while rest:
            front = [entry for entry in rest if not any(dominates(other[0], entry[0]) for other in rest)]
            order += net(front)
            rest = [entry for entry in rest if entry not in front]
        return order


@pytest.mark.parametrize("failing", [0.0, 0.3])
@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("objectives", [2, 3])
def test_it_equals_the_reference_for_every_seed(objectives: int, workers: int, failing: float) -> None:
    for seed in range(6):
        eta, max_trials = 2 + seed % 2, 1 + 8 * seed
        budgets = (1, eta, eta**2)
        compared = Compared(
            MOASHA(budgets, max_trials=max_trials, reduction_factor=eta), Reference(budgets, eta, max_trials)
        )
        loss = noisy(seed, failing=failing, objectives=objectives)
        history, _ = Simulation(compared, loss, workers, seed, objectives=objectives).run()
        assert history.num_started() == max_trials


def in_steps(loss: Loss) -> Loss:
    """The same losses rounded, so that there are ties."""

    def rounded(trial: int, budget: int) -> Any:
        value = loss(trial, budget)
        return None if value is None else [round(4 * one) / 4 for one in value]  # type: ignore[union-attr]

    return rounded


@pytest.mark.parametrize("spread", ["epsilon-net", "crowding"])
@pytest.mark.parametrize("ties", [False, True])
def test_with_one_objective_it_is_asha(spread: Any, ties: bool) -> None:
    for seed in range(14):
        options: dict[str, Any] = {"max_trials": 1 + 3 * seed, "reduction_factor": 2 + seed % 3}
        loss = noisy(seed, failing=(0.0, 0.2)[seed % 2], objectives=1)
        loss = in_steps(loss) if ties else loss
        scheduler, asha = MOASHA(RUNGS, spread=spread, **options), ASHA(RUNGS, **options)

        def check(history: History, scheduler: MOASHA = scheduler, asha: ASHA = asha, ties: bool = ties) -> None:
            decision = asha.next(history)
            assert type(scheduler.next(history)) is type(decision)
            if not isinstance(decision, Done):
                assert scheduler.next(history) == decision
            assert scheduler.retain(history) >= asha.retain(history)
            assert ties or scheduler.retain(history) == asha.retain(history)

        Simulation(scheduler, loss, 1 + seed % 4, seed, on_result=check).run()


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_fronts_are_kept_up_as_results_come_in(objectives: int, ties: bool) -> None:
    rng = np.random.default_rng(objectives)
    for _ in range(6):
        losses = rng.random((60, objectives))
        losses = np.round(4 * losses) / 4 if ties else losses
        fronts = _Fronts(objectives, "epsilon-net")
        row = 0
        while row < len(losses):
            count = int(rng.choice([1, 1, 2, 30]))
            fronts.extend(range(row, row + len(losses[row : row + count])), losses[row : row + count])
            row += count
            assert fronts._ranks.tolist() == non_dominated_ranks(losses[:row]).tolist()
            counted = [sum(dominates(other, one) for other in losses[:row].tolist()) for one in losses[:row].tolist()]
            assert fronts._dominators.tolist() == counted


def test_an_epsilon_net_starts_at_the_best_and_takes_the_furthest() -> None:
    front = np.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0], [0.2, 0.8], [0.9, 0.1]])
    assert list(epsilon_net(front)) == [1, 2, 0, 3, 4]
    assert list(epsilon_net(front * [1.0, 1000.0])) == [1, 2, 0, 3, 4]
    assert list(epsilon_net(np.array([[1.0], [0.0], [0.0], [1.0]]))) == [1, 0, 2, 3]
    assert list(epsilon_net(np.ones((3, 2)))) == [0, 1, 2]
    assert list(epsilon_net(np.ones((1, 2)))) == [0]


def test_a_front_that_is_cut_is_cut_evenly() -> None:
    """27 trials on one front, of which 9 go on: they reach from end to end, and no gap is much over a step."""
    for spread in ("epsilon-net", "crowding"):
        order = np.random.default_rng(0).permutation(27).tolist()

        def loss(trial: int, budget: int, order: list[int] = order) -> Sequence[float]:
            return [float(order[trial]), float(-order[trial])]

        scheduler = MOASHA((9, 27), max_trials=27, spread=spread)  # type: ignore[arg-type]
        history, _ = Simulation(scheduler, loss, 27, objectives=2).run()
        places = sorted(order[trial] for trial in history.rung(27).arrivals)
        assert len(places) >= 9
        assert (places[0], places[-1]) == (0, 26)
        assert max(high - low for low, high in pairwise(places)) <= 7


@pytest.mark.parametrize("spread", ["epsilon-net", "crowding"])
def test_units_of_an_objective_do_not_matter(spread: Any) -> None:
    moves = []
    for unit in (1.0, 1024.0):
        loss = noisy(0, objectives=2)
        simulation = Simulation(
            MOASHA(RUNGS, max_trials=40, spread=spread),
            lambda t, b, unit=unit, loss=loss: [loss(t, b)[0], unit * loss(t, b)[1]],  # type: ignore[misc, index]
            3,
            objectives=2,
        )
        moves.append(simulation.run()[1])
    assert moves[0] == moves[1]


def test_the_ends_of_a_trade_off_are_both_promoted() -> None:
    """Ranked by the first objective alone the trials that are best in the second would never go on."""

    def loss(trial: int, budget: int) -> Sequence[float]:
        return [trial % 9 + 1 / budget, 8 - trial % 9 + 1 / budget + 0.01 * (trial // 9)]

    history, _ = Simulation(MOASHA(RUNGS, max_trials=27), loss, 3, objectives=2).run()
    assert {trial % 9 for trial in history.rung(3).arrivals} >= {0, 8}
    alone, _ = Simulation(ASHA(RUNGS, max_trials=27), loss, 3, objectives=2).run()
    assert 8 not in {trial % 9 for trial in alone.rung(3).arrivals}


@pytest.mark.parametrize("workers", [1, 7, 64])
@pytest.mark.parametrize("max_trials", [1, 2, 3])
def test_fewer_trials_than_eta_still_train_one_to_the_end(workers: int, max_trials: int) -> None:
    scheduler = MOASHA(RUNGS, max_trials=max_trials, reduction_factor=4)
    history, _ = Simulation(scheduler, lambda trial, budget: [float(trial), -float(trial)], workers, objectives=2).run()
    assert history.rung(27).arrivals == [0]


def test_it_ends_when_everything_fails() -> None:
    history, moves = Simulation(MOASHA(RUNGS, max_trials=10), lambda trial, budget: None, 3, objectives=2).run()
    assert len(moves) == 10
    assert history.best() is None
    assert MOASHA(RUNGS, max_trials=10).retain(history) == set()


def test_trials_that_are_all_equal_go_by_age() -> None:
    history, moves = Simulation(MOASHA(RUNGS, max_trials=9), lambda trial, budget: [1.0, 1.0], objectives=2).run()
    assert [trial for trial, budget in moves if budget == 3] == [0, 1, 2]
    assert history.rung(9).arrivals == [0]


@pytest.mark.parametrize("spread", ["epsilon-net", "crowding"])
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_what_is_resumed_was_retained(objectives: int, spread: Any) -> None:
    for seed in range(12):
        scheduler = MOASHA(RUNGS, max_trials=1 + 5 * seed, reduction_factor=2 + seed % 3, spread=spread, keep=1)
        shelf = Discarding(scheduler)
        simulation = Simulation(scheduler, noisy(seed, objectives=objectives), 1 + seed % 5, seed)
        simulation.objectives, simulation.on_result, simulation.on_move = objectives, shelf.on_result, shelf.on_move
        history, _ = simulation.run()
        assert not shelf.missed
        assert shelf.sizes[-1] <= len(history.rung(27).arrivals)
        # In the end the trade-offs at the full budget are kept, and nothing else.
        assert scheduler.retain(history) == {trial.trial_id for trial in front_of(history)}


def test_keep_adds_to_the_first_front() -> None:
    scheduler = MOASHA((9, 27), max_trials=30, reduction_factor=2, keep=6)
    history, _ = Simulation(scheduler, noisy(0, objectives=2), objectives=2).run()
    front = {trial.trial_id for trial in front_of(history)}
    assert len(front) < 6
    assert front < scheduler.retain(history)
    assert len(scheduler.retain(history)) == 6


def test_only_its_own_bracket_counts() -> None:
    scheduler = MOASHA((1, 3), max_trials=6, bracket=1)
    history, _ = Simulation(scheduler, noisy(0, objectives=2), objectives=2).run()
    assert history.num_started(1) == 6
    other = MOASHA((1, 3), max_trials=6, bracket=2)
    assert other.next(history) == StartNew(1, {"bracket": 2})
    assert other.retain(history) == set()


def test_one_instance_answers_about_several_histories() -> None:
    """What it remembers of one must not reach the other."""
    scheduler = MOASHA(RUNGS, max_trials=20)
    done, _ = Simulation(scheduler, noisy(0, objectives=2), 2, objectives=2).run()
    other, _ = Simulation(scheduler, noisy(1, objectives=2), 3, objectives=2).run()
    for history in (done, other, done):
        assert scheduler.retain(history) == {trial.trial_id for trial in front_of(history)}


@pytest.mark.parametrize(
    ("budgets", "options", "expected"),
    [
        ((3, 1), {}, "strictly increasing rungs"),
        ((1, 3), {"reduction_factor": 1}, "reduction_factor >= 2"),
        ((1, 3), {"max_trials": 0}, "max_trials >= 1"),
        ((1, 3), {"spread": "evenly"}, "expected spread to be one of"),
    ],
)
def test_what_cannot_be_is_refused(budgets: tuple[int, ...], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MOASHA(budgets, **({"max_trials": 3} | options))
