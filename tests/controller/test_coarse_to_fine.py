from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from controller.events import JobCreated, Reported, TrialCreated
from controller.history import History
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.samplers.tpe import TPESampler
from controller.schedulers.asha import ASHA
from controller.schedulers.full_budget import FullBudget
from controller.schedulers.hyperband import Hyperband
from controller.strategies.coarse_to_fine import CoarseToFine, _Part
from controller.strategy import Composed, Done, Proposal, Start
from controller.trial import Continue, FailureKind, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float
from search_spaces.narrowing import narrowed
from search_spaces.space import Params, Space, SpaceError

SQUARE = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
RUNGS = (1, 3, 9)
WORKERS = pytest.mark.parametrize("workers", [None, 1, 3, 7])


def random_then_tpe(space: Space, first: int = 12, second: int = 9) -> CoarseToFine:
    return CoarseToFine(
        space,
        Composed(RandomSampler(space), ASHA(RUNGS, max_trials=first)),
        lambda box: Composed(TPESampler(box, num_startup=3), ASHA(RUNGS, max_trials=second)),
    )


def best_of_first(history: History, count: int) -> list[Params]:
    """The best trials of phase 1, the highest rung first."""
    ranked = [
        (-trial.budget, history.loss(trial.trial_id, trial.budget), trial.trial_id)
        for trial in history.trials
        if trial.labels["phase"] == 1 and trial.reports
    ]
    return [history.trials[trial_id].params for _, _, trial_id in sorted(ranked)[:count]]


@WORKERS
def test_the_second_search_begins_where_the_first_did_best(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: int | None
) -> None:
    strategy = random_then_tpe(space)
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(workers)
    assert [trial.labels["phase"] for trial in history.trials] == [1] * 12 + [2] * 9  # each counts its own
    box = narrowed(space, best_of_first(history, 3), 0.1)
    assert strategy.narrowed_space(history) == box
    assert box != space
    outside = 0
    for trial in history.trials[12:]:
        box.validate(trial.params)
    for trial in history.trials[:12]:
        outside += not inside(box, trial.params)
    assert outside > 0


def inside(space: Space, params: Params) -> bool:
    try:
        space.validate(params)
    except SpaceError:
        return False
    return True


@WORKERS
def test_the_second_search_waits_for_the_first_and_leaves_its_trials_alone(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: int | None
) -> None:
    history = study(random_then_tpe(space), fake_task(quality), horizon=9).run(workers)
    begin = next(job.job_id for job in history.jobs if job.trial_id == 12)
    assert all((job.trial_id >= 12) == (job.job_id >= begin) for job in history.jobs)
    assert len(history.rung(1).ranking) == 21
    of_second = [trial for trial in history.trials[12:] if 9 in trial.reports]
    assert of_second  # it has rungs of its own, in which it promotes its own


@pytest.mark.parametrize("scheduler", ["full", "hyperband"])
def test_it_composes_with_other_schedulers(
    study: Any, fake_task: Any, quality: Any, space: Space, scheduler: str
) -> None:
    def make(count: int) -> Any:
        return FullBudget(count) if scheduler == "full" else Hyperband(RUNGS, max_trials=count)

    strategy = CoarseToFine(
        space, Composed(RandomSampler(space), make(20)), lambda box: Composed(EvolutionSampler(box), make(17))
    )
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(3)
    assert [trial.labels["phase"] for trial in history.trials] == [1] * 20 + [2] * 17
    alone = study(Composed(RandomSampler(space), make(17)), fake_task(quality), horizon=9).run(1)
    starts = [[job.to_budget for job in one.jobs if job.source is None] for one in (history, alone)]
    assert sorted(starts[0][20:]) == sorted(starts[1])  # the same brackets as by itself


def test_what_the_first_trials_measure_later_changes_nothing(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    history = study(random_then_tpe(space), fake_task(quality), horizon=9).run(2)
    box = random_then_tpe(space).narrowed_space(history)
    paused = next(trial for trial in history.trials[:12] if trial.budget == 1 and not inside_box(box, trial.params))
    job_id = len(history.jobs)
    history.apply(JobCreated(job_id, paused.trial_id, 1, 9, Continue(paused.trial_id, 1)))
    history.apply(Reported(Report(job_id, 9, {"loss": -100.0}, 1.0)))
    assert history.best() is paused
    assert random_then_tpe(space).narrowed_space(history) == box


def inside_box(box: Space | None, params: Params) -> bool:
    assert box is not None
    return inside(box, params)


@dataclass
class Spy:
    """A random sampler that notes which trials it sees."""

    space: Space
    seen: list[set[int]] = field(default_factory=list)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        found = {trial_id for budget in history.budgets for trial_id in history.rung(budget).arrivals}
        assert history.num_started() >= len(found)
        best = history.best()
        assert (best.trial_id in found) if best is not None else not found
        self.seen.append(found)
        return RandomSampler(self.space).propose(history, rng)


def test_the_second_sampler_sees_the_trials_of_both_that_lie_in_its_space(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    spies: list[Spy] = []

    def second(box: Space) -> Composed:
        spies.append(Spy(box))
        return Composed(spies[-1], ASHA(RUNGS, max_trials=6))

    strategy = CoarseToFine(space, Composed(RandomSampler(space), ASHA(RUNGS, max_trials=30)), second)
    history = study(strategy, fake_task(quality), horizon=9).run(2)
    (spy,) = spies  # made once
    within = {trial.trial_id for trial in history.trials[:30] if inside(spy.space, trial.params)}
    assert 0 < len(within) < 30
    assert spy.seen[0] == within
    assert all(within <= seen for seen in spy.seen)
    assert spy.seen[-1] - within


def test_where_the_whole_first_search_fails_the_second_has_the_whole_space(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    strategy = random_then_tpe(space)
    task = fake_task(quality, fails=lambda job: FailureKind.OOM if job.trial_id < 12 else None)
    history = study(strategy, task, horizon=9, checked=True).run(3)
    assert len(history.trials) == 21
    assert strategy.narrowed_space(history) == space
    best = history.best()
    assert best is not None
    assert best.labels["phase"] == 2


def test_what_somebody_wants_tried_in_the_second_search_may_lie_outside_its_space(
    study: Any, fake_task: Any, quality: Any, space: Space
) -> None:
    strategy = CoarseToFine(
        space,
        Composed(RandomSampler(space), FullBudget(10)),
        lambda box: Composed(EvolutionSampler(box, population_size=4, random_probability=0.0), FullBudget(12)),
    )
    corners = [{name: domain.decode(place) for name, domain in space.domains.items()} for place in (0.01, 0.99)]
    wanted = [dict(RandomSampler(space).propose(None, np.random.default_rng(i)).params) for i in range(10)]  # type: ignore[arg-type]
    history = study(strategy, fake_task(quality), horizon=9, checked=True).run(2, enqueue=[*wanted, *corners])
    assert [trial.labels["phase"] for trial in history.trials] == [1] * 10 + [2] * 12
    assert [trial.params for trial in history.trials[:12]] == [*wanted, *corners]
    box = strategy.narrowed_space(history)
    assert not all(inside_box(box, params) for params in corners)
    assert all(inside_box(box, trial.params) for trial in history.trials[12:])  # no child of these


def test_choices_that_did_badly_are_dropped_with_what_depends_on_them() -> None:
    space = Space(
        {"kind": Choice(("good", "bad")), "x": Float(0, 1), "extra": Float(0, 1)},
        conditions=(OneOf("extra", "kind", ("bad",)),),
    )

    def loss(params: Params) -> float:
        return abs(float(params["x"]) - 0.5) + (params["kind"] == "bad")

    strategy = CoarseToFine(
        space, Composed(RandomSampler(space), FullBudget(20)), lambda box: Composed(RandomSampler(box), FullBudget(10))
    )
    history = search(strategy, loss, 0)
    assert {trial.params["kind"] for trial in history.trials[:20]} == {"good", "bad"}
    assert {trial.params["kind"] for trial in history.trials[20:]} == {"good"}
    assert all("extra" not in trial.params for trial in history.trials[20:])


def search(strategy: Any, loss: Any, seed: int) -> History:
    """Trials one after the other, all to the full budget."""
    history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
    while not isinstance(decision := strategy.next(history), Done):
        assert isinstance(decision, Start)
        job_id = len(history.jobs)
        history.apply(TrialCreated(len(history.trials), decision.params, 0, None, decision.labels))
        history.apply(JobCreated(job_id, len(history.trials) - 1, 0, 1))
        history.apply(Reported(Report(job_id, 1, {"loss": loss(decision.params)}, 1.0)))
    return history


def test_it_finds_more_than_one_search_of_the_same_length() -> None:
    def bowl(params: Params) -> float:
        return (float(params["x"]) - 0.3) ** 2 + (float(params["y"]) - 0.8) ** 2

    def best(strategy: Any, seed: int) -> float:
        history = search(strategy, bowl, seed)
        assert len(history.trials) == 40
        return history.rung(1).ranking[0][0]

    two = [
        best(
            CoarseToFine(
                SQUARE,
                Composed(RandomSampler(SQUARE), FullBudget(20)),
                lambda box: Composed(RandomSampler(box), FullBudget(20)),
                min_best=2,
                best_share=0.1,
            ),
            seed,
        )
        for seed in range(20)
    ]
    one = [best(Composed(RandomSampler(SQUARE), FullBudget(40)), seed) for seed in range(20)]
    assert np.median(two) < 0.7 * np.median(one)


def test_the_best_checkpoints_of_both_are_kept(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    strategy = random_then_tpe(space)
    history = study(strategy, fake_task(quality), horizon=9).run(2)
    top = [trial_id for _, trial_id in history.rung(9).ranking]
    best = {next(one for one in top if one < 12), next(one for one in top if one >= 12)}
    assert strategy.retain(history) == best


def test_a_part_that_hides_nothing_is_the_whole(study: Any, fake_task: Any, quality: Any, space: Space) -> None:
    checked = 0

    class Watching:
        def __init__(self) -> None:
            self.inner = Composed(RandomSampler(space), Hyperband(RUNGS, max_trials=20))
            self.part: Any = None

        def next(self, history: History) -> Any:
            nonlocal checked
            self.part = self.part or _Part(history, lambda trial: False)
            assert self.part.budgets == history.budgets
            assert self.part.best() is history.best()
            assert self.part.searching == history.searching
            assert self.part.trials is history.trials
            for bracket in (None, 0, 1, 2):
                assert self.part.num_started(bracket) == history.num_started(bracket)
                for budget in RUNGS:
                    assert self.part.rung(budget, bracket) == history.rung(budget, bracket)
            checked += 1
            return self.inner.next(history)

        def retain(self, history: History) -> set[int]:
            return self.inner.retain(history)

    task = fake_task(quality, fails=lambda job: FailureKind.OOM if job.job_id % 5 == 1 else None)
    study(Watching(), task, horizon=9).run(4)
    assert checked > 30


@pytest.mark.parametrize(
    "options", [{"best_share": 0.0}, {"best_share": 1.1}, {"min_best": 0}, {"margin": -0.1}, {"margin": 1.0}]
)
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    first = Composed(RandomSampler(SQUARE), FullBudget(3))
    with pytest.raises(ValueError, match=r"expected best_share in \(0, 1\], min_best >= 1 and margin in \[0, 1\)"):
        CoarseToFine(SQUARE, first, lambda box: first, **options)
