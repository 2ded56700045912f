"""The loop: ask the strategy, commit, submit, commit what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from controller.events import (
    AttemptFailed,
    AttemptStarted,
    Enqueued,
    Event,
    Failed,
    JobCreated,
    Noted,
    Reported,
    TrialCreated,
)
from controller.executor import Executor
from controller.history import History
from controller.requests import Enqueue, Filed, Refused, Requests, Stop
from controller.store import Store
from controller.strategy import Done, Resume, Start, Strategy, StrategyError, Test, Wait
from controller.trial import (
    Continue,
    Declined,
    Failure,
    FailureKind,
    Halt,
    Message,
    Notice,
    Progress,
    Report,
    Trial,
    is_measured,
)

MAX_DECLINES = 8


class StudyHalted(RuntimeError):
    """The workers' surroundings are unfit (disk full, say). The same command goes on once that is mended."""


class Checkpoints(Protocol):
    """The checkpoints of a study, as far as the controller is concerned."""

    def trials(self) -> set[int]:
        """The trials that have any."""
        ...

    def discard(self, trial_id: int) -> None:
        """Delete those of a trial."""
        ...


class Controller:
    """Runs a strategy on an executor, with every event in the journal before it is acted on.

    `run` is the whole loop. Who has a loop of their own calls its parts: `take_up` once, then `fill` and `receive`
    in any order.

    Args:
        strategy: decides what trains next.
        executor: runs the jobs.
        store: the journal, open for writing.
        history: what the journal adds up to so far.
        checkpoints: where checkpoints that the strategy no longer retains are deleted; None keeps all.
        max_retries: how often a job is tried again after its worker crashed or hung.
        requests: what other processes ask for; None heeds nobody.
        on_event: called with every event after it was committed.
        on_progress: called with every sign of life of a job.
        on_notice: called with a sentence about what other processes asked for.
    """

    def __init__(
        self,
        strategy: Strategy,
        executor: Executor,
        store: Store,
        history: History,
        *,
        checkpoints: Checkpoints | None = None,
        max_retries: int = 1,
        requests: Requests | None = None,
        on_event: Callable[[Event], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.strategy = strategy
        self.executor = executor
        self.store = store
        self.history = history
        self._checkpoints = checkpoints
        self._max_retries = max_retries
        self._requests = requests
        self._on_event = on_event
        self._on_progress = on_progress
        self._on_notice = on_notice
        self._requests_taken: set[str] | None = None
        self._declines: dict[int, int] = {}
        self._held: list[int] = []
        self._stopping = False
        self._draining = False

    def request_stop(self) -> None:
        """Make `run` save what is running and return. May be called from a signal handler."""
        self._stopping = True

    def request_drain(self) -> None:
        """Make `run` return when the jobs at work have reached their rungs. May be called from a signal handler."""
        self._draining = True

    def run(self) -> Done | None:
        """Run the study to its end. None: it was asked to stop or to drain, its open jobs are in the journal.

        Jobs that an earlier run left open are taken up first.

        Raises:
            StudyHalted: a worker found its surroundings unfit.
            StoreError: the journal could not be written.
            StrategyError: the strategy decided something that cannot be done.
            MetricError: the task does not measure what the study optimises.
        """
        try:
            self.take_up()
            while not self._stopping:
                self._serve_requests()
                decision = self.fill()
                if not self.history.running and (decision is not None or self._draining):
                    return decision
                self.receive(self.executor.poll())
            return None
        finally:
            self._stopping = True  # nothing is started any more, also if an error ends the study
            self.receive(self.executor.stop())

    def take_up(self) -> None:
        """Give out once more the jobs that an earlier run left open."""
        for job_id in list(self.history.running):
            self._attempt(job_id, [])

    def _serve_requests(self) -> None:
        """Do what other processes asked for. What is committed is not done again, whatever becomes of the file."""
        if self._requests is None:
            return
        for filed in self._requests.poll():
            match filed:
                case Refused(name, reason):
                    self._notice(f"request {name} was refused: {reason}")
                    continue
                case Filed(name, Enqueue(params)):
                    if name not in self._taken_requests():
                        self._commit([Enqueued(params, name)])
                        self._taken_requests().add(name)
                case Filed(_, Stop(now=True)):
                    self.request_stop()
                    self._notice("asked to stop now: saving what is running")
                case Filed(_, Stop()):
                    self.request_drain()
                    jobs = len(self.history.running)
                    self._notice(f"asked to stop: {jobs} running job{'s'[: jobs != 1]} will reach the next rung first")
            self._requests.remove(filed.name)

    def _taken_requests(self) -> set[str]:
        """The requests in the journal, where a killed run may have left one whose file is still there."""
        if self._requests_taken is None:
            events = (event for _, _, event in self.store.events())
            self._requests_taken = {event.request for event in events if isinstance(event, Enqueued) and event.request}
        return self._requests_taken

    def _notice(self, text: str) -> None:
        if self._on_notice is not None:
            self._on_notice(text)

    def fill(self) -> Done | None:
        """Give work to every worker that wants some. The strategy's Done, if that is what it said.

        Nothing new is started while a declined job is held back, or it might never find room; nor after somebody
        has asked to drain, though then it is still worth knowing whether the study is over.
        """
        if self._draining:
            decision = Wait() if self.history.running else self.strategy.next(self.history)
            return decision if isinstance(decision, Done) else None
        while not self._held and not self._stopping and self.executor.has_room():
            decision = self.strategy.next(self.history)
            match decision:
                case Start():
                    self._start(decision)
                case Resume():
                    self._resume(decision)
                case Test():
                    self._test(decision)
                case Wait():
                    if not self.history.running:
                        raise StrategyError(
                            "expected a decision that starts a job, or Done, since no job is running; got Wait, "
                            "which would last forever: mend the strategy"
                        )
                    return None
                case Done():
                    return decision
        return None

    def _start(self, decision: Start) -> None:
        source, trials = decision.source, self.history.trials
        if source is not None and (
            source.trial_id >= len(trials) or source.budget not in trials[source.trial_id].reports
        ):
            raise _refusal(decision, "a source at a rung for which its trial has a report")
        from_budget = source.budget if isinstance(source, Continue) else 0
        if not from_budget < decision.budget <= self.history.horizon:
            raise _refusal(decision, f"a budget above {from_budget} and up to {self.history.horizon}")
        trial = TrialCreated(
            len(trials),
            decision.params,
            # The order of the data goes on with weights that are continued.
            trials[source.trial_id].seed if isinstance(source, Continue) else self.history.trial_seed(),
            source,
            decision.labels,
            decision.repeat_of,
            decision.enqueued,
        )
        job = JobCreated(len(self.history.jobs), trial.trial_id, from_budget, decision.budget, source)
        self._attempt(job.job_id, [trial, job])

    def _resume(self, decision: Resume) -> None:
        trial = self._idle_trial(decision)
        if trial.failure is not None or not trial.reports:
            raise _refusal(decision, "a paused trial")
        if not trial.budget < decision.budget <= self.history.horizon:
            raise _refusal(decision, f"a budget above {trial.budget} and up to {self.history.horizon}")
        source = Continue(trial.trial_id, trial.budget)
        job = JobCreated(len(self.history.jobs), trial.trial_id, trial.budget, decision.budget, source)
        self._attempt(job.job_id, [job])

    def _test(self, decision: Test) -> None:
        trial, budget = self._idle_trial(decision), decision.budget
        if budget in trial.tests or (budget and budget not in trial.reports):
            raise _refusal(decision, "weights that were trained and are not tested yet")
        source = Continue(trial.trial_id, budget) if budget else None
        job = JobCreated(len(self.history.jobs), trial.trial_id, budget, budget, source, "test")
        self._attempt(job.job_id, [job])

    def _idle_trial(self, decision: Resume | Test) -> Trial:
        if decision.trial_id >= len(self.history.trials) or self.history.trials[decision.trial_id].running is not None:
            raise _refusal(decision, "a trial that exists and is not running")
        return self.history.trials[decision.trial_id]

    def _attempt(self, job_id: int, events: Sequence[Event]) -> None:
        attempt = self.history.attempts.get(job_id, 0) + 1
        self._commit([*events, AttemptStarted(job_id, attempt)])
        self.executor.submit(self.history.running[job_id])

    def _commit(self, events: Sequence[Event]) -> None:
        self.store.append(events)
        for event in events:
            self.history.apply(event)
        if self._on_event is not None:
            for event in events:
                self._on_event(event)

    def receive(self, messages: Sequence[Message]) -> None:
        """Take in what workers said. Raises as `run`."""
        halts = [message for message in messages if isinstance(message, Halt)]
        if halts:
            self._stopping = True  # what fails now is not to blame: its job stays open
        for message in messages:
            self._receive(message)
        if halts:
            raise StudyHalted(halts[0].text)

    def _receive(self, message: Message) -> None:
        if isinstance(message, Halt):
            return
        if message.job_id not in self.history.running:
            return  # a late word from a worker that was given up; the journal has the outcome already
        match message:
            case Progress():
                if self._on_progress is not None:
                    self._on_progress(message)
            case Notice(job_id, text):
                self._commit([Noted(job_id, text)])
            case Report():
                self._finish(self._verdict(message))
            case Failure():
                self._fail(message)
            case Declined():
                self._decline(message)

    def _verdict(self, report: Report) -> Reported | Failed:
        """A report whose objective is no number is a failure: the training diverged."""
        if self.history.running[report.job_id].split == "validation":
            for objective in self.history.objectives:
                loss = objective.loss(report.metrics)
                if not is_measured(loss):
                    message = f"{objective.metric} is {loss}"
                    return Failed(Failure(report.job_id, FailureKind.DIVERGED, message, report.budget, report.seconds))
        return Reported(report)

    def _fail(self, failure: Failure) -> None:
        tried = len(self.history.failed_attempts.get(failure.job_id, ()))
        if not failure.kind.is_transient:
            self._finish(Failed(failure))
        elif self._stopping:
            return  # it may be the stop that killed the worker: the job stays open
        elif tried < self._max_retries:
            self._attempt(failure.job_id, [AttemptFailed(failure)])
        else:
            self._finish(Failed(failure))

    def _decline(self, declined: Declined) -> None:
        """Offer the job again once another one has ended, for only then a worker has more room than now.

        A worker that hosts nothing must take what it gets, so a job that is declined while no other
        runs is offered again at once, a few times.
        """
        job_id = declined.job_id
        if self._stopping or job_id in self._held:
            return
        if len(self.history.running) - len(self._held) > 1:
            self._held.append(job_id)
            return
        count = self._declines[job_id] = self._declines.get(job_id, 0) + 1
        if count > MAX_DECLINES:
            message = f"declined {count} times by a worker that hosts no other job: {declined.reason}"
            self._finish(Failed(Failure(job_id, FailureKind.CRASH, message)))
        else:
            self.executor.submit(self.history.running[job_id])

    def _finish(self, outcome: Reported | Failed) -> None:
        self._commit([outcome])
        self._discard_checkpoints()
        held, self._held = self._held, []
        for job_id in held if not self._stopping else ():
            self.executor.submit(self.history.running[job_id])

    def _discard_checkpoints(self) -> None:
        if self._checkpoints is None:
            return
        kept = set(self.strategy.retain(self.history))
        for job in self.history.running.values():
            kept.add(job.trial_id)
            if job.source is not None:
                kept.add(job.source.trial_id)
        best = self.history.best()
        if best is not None:
            kept.add(best.trial_id)  # so that a study that was stopped early has something to show
        for trial_id in self._checkpoints.trials() - kept:
            self._checkpoints.discard(trial_id)


def _refusal(decision: Start | Resume | Test, expected: str) -> StrategyError:
    return StrategyError(f"expected {expected}, got {decision}; mend the strategy")
