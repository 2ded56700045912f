"""The indexed view of the journal: what every strategy decides from."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from controller.events import (
    AttemptFailed,
    AttemptStarted,
    Enqueued,
    Event,
    Failed,
    JobCreated,
    JournalError,
    Noted,
    Reported,
    SessionStarted,
    TrialCreated,
)
from controller.trial import Continue, Failure, Job, Objective, Report, Trial
from search_spaces.space import Params


@dataclass(slots=True)
class Rung:
    """The trials that were trained to one budget, kept in order as results come in.

    A failed trial counts in the rung it was heading for and ranks last: it is a result about its
    configuration, though one that can never be promoted.

    Attributes:
        ranking: (loss, trial id), best first; infinite loss for a failure. Ties go to the older trial.
        waiting: the measured ones among them that have no job beyond this rung, best first.
        arrivals: measured trials in the order in which their reports came.
        failed: the other ones of the ranking, in the order in which they failed.
        heading: how many trials are on their way here: the running jobs of the search that end at this rung.
    """

    ranking: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    heading: int = 0

    @property
    def promoted(self) -> int:
        """How many trials went on from here."""
        return len(self.ranking) - len(self.failed) - len(self.waiting)

    def rank(self, entry: tuple[float, int]) -> int:
        """Position of an entry of the ranking, from 0."""
        return bisect_left(self.ranking, entry)

    def waits(self, entry: tuple[float, int]) -> bool:
        """Whether an entry of the ranking is measured and has no job beyond this rung."""
        position = bisect_left(self.waiting, entry)
        return position < len(self.waiting) and self.waiting[position] == entry


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A trial whose weights another one builds on.

    Attributes:
        budget: the rung at which its weights were handed on.
        trained: the budget that it consumed itself to get there.
        seconds: what that cost, wall-clock.
    """

    trial: Trial
    budget: int
    trained: int
    seconds: float


Stage = Literal["search", "repeats", "tests"]


@dataclass(slots=True)
class Spent:
    """What the jobs of a stage have cost so far, failed attempts included. Running jobs count when they end.

    An attempt that was given up counts in full, also where the next one took up a checkpoint of it, so after
    crashes this is a little more than what was spent.

    Attributes:
        examples: the budget that was trained, without what trials took over from others.
        worker_seconds: wall-clock time of workers. With g GPUs a trial, GPU hours are g / 3600 times that.
    """

    examples: int = 0
    worker_seconds: float = 0.0


class History:
    """All that happened in a study, with indices that grow by one event at a time.

    Args:
        seed: the study's seed; all random numbers of the search derive from it.
        objectives: what is optimised. Rungs are ranked by the first.
        horizon: the full budget of a trial.

    Attributes:
        tests: the jobs on the test set, in the order of their creation.
        failures: the failures that ended a job for good, tests and repeats included.
        spent: what each stage has cost: the search, the repeats of finalists, the tests.
        sessions: how often a process took the study up.
        results: (trial id, rung) of the measurements of the search, in the order of their reports.
    """

    def __init__(self, *, seed: int, objectives: Sequence[Objective], horizon: int) -> None:
        if not objectives:
            raise ValueError("expected at least one objective, got none; name the metric to optimise")
        self.seed = seed
        self.objectives = tuple(objectives)
        self.horizon = horizon
        self.trials: list[Trial] = []
        self.repeats: list[Trial] = []
        self.jobs: list[Job] = []
        self.running: dict[int, Job] = {}
        self.attempts: dict[int, int] = {}
        self.failed_attempts: dict[int, list[Failure]] = {}
        self.failures: list[Failure] = []
        self.tests: list[Job] = []
        self.spent: dict[Stage, Spent] = {"search": Spent(), "repeats": Spent(), "tests": Spent()}
        self.sessions = 0
        self.results: list[tuple[int, int]] = []
        self.notes: list[Noted] = []
        self.queue: list[Params] = []
        self.queue_taken = 0
        self._started: dict[int | None, int] = {}
        self._rungs: dict[int | None, dict[int, Rung]] = {None: {}}
        self._seen: set[tuple[tuple[str, object], ...]] = set()
        self._losses: dict[tuple[int, int], float] = {}

    @classmethod
    def replay(cls, events: Iterable[Event], *, seed: int, objectives: Sequence[Objective], horizon: int) -> History:
        """The history that a journal adds up to."""
        history = cls(seed=seed, objectives=objectives, horizon=horizon)
        for event in events:
            history.apply(event)
        return history

    def apply(self, event: Event) -> None:
        """Take in one event. Raises JournalError if it does not follow from those before it."""
        match event:
            case Reported(report):
                self._apply_report(report)
            case Failed(failure):
                self._apply_failure(failure)
            case JobCreated():
                self._apply_job(event)
            case TrialCreated():
                self._apply_trial(event)
            case AttemptStarted(job_id, attempt):
                self._open_job(job_id)
                self.attempts[job_id] = attempt
            case AttemptFailed(failure):
                job = self._open_job(failure.job_id)
                self._spend(job, failure.budget, failure.seconds)
                self.failed_attempts.setdefault(failure.job_id, []).append(failure)
            case Noted():
                self.notes.append(event)
            case Enqueued(params):
                self.queue.append(params)
            case SessionStarted():
                self.sessions += 1

    def rung(self, budget: int, bracket: int | None = None) -> Rung:
        """The trials trained to `budget`: all, or those whose label `bracket` has the given number."""
        return self._rungs.get(bracket, {}).get(budget) or Rung()

    def num_started(self, bracket: int | None = None) -> int:
        """How many trials the search started, repeats not counted: all, or those of a bracket."""
        return self._started.get(bracket, 0)

    @property
    def budgets(self) -> list[int]:
        """The budgets of all rungs that hold a result, lowest first."""
        return sorted(budget for budget, rung in self._rungs[None].items() if rung.ranking)

    def loss(self, trial_id: int, budget: int) -> float:
        """First objective of a trial at a rung, as a loss. Raises KeyError if it was not measured."""
        return self._losses[trial_id, budget]

    def losses(self, trial_id: int, budget: int) -> tuple[float, ...]:
        """All objectives of a trial at a rung, as losses. Raises KeyError if it was not measured."""
        metrics = self.trials[trial_id].reports[budget].metrics
        return tuple(objective.loss(metrics) for objective in self.objectives)

    @property
    def examples(self) -> int:
        """What the search was trained on so far, see Spent."""
        return self.spent["search"].examples

    @property
    def worker_seconds(self) -> float:
        """What the search has cost so far, see Spent."""
        return self.spent["search"].worker_seconds

    @property
    def examples_underway(self) -> int:
        """What the running jobs of the search will have been trained on when they end."""
        return sum(job.to_budget - job.from_budget for job in self.searching)

    def stage_of(self, job: Job) -> Stage:
        """What a job is part of."""
        if job.split == "test":
            return "tests"
        return "search" if self.trials[job.trial_id].repeat_of is None else "repeats"

    def best(self) -> Trial | None:
        """The best trial of the highest rung that holds a measured one."""
        for budget in reversed(self.budgets):
            rung = self.rung(budget)
            if rung.arrivals:
                return self.trials[rung.ranking[0][1]]
        return None

    @property
    def searching(self) -> list[Job]:
        """The running jobs of the search, in the order of their creation: no repeats, no tests."""
        return [job for job in self.running.values() if self.stage_of(job) == "search"]

    def lineage(self, trial_id: int) -> list[Ancestor]:
        """The trials whose weights a trial builds on, nearest first: its source, the source of that, and so on.

        What they trained and what it cost counts up to the hand-over only, so that the sums over the
        lineage are what the trial's starting weights cost.
        """
        ancestors = []
        source = self.trials[trial_id].source
        while source is not None:
            trial = self.trials[source.trial_id]
            start = trial.source.budget if isinstance(trial.source, Continue) else 0
            seconds = sum(report.seconds for rung, report in trial.reports.items() if rung <= source.budget)
            ancestors.append(Ancestor(trial, source.budget, source.budget - start, seconds))
            source = trial.source
        return ancestors

    def next_queued(self) -> Params | None:
        """The configuration that somebody asked for and that no trial has taken yet."""
        return self.queue[self.queue_taken] if self.queue_taken < len(self.queue) else None

    def was_tried(self, params: Params) -> bool:
        """Whether a trial of the search has exactly these parameters."""
        return _key(params) in self._seen

    def generator(self, attempt: int = 0) -> np.random.Generator:
        """The random generator of the decision that is due, a function of (seed, decision, attempt).

        Decisions are numbered by the jobs that they created, so a study that was killed draws again
        what it would have drawn. `attempt` gives a fresh stream to redraw a proposal.
        """
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(0, len(self.jobs), attempt)))

    def trial_seed(self) -> int:
        """The training seed of the trial that is due, below 2**31."""
        return int(np.random.SeedSequence(self.seed, spawn_key=(1, len(self.trials))).generate_state(1)[0] >> 1)

    def _apply_trial(self, event: TrialCreated) -> None:
        if event.trial_id != len(self.trials):
            raise JournalError(f"expected trial {len(self.trials)} next in the journal, got trial {event.trial_id}")
        if event.source is not None and event.source.trial_id >= len(self.trials):
            raise JournalError(f"expected a source among the trials before it, got {event}")
        trial = Trial(event.trial_id, event.params, event.seed, event.source, event.labels, event.repeat_of)
        self.trials.append(trial)
        if event.enqueued:
            self.queue_taken += 1
        if event.repeat_of is not None:
            self.repeats.append(trial)
        else:
            self._seen.add(_key(event.params))
            for bracket in _brackets(event.labels):
                self._started[bracket] = self._started.get(bracket, 0) + 1

    def _apply_job(self, event: JobCreated) -> None:
        if event.job_id != len(self.jobs) or event.trial_id >= len(self.trials):
            raise JournalError(f"expected job {len(self.jobs)} of a known trial next in the journal, got {event}")
        trial = self.trials[event.trial_id]
        if trial.running is not None:
            raise JournalError(f"expected no job while trial {trial.trial_id} is running, got {event}")
        job = Job(
            event.job_id,
            event.trial_id,
            trial.params,
            trial.seed,
            event.from_budget,
            event.to_budget,
            self.horizon,
            event.source,
            event.split,
        )
        self.jobs.append(job)
        self.running[job.job_id] = job
        trial.running = job
        if job.split == "test":
            self.tests.append(job)
            return
        for rung in self._rungs_of(trial, job.to_budget):
            rung.heading += 1
        if trial.reports:
            entry = (self._losses[trial.trial_id, trial.budget], trial.trial_id)
            for rung in self._rungs_of(trial, trial.budget):
                _remove(rung.waiting, entry)

    def _apply_report(self, report: Report) -> None:
        job, trial = self._close_job(report.job_id)
        self._spend(job, report.budget, report.seconds)
        if job.split == "test":
            trial.tests[job.to_budget] = report
            return
        trial.reports[job.to_budget] = report
        loss = self.objectives[0].loss(report.metrics)
        self._losses[trial.trial_id, job.to_budget] = loss
        if trial.repeat_of is None:
            self.results.append((trial.trial_id, job.to_budget))
        entry = (loss, trial.trial_id)
        for rung in self._rungs_of(trial, job.to_budget):
            insort(rung.ranking, entry)
            insort(rung.waiting, entry)
            rung.arrivals.append(trial.trial_id)

    def _apply_failure(self, failure: Failure) -> None:
        job, trial = self._close_job(failure.job_id)
        self._spend(job, failure.budget, failure.seconds)
        self.failures.append(failure)
        if job.split == "test":
            return
        trial.failure = failure
        for rung in self._rungs_of(trial, job.to_budget):
            insort(rung.ranking, (float("inf"), trial.trial_id))
            rung.failed.append(trial.trial_id)

    def _rungs_of(self, trial: Trial, budget: int) -> list[Rung]:
        if trial.repeat_of is not None:
            return []
        ladders = [self._rungs.setdefault(bracket, {}) for bracket in _brackets(trial.labels)]
        return [ladder.setdefault(budget, Rung()) for ladder in ladders]

    def _spend(self, job: Job, budget: int, seconds: float) -> None:
        """Count what a job cost that ended, or an attempt of it, at a budget."""
        spent = self.spent[self.stage_of(job)]
        spent.worker_seconds += seconds
        if job.split == "validation":
            start = job.from_budget
            if isinstance(job.source, Continue):  # jobs end at a whole batch, a little past their budget
                handed_on = self.trials[job.source.trial_id].reports.get(job.source.budget)
                start = start if handed_on is None else handed_on.budget
            spent.examples += max(0, budget - start)

    def _open_job(self, job_id: int) -> Job:
        if job_id not in self.running:
            raise JournalError(f"expected an entry about a running job in the journal, got job {job_id}")
        return self.running[job_id]

    def _close_job(self, job_id: int) -> tuple[Job, Trial]:
        job = self._open_job(job_id)
        del self.running[job_id]
        trial = self.trials[job.trial_id]
        trial.running = None
        if job.split == "validation":
            for rung in self._rungs_of(trial, job.to_budget):
                rung.heading -= 1
        return job, trial


def _brackets(labels: Mapping[str, object]) -> list[int | None]:
    """The brackets whose rungs a trial stands in: None, which holds every trial, and its own if it has one."""
    bracket = labels.get("bracket")
    return [None, bracket] if isinstance(bracket, int) else [None]


def _key(params: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(params.items()))


def _remove(entries: list[tuple[float, int]], entry: tuple[float, int]) -> None:
    position = bisect_left(entries, entry)
    if position < len(entries) and entries[position] == entry:
        del entries[position]
