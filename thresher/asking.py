"""Ask and tell: the search for a training loop of one's own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from controller.controller import Controller
from controller.history import History
from controller.store import Store
from controller.strategy import Done, Strategy
from controller.trial import Failure, FailureKind, Job, Message, Notice, Report
from search_spaces.space import ParamValue
from thresher.functions import failure_of, missing_notice, read_outcome
from thresher.results import StudyError
from thresher.trial_directories import TrialDirectories

Told = float | Mapping[str, float] | FailureKind | BaseException
"""What may be told of a trial: the metric, several by name, or how it failed."""


class MustWait(RuntimeError):
    """Nothing can be asked before an open trial is told: what trains next depends on it."""


@final
class OpenTrial:
    """A trial that `ask` gave out, to be trained to `budget` and told.

    Attributes:
        trial_id: its number. A trial that was promoted comes again with the same one.
        params: its parameters.
        budget: what it is to be trained to, counted from its start.
        from_budget: what it was trained to before; 0 for a new one.
        seed: of its training.
    """

    def __init__(self, job: Job, stage: Callable[[Job], Path]) -> None:
        self.job = job
        self.trial_id = job.trial_id
        self.params: dict[str, ParamValue] = dict(job.params)
        self.budget = job.to_budget
        self.from_budget = job.from_budget
        self.seed = job.seed
        self.asked_at = time.monotonic()
        self.staged: Path | None = None
        self._stage = stage

    @property
    def checkpoint_dir(self) -> Path:
        """Holds what was left here at `from_budget`; what is here when the trial is told is kept.

        Made at the first use. Empty for a new trial, and for one whose files are gone: then all is trained again.
        """
        if self.staged is None:
            self.staged = self._stage(self.job)
        return self.staged

    def __repr__(self) -> str:
        return f"OpenTrial({self.trial_id}, params={self.params}, budget={self.budget}, from_budget={self.from_budget})"


@final
class Asking:
    """The loop of a study in the hands of whoever calls `ask` and `tell`.

    Jobs that an earlier process left open are asked first. What fails is not tried again.
    """

    def __init__(self, strategy: Strategy, store: Store, history: History, directories: TrialDirectories) -> None:
        self._history = history
        self._directories = directories
        self._offers = _Offers()
        self._open: dict[int, OpenTrial] = {}
        self._controller = Controller(strategy, self._offers, store, history, checkpoints=directories, max_retries=0)
        self._controller.take_up()

    @property
    def open(self) -> list[OpenTrial]:
        """What was asked and not told yet."""
        return list(self._open.values())

    def ask(self) -> OpenTrial | None:
        """The next trial; None if the study is finished. Raises MustWait."""
        decision = None
        if not self._offers.jobs:
            self._offers.wanted = True
            try:
                decision = self._controller.fill()
            finally:
                self._offers.wanted = False
        if self._offers.jobs:
            trial = OpenTrial(self._offers.jobs.popleft(), self._stage)
            self._open[trial.job.job_id] = trial
            return trial
        if isinstance(decision, Done):
            return None
        numbers = ", ".join(str(trial.trial_id) for trial in self.open)
        raise MustWait(f"expected trials to be told before the next can be asked, got none of {numbers}; tell one")

    def tell(self, trial: OpenTrial, outcome: Told) -> None:
        """Write down what became of a trial.

        Raises:
            StudyError: the trial is not open.
            TypeError: the outcome is none.
            MetricError: it lacks the metric that is optimised.
        """
        if not isinstance(trial, OpenTrial):
            raise StudyError(f"expected a trial that ask() gave, got {trial!r}; keep what it returns, and tell that")
        job = trial.job
        if self._open.get(job.job_id) is not trial:
            raise StudyError(f"expected a trial that is open, got {trial!r}; it was told before, or run() has taken it")
        message = self._message(trial, outcome)
        if isinstance(message, Report) and trial.staged is not None:
            self._directories.publish(job, trial.staged)
        del self._open[job.job_id]
        self._controller.receive([message])

    def _message(self, trial: OpenTrial, outcome: Told) -> Report | Failure:
        job, seconds = trial.job, time.monotonic() - trial.asked_at
        if isinstance(outcome, FailureKind):
            return Failure(job.job_id, outcome, f"told as {outcome.value}", job.from_budget, seconds)
        if isinstance(outcome, BaseException):
            return failure_of(outcome, job, seconds)
        metrics = read_outcome(outcome, self._history.objectives[0].metric)
        for objective in self._history.objectives:
            objective.loss(metrics)
        return Report(job.job_id, job.to_budget, metrics, seconds)

    def _stage(self, job: Job) -> Path:
        staged, complete = self._directories.stage(job)
        if not complete:
            self._controller.receive([Notice(job.job_id, missing_notice(job))])
        return staged


class _Offers:
    """An executor whose worker is whoever asks."""

    def __init__(self) -> None:
        self.wanted = False
        self.jobs: deque[Job] = deque()

    def has_room(self) -> bool:
        """See Executor."""
        return self.wanted and not self.jobs

    def submit(self, job: Job) -> None:
        """See Executor."""
        self.jobs.append(job)

    def poll(self) -> Sequence[Message]:
        """See Executor: what was done is told instead."""
        return ()

    def stop(self) -> Sequence[Message]:
        """See Executor."""
        return ()
