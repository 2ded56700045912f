"""Five searches that the types of this package must be able to express, each a small strategy on a real journal.

Every strategy is a pure function of the history. `checked=True` asks it again about a history that is replayed from
disk before every decision, and fails if the two answers differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from controller.history import History
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.strategy import Composed, Decision, Done, Resume, Start, Wait
from controller.trial import Continue, Inherit, Job, Trial
from search_spaces.domains import Float
from search_spaces.space import Params, Space

RATE = "optimizer.learning_rate"
ONE_OR_MORE = pytest.mark.parametrize("workers", [None, 1, 3])  # None: inline, else that many at a time


# (a) Hyperband: three brackets share one history.


@dataclass(frozen=True)
class Hyperband:
    """Brackets of successive halving that start at different rungs (Li et al. 2018, arXiv:1603.06560)."""

    brackets: Sequence[Composed]

    def next(self, history: History) -> Decision:
        decisions = [bracket.next(history) for bracket in self.brackets]
        for decision in decisions:
            if isinstance(decision, Start | Resume):
                return decision
        return Wait() if any(isinstance(decision, Wait) for decision in decisions) else Done("all brackets are done")

    def retain(self, history: History) -> set[int]:
        return set().union(*(bracket.retain(history) for bracket in self.brackets))


@ONE_OR_MORE
def test_hyperband_brackets_share_a_history(
    study: Any, fake_task: Any, space: Space, quality: Any, workers: Any
) -> None:
    budgets, sizes = (1, 3, 9), (9, 5, 3)
    brackets = [
        Composed(RandomSampler(space), ASHA(budgets[level:], max_trials=size, bracket=level))
        for level, size in enumerate(sizes)
    ]
    history = study(Hyperband(brackets), fake_task(quality), horizon=9, checked=True).run(workers)

    assert [history.num_started(level) for level in range(3)] == [9, 5, 3]
    assert history.num_started() == 17
    for trial in history.trials:
        level = trial.labels["bracket"]
        assert next(iter(trial.reports)) == budgets[level]  # it starts at the lowest rung of its bracket ...
        for budget in trial.reports:  # ... and is ranked among its own, and among all
            for bracket in (level, None):
                assert (history.loss(trial.trial_id, budget), trial.trial_id) in history.rung(budget, bracket).ranking
    assert [len(history.rung(budgets[level], level).ranking) for level in range(3)] == [9, 5, 3]
    assert all(history.rung(9, level).arrivals for level in range(3))
    assert len(history.rung(9).ranking) == sum(len(history.rung(9, level).ranking) for level in range(3))


# (b) DEHB: a subpopulation per rung, rebuilt from the history.


@dataclass(frozen=True)
class DEHB:
    """Differential evolution with a subpopulation per rung (Awad et al. 2021, arXiv:2105.09821).

    A trial challenges the owner of the slot that is its label, at its rung; it becomes the owner if it is better.
    Its parents own slots of the rung below, or of the lowest one. Rungs are filled one after the other.
    """

    space: Space
    budgets: tuple[int, ...]
    slots: int
    generations: int

    def next(self, history: History) -> Decision:
        number = history.num_started()
        turn, slot = divmod(number, self.slots)
        level = turn % len(self.budgets)
        if turn == self.generations * len(self.budgets):
            return Wait() if history.running else Done("all generations are done")
        if slot == 0 and history.running:
            return Wait()
        rng = history.generator()
        if turn == 0:
            params: Params = self.space.sample(rng)
        else:
            parents = self.subpopulation(history, max(0, level - 1))
            owners = parents if turn < len(self.budgets) else self.subpopulation(history, level)
            params = self._mutant(history, owners[slot], parents, rng)
        return Start(params, self.budgets[level], labels={"level": level, "slot": slot})

    def retain(self, history: History) -> set[int]:
        return set()  # every trial starts from the base model

    def subpopulation(self, history: History, level: int) -> list[int]:
        """The owners of the slots of a rung, as far as its trials have reported."""
        owners: dict[int, int] = {}
        budget = self.budgets[level]
        for challenger in history.rung(budget).arrivals:
            slot = int(history.trials[challenger].labels["slot"])
            owner = owners.get(slot, challenger)
            owners[slot] = challenger if history.loss(challenger, budget) < history.loss(owner, budget) else owner
        return [owner for _, owner in sorted(owners.items())]

    def _mutant(self, history: History, target: int, parents: Sequence[int], rng: np.random.Generator) -> Params:
        drawn = rng.choice(np.array(parents), 3, replace=False)
        first, second, third = (self.space.encode(history.trials[int(trial_id)].params) for trial_id in drawn)
        mutant = np.clip(first + 0.5 * (second - third), 0.0, 1.0)
        kept = rng.random(len(mutant)) < 0.5
        return self.space.decode(np.where(kept, self.space.encode(history.trials[target].params), mutant))


@ONE_OR_MORE
def test_dehb_rebuilds_a_subpopulation_per_rung(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: Any
) -> None:
    strategy = DEHB(space, budgets=(1, 3, 9), slots=4, generations=3)
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(workers)

    assert history.num_started() == 3 * 3 * 4
    for level, budget in enumerate(strategy.budgets):
        owners = strategy.subpopulation(history, level)
        assert len(owners) == 4
        for slot, owner in enumerate(owners):
            challengers = [t for t in history.trials if t.labels == {"level": level, "slot": slot}]
            assert len(challengers) == 3
            assert history.loss(owner, budget) == min(history.loss(t.trial_id, budget) for t in challengers)
    # An evolved generation is better than the random one that it began with.
    first = [history.loss(t.trial_id, 1) for t in history.trials[:4]]
    assert np.mean([history.loss(owner, 1) for owner in strategy.subpopulation(history, 0)]) < np.mean(first)


# (c) Population-based training: exploit by Continue, explore by another learning rate.


@dataclass(frozen=True)
class PopulationBasedTraining:
    """Members train in steps; after each, the worst goes on from the best (Jaderberg et al. 2017, arXiv:1711.09846)."""

    rates: tuple[float, ...]
    step: int

    def next(self, history: History) -> Decision:
        if len(history.trials) < len(self.rates):
            return Start({RATE: self.rates[len(history.trials)]}, self.step, labels={"member": len(history.trials)})
        members = self.members(history)
        level = max(trial.running.to_budget if trial.running else trial.budget for trial in members)
        behind = [trial for trial in members if trial.running is None and trial.budget < level]
        if behind:
            return Resume(behind[0].trial_id, level)
        if history.running:
            return Wait()
        if level == history.horizon:
            return Done("the population is trained")
        best, *_, worst = sorted(members, key=lambda trial: history.loss(trial.trial_id, level))
        rate = float(best.params[RATE]) * float(history.generator().choice([0.8, 1.25]))
        source = Continue(best.trial_id, level)
        return Start({RATE: rate}, level + self.step, source, labels={"member": worst.labels["member"]})

    def retain(self, history: History) -> set[int]:
        return {trial.trial_id for trial in self.members(history)}

    def members(self, history: History) -> list[Trial]:
        """The youngest trial of each member."""
        return list({trial.labels["member"]: trial for trial in history.trials}.values())


@ONE_OR_MORE
def test_population_based_training_continues_from_the_best(study: Any, fake_task: Any, workers: Any) -> None:
    task = fake_task()
    population = PopulationBasedTraining(rates=(0.001, 0.02, 0.05, 0.1), step=3)
    history = study(population, task, horizon=12, checked=True).run(workers)

    exploits = [trial for trial in history.trials if trial.source is not None]
    assert len(exploits) == 3  # after budgets 3, 6 and 9
    for trial in exploits:
        parent = history.trials[trial.source.trial_id]
        first = next(job for job in history.jobs if job.trial_id == trial.trial_id)
        assert first.source == trial.source == Continue(parent.trial_id, first.from_budget)
        assert first.from_budget > 0
        assert first.horizon == 12
        assert trial.params[RATE] != parent.params[RATE]
        assert parent.trial_id == min(
            (t.trial_id for t in history.trials if first.from_budget in t.reports and t.trial_id < trial.trial_id),
            key=lambda trial_id: history.loss(trial_id, first.from_budget),
        )
        # Its loss is that of one run that went through both rates, momentum and place in the schedule kept.
        assert history.loss(trial.trial_id, first.to_budget) == pytest.approx(
            _loss_of_path(task, [*_path_to(history, parent, first.from_budget), (trial.params, first.to_budget)]),
            rel=1e-12,
        )
        lineage = history.lineage(trial.trial_id)
        assert sum(ancestor.trained for ancestor in lineage) == first.from_budget
        assert sum(ancestor.seconds for ancestor in lineage) == first.from_budget  # the fake task takes 1 s a unit
    assert {trial.budget for trial in population.members(history)} == {12}


def _path_to(history: History, trial: Trial, budget: int) -> list[tuple[Params, int]]:
    """(parameters, budget up to which they were used) of the run that a trial's weights went through."""
    if trial.source is None:
        return [(trial.params, budget)]
    earlier = _path_to(history, history.trials[trial.source.trial_id], trial.source.budget)
    return [*earlier, (trial.params, budget)]


def _loss_of_path(task: Any, path: list[tuple[Params, int]], horizon: int = 12) -> float:
    state = task.load(Job(0, 0, {}, 0, 0, 1, horizon))
    for params, budget in path:
        state = task.train(Job(0, 0, params, 0, 0, budget, horizon), state, budget)
    return abs(state.weight)


# (d) A child that inherits the weights of its parent.


@dataclass(frozen=True)
class Generations:
    """Each generation starts at 0 with the weights that the one before it had after `hand_on`, then trains on."""

    rates: tuple[float, ...]
    hand_on: int

    def next(self, history: History) -> Decision:
        if history.running:
            return Wait()
        youngest = len(history.trials) - 1
        if len(history.trials) < len(self.rates):
            source = Inherit(youngest, self.hand_on) if history.trials else None
            return Start({RATE: self.rates[youngest + 1]}, self.hand_on, source)
        for trial in history.trials:
            if trial.budget < history.horizon:
                return Resume(trial.trial_id, history.horizon)
        return Done("all generations are trained")

    def retain(self, history: History) -> set[int]:
        return {trial.trial_id for trial in history.trials}


@ONE_OR_MORE
def test_a_child_inherits_weights_and_starts_at_zero(study: Any, fake_task: Any, workers: Any) -> None:
    task = fake_task()
    strategy = Generations(rates=(0.01, 0.02, 0.03), hand_on=4)
    history = study(strategy, task, horizon=12, checked=True).run(workers)

    grandparent, parent, child = history.trials
    assert child.source == Inherit(1, 4)
    first, second = (job for job in history.jobs if job.trial_id == child.trial_id)
    assert (first.from_budget, first.to_budget, first.source) == (0, 4, Inherit(1, 4))
    assert (second.from_budget, second.to_budget, second.source) == (4, 12, Continue(2, 4))

    # Parent and grandparent have gone on to 12 since; the child owes them what they cost when they handed on.
    assert parent.seconds == 12
    assert [(ancestor.trial, ancestor.budget) for ancestor in history.lineage(2)] == [(parent, 4), (grandparent, 4)]
    assert [(ancestor.trained, ancestor.seconds) for ancestor in history.lineage(2)] == [(4, 4.0), (4, 4.0)]
    assert history.lineage(0) == []

    # Weights only: momentum and schedule begin again, which gives another loss than to continue does.
    inherited = task.load(Job(0, 9, child.params, 0, 0, 4, 12, Inherit(1, 4)))
    continued = task.load(Job(0, 9, child.params, 0, 4, 8, 12, Continue(1, 4)))
    assert inherited.weight == continued.weight
    assert (inherited.momentum, inherited.position) == (0.0, 0)
    assert history.loss(2, 4) == abs(task.train(first, inherited, 4).weight)
    assert history.loss(2, 4) != abs(task.train(first, continued, 8).weight)


# (e) A worker that hosts several trials.


def _losses(history: History) -> list[float]:
    return [history.loss(trial.trial_id, 9) for trial in history.trials]


@pytest.fixture
def one_rate() -> Space:
    return Space({RATE: Float(0.001, 0.1, log=True)})


def test_a_job_joins_a_worker_in_the_middle_of_two_others(study: Any, fake_task: Any, one_rate: Space) -> None:
    strategy = Composed(RandomSampler(one_rate), FullBudget(max_trials=3))
    packed, alone = fake_task(slots=3), fake_task()
    history = study(strategy, packed, horizon=9, checked=True).run(capacity=3)

    assert packed.hosted[:3] == [[0], [0, 1], [0, 1, 2]]
    assert packed.hosted[-1] == [2]  # it goes on when the two have left
    assert _losses(history) == _losses(study(strategy, alone, horizon=9).run())
    assert max(map(len, alone.hosted)) == 1


def test_a_declined_job_goes_back_and_is_taken_later(study: Any, fake_task: Any, one_rate: Space) -> None:
    strategy = Composed(RandomSampler(one_rate), FullBudget(max_trials=5))
    task = fake_task(slots=3, fits=lambda job, hosted: job.trial_id != 2)
    history = study(strategy, task, horizon=9, checked=True).run(capacity=3)

    assert [0, 1] in task.hosted
    assert [2] in task.hosted
    assert not any(2 in hosted and hosted[0] != 2 for hosted in task.hosted)  # it never joined others
    assert _losses(history) == _losses(study(strategy, fake_task(), horizon=9).run())
    assert history.attempts == dict.fromkeys(range(5), 1)  # to be declined is no failed attempt
