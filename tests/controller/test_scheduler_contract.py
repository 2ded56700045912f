"""What every scheduler must keep to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from controller.events import Event
from controller.finalists import Finalists
from controller.history import History
from controller.samplers.evolution import EvolutionSampler
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.schedulers.async_hyperband import AsyncHyperband
from controller.schedulers.full_budget import FullBudget
from controller.schedulers.hyperband import Hyperband
from controller.schedulers.median_stopping import MedianStopping
from controller.schedulers.mo_asha import MOASHA
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.store import Store
from controller.strategy import Composed, Decision, InTurn, Resume, Strategy
from controller.trial import FailureKind, Job, Status
from search_spaces.space import Space

HORIZON = 27
SCHEDULERS: dict[str, Callable[[int], Any]] = {
    "full": FullBudget,
    "asha": lambda trials: ASHA((1, 3, 9, 27), max_trials=trials),
    "asha-capped": lambda trials: ASHA((1, 3, 9, 27), max_trials=trials, cap_promotions=True),
    "asha-2": lambda trials: ASHA((7, 14, 27), max_trials=trials, reduction_factor=2),
    "asha-4": lambda trials: ASHA((2, 27), max_trials=trials, reduction_factor=4),
    "asha-bracket": lambda trials: ASHA((1, 3, 9, 27), max_trials=trials, bracket=2),
    "asha-one-rung": lambda trials: ASHA((27,), max_trials=trials),
    "mo-asha": lambda trials: MOASHA((1, 3, 9, 27), max_trials=trials),
    "halving": lambda trials: SuccessiveHalving((1, 3, 9, 27), max_trials=trials),
    "hyperband": lambda trials: Hyperband((1, 3, 9, 27), max_trials=trials),
    "hyperband-in-turn": lambda trials: Hyperband((3, 9, 27), max_trials=trials, overlap=False, sizes="table"),
    "async-hyperband": lambda trials: AsyncHyperband((1, 3, 9, 27), max_trials=trials),
    "median": lambda trials: MedianStopping((1, 3, 9, 27), max_trials=trials),
    "median-average": lambda trials: MedianStopping(
        (1, 3, 9, 27), max_trials=trials, min_trials=1, grace_budget=3, compare="average"
    ),
}


@pytest.fixture(params=SCHEDULERS)
def make_scheduler(request: pytest.FixtureRequest) -> Callable[[int], Any]:
    return SCHEDULERS[request.param]


def some_fail(job: Job) -> FailureKind | None:
    kinds = (FailureKind.OOM, FailureKind.DIVERGED, FailureKind.CRASH)
    return kinds[job.job_id % 3] if job.job_id % 5 == 4 else None


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("trials", [1, 2, 20])  # the first two are fewer than eta
@pytest.mark.parametrize("fails", [lambda job: None, some_fail], ids=["", "failures"])
def test_everything_ends(
    study: Any, fake_task: Any, quality: Any, space: Space, make_scheduler: Any, workers: Any, trials: int, fails: Any
) -> None:
    strategy = Composed(RandomSampler(space), make_scheduler(trials))
    history = study(strategy, fake_task(quality, fails=fails), checked=True).run(workers)
    assert history.num_started() == len(history.trials) == trials
    assert not history.running
    for trial in history.trials:
        jobs = [job for job in history.jobs if job.trial_id == trial.trial_id]
        assert [job.from_budget for job in jobs] == [0, *(job.to_budget for job in jobs[:-1])]
        assert trial.status(HORIZON) in (Status.PAUSED, Status.COMPLETE, Status.FAILED)
    assert history.rung(HORIZON).arrivals or all(trial.failure for trial in history.trials)


def test_it_depends_on_the_seed_alone(
    study: Any, fake_task: Any, quality: Any, space: Space, make_scheduler: Any, project: Any
) -> None:
    def run(seed: int) -> Any:
        strategy = Composed(RandomSampler(space), make_scheduler(12))
        return project(study(strategy, fake_task(quality), seed=seed).run(2))

    assert run(1) == run(1)
    assert run(1) != run(2)


@dataclass(frozen=True)
class Strict:
    """Fails the test if a trial is resumed that was not retained ever since its last report."""

    inner: Strategy
    dropped: set[int]
    sizes: list[int]

    def next(self, history: History) -> Decision:
        decision = self.inner.next(history)
        if isinstance(decision, Resume):
            assert decision.trial_id not in self.dropped
        return decision

    def retain(self, history: History) -> set[int]:
        kept = self.inner.retain(history)
        idle = {trial.trial_id for trial in history.trials if trial.running is None}
        self.dropped.update(idle - kept)
        self.sizes.append(len(kept))
        return kept


class Shelf:
    """The checkpoints of a fake task, by trial."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def trials(self) -> set[int]:
        return {trial_id for trial_id, _ in self.task.checkpoints}

    def discard(self, trial_id: int) -> None:
        for key in [key for key in self.task.checkpoints if key[0] == trial_id]:
            del self.task.checkpoints[key]


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_resumed_was_retained(
    study: Any, fake_task: Any, space: Space, make_scheduler: Any, workers: int
) -> None:
    """With losses that say nothing about the next rung. A discarded checkpoint raises KeyError in the task."""
    for seed in range(3):
        noise = np.random.default_rng(seed)
        task = fake_task(lambda params, noise=noise: float(noise.random()))
        strategy = Strict(Composed(RandomSampler(space), make_scheduler(27)), set(), [])
        history = study(strategy, task, seed=seed).run(workers, checkpoints=Shelf(task))
        assert max(strategy.sizes) <= 27 // 2
        best = history.rung(HORIZON).ranking[0][1]
        assert (best, HORIZON) in task.checkpoints
        assert len(Shelf(task).trials()) <= 2  # the best; where brackets are ranked apart, of one and of all


class Killed(BaseException):
    """kill -9, as far as a process can do it to itself."""


class Deadly:
    """A store that lets so many commits through, then kills: just before the next one, or just after the last.

    The entries of one commit are in the journal together or not at all (test_store), so these are all the moments.
    """

    def __init__(self, store: Store, commits: int, *, after: bool) -> None:
        self.store = store
        self.left = commits
        self.after = after

    def append(self, events: Sequence[Event]) -> None:
        if self.left == 0:
            raise Killed
        self.store.append(events)
        self.left -= 1
        if self.left == 0 and self.after:
            raise Killed


def whole_search(space: Space) -> Strategy:
    sampler = EvolutionSampler(space, population_size=4, tournament_size=2)
    return InTurn([Composed(sampler, ASHA((1, 3, 9), max_trials=9)), Finalists(count=1, repeats=1)])


@pytest.mark.parametrize("after", [False, True], ids=["before-a-commit", "after-a-commit"])
def test_a_study_killed_at_any_commit_ends_as_if_it_had_not_been(
    study: Any, fake_task: Any, quality: Any, space: Space, project: Any, after: bool
) -> None:
    def fails(job: Job) -> FailureKind | None:
        return FailureKind.OOM if job.trial_id == 4 and job.to_budget == 3 else None

    default = {name: domain.decode(0.9) for name, domain in space.domains.items()}

    def make() -> Any:
        return study(whole_search(space), fake_task(quality, fails=fails), horizon=9)

    commits = 0

    class Counting(Deadly):
        def append(self, events: Sequence[Event]) -> None:
            nonlocal commits
            commits += 1
            self.store.append(events)

    whole = make().run(enqueue=[default], wrap=lambda store: Counting(store, 0, after=after))
    assert commits > 30
    expected = project(whole)
    assert whole.trials[4].failure is not None or len(whole.trials[4].reports) == 1
    for killed_at in range(commits):
        interrupted = make()
        with pytest.raises(Killed):
            interrupted.run(
                enqueue=[default],
                wrap=lambda store, killed_at=killed_at: Deadly(store, killed_at + after, after=after),
            )
        before = interrupted.replay()
        resumed = interrupted.run(enqueue=[default])
        assert project(resumed) == expected
        # What had been measured was not measured again: each job has one attempt, or two if it was open then.
        assert resumed.attempts == {job.job_id: 2 if job.job_id in before.running else 1 for job in resumed.jobs}


@pytest.mark.parametrize("workers", [2, 7])
def test_a_study_killed_again_and_again_ends(
    study: Any, fake_task: Any, quality: Any, space: Space, workers: int
) -> None:
    interrupted = study(whole_search(space), fake_task(quality), horizon=9)
    rng = np.random.default_rng(workers)
    kills = 0
    while True:
        try:
            history = interrupted.run(workers, wrap=lambda store: Deadly(store, int(rng.integers(1, 9)), after=False))
        except Killed:
            kills += 1
            continue
        break
    assert kills > 5
    assert not history.running
    assert history.num_started() == 9
    assert len({(job.trial_id, job.to_budget, job.split) for job in history.jobs}) == len(history.jobs)
    assert all(trial.tests for trial in history.repeats)
