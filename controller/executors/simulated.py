"""Jobs on workers that exist on a clock only: a whole study in seconds, with the Controller of a real one."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol, final

import numpy as np

from controller.executors.cost_model import CostModel, Costs
from controller.trial import Failure, FailureKind, Job, Message, Report


class Curves(Protocol):
    """What training gives, without training: a table of learning curves, a formula, random numbers."""

    def measure(self, job: Job) -> Mapping[str, float]:
        """The metrics of a job at its end, at `job.to_budget`, asked once for every job that gets there.

        NaN for an objective says that the training diverged. Where a result depends on the weights that a trial took
        over, `job.source` names the trial and the budget that they come from.
        """
        ...


Failures = Callable[[Job, np.random.Generator], FailureKind | None]
"""How an attempt at a job fails, if it does. The generator is that of the attempt."""


@final
@dataclass(frozen=True, slots=True)
class Chances:
    """Failures by chance: each attempt at a job fails in each of these ways with its probability."""

    chances: Mapping[FailureKind, float]

    def __post_init__(self) -> None:
        if any(chance < 0 for chance in self.chances.values()) or sum(self.chances.values()) > 1:
            raise ValueError(f"expected probabilities >= 0 with a sum <= 1, got {dict(self.chances)}; lower them")

    def __call__(self, job: Job, rng: np.random.Generator) -> FailureKind | None:
        """See Failures."""
        draw = rng.random()
        for kind, chance in self.chances.items():
            draw -= chance
            if draw < 0:
                return kind
        return None


@final
@dataclass(frozen=True, slots=True)
class Preemption:
    """Workers that are taken away and given back, each for itself, as spot instances are.

    Attributes:
        present_seconds: how long a worker stays in the mean (exponential).
        away_seconds: how long it is gone in the mean (exponential).
    """

    present_seconds: float
    away_seconds: float

    def __post_init__(self) -> None:
        if not (0 < self.present_seconds < math.inf and 0 <= self.away_seconds < math.inf):
            raise ValueError(
                f"expected present_seconds > 0 and away_seconds >= 0, got {self.present_seconds} and "
                f"{self.away_seconds}; leave preemption out for workers that stay"
            )


@final
@dataclass(frozen=True, slots=True)
class Span:
    """What a worker did from one second to another. `finished` is False for an attempt that gave no report."""

    job_id: int
    worker: int
    start: float
    end: float
    finished: bool


class _Kind(IntEnum):
    """Of events. Those of one moment happen in this order, so that a job that is done is done."""

    ENDED = 0
    LEFT = 1
    CAME = 2


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A job at work.

    Attributes:
        number: of the attempt, from 1.
        seconds: how long it takes if nothing happens; `fails`: how it will end, if not well.
        saved: what an earlier attempt left, as a share of the job, and `saved_seconds`: what that had cost.
    """

    job: Job
    number: int
    worker: int
    start: float
    seconds: float
    saved: float
    saved_seconds: float
    fails: FailureKind | None


@final
class SimulatedExecutor:
    """An Executor in virtual time: `poll` jumps to the moment at which the next job ends.

    A study of a thousand workers takes as long as its decisions do. Everything is a function of the seed, the job
    and the attempt: noise does not depend on the order in which jobs are given out, except that workers are taken
    away at fixed moments. A restarted executor counts attempts anew.

    Args:
        curves: what the jobs measure.
        costs: how long they take.
        workers: how many jobs run at the same time.
        straggling: sigma of the log-normal factor, with median 1, on the time of each attempt.
        failures: which attempts fail, after a share of their time that is drawn uniformly; None: none does.
        preemption: how workers come and go; None: they stay. A job whose worker goes ends as a crash, which the
            Controller tries again as often as its `max_retries` allows.
        save_seconds: after how many seconds of work a job saves. Its next attempt takes up the last save; without
            any (infinity, the default) it starts again.
        seed: of all of the above that is drawn.
        now: where the clock starts, for a study that is taken up.

    Attributes:
        now: seconds on the clock. `Limited` may read it: `elapsed=lambda: executor.now`.
        busy_seconds: worker seconds at work so far; `present_seconds`: at work or idle.
        spans: what the workers did, in the order in which it ended.
    """

    def __init__(
        self,
        curves: Curves,
        costs: Costs | None = None,
        *,
        workers: int = 1,
        straggling: float = 0.0,
        failures: Failures | None = None,
        preemption: Preemption | None = None,
        save_seconds: float = math.inf,
        seed: int = 0,
        now: float = 0.0,
    ) -> None:
        if workers < 1:
            raise ValueError(f"expected workers >= 1, got {workers}; somebody has to do the work")
        if not 0.0 <= straggling < math.inf:
            raise ValueError(f"expected straggling >= 0, got {straggling}; 0 is no noise, 0.5 is a lot")
        if not save_seconds > 0:
            raise ValueError(f"expected save_seconds > 0, got {save_seconds}; leave it out to save nothing on the way")
        self.now = now
        self.busy_seconds = 0.0
        self.present_seconds = 0.0
        self.spans: list[Span] = []
        self._curves = curves
        self._costs: Final = CostModel() if costs is None else costs
        self._straggling = straggling
        self._failures = failures
        self._preemption = preemption
        self._save_seconds = save_seconds
        self._seed = seed
        self._events: list[tuple[float, _Kind, int, int]] = []  # (moment, kind, job or worker, attempt or 0)
        self._queue: deque[Job] = deque()
        self._running: dict[int, _Attempt] = {}
        self._jobs_of: dict[int, int] = {}  # worker -> job
        self._idle = set(range(workers))
        self._next_idle = list(range(workers))  # a heap, which may also hold workers that are not idle any more
        self._numbers: dict[int, int] = {}
        self._saved: dict[int, tuple[float, float]] = {}
        self._stays: dict[int, int] = {}
        self._away: dict[int, float] = {}
        for worker in range(workers):
            self._schedule_leave(worker)

    @property
    def busy_fraction(self) -> float:
        """The share of the workers' time that went into jobs, time in which they were away not counted."""
        return self.busy_seconds / self.present_seconds if self.present_seconds else 0.0

    def has_room(self) -> bool:
        """See Executor."""
        return bool(self._idle)

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._queue.append(job)
        self._begin_queued()

    def poll(self) -> Sequence[Message]:
        """See Executor: lets time pass until a job ends, or until a worker is back that finds nothing to do.

        No time passes while nobody works although somebody could.
        """
        while self._events and (self._running or not self._idle):
            moment, kind, number, attempt = heapq.heappop(self._events)
            if kind is _Kind.ENDED:
                ended = self._running.get(number)
                if ended is not None and ended.number == attempt:
                    self._pass_time(moment)
                    return [self._end(ended)]
                continue  # its worker was taken away before
            self._pass_time(moment)
            if kind is _Kind.CAME:
                self._schedule_leave(number)
                self._free(number)
                if self._idle:
                    return []
            elif (lost := self._take_away(number)) is not None:
                return [lost]
        return []

    def stop(self) -> Sequence[Message]:
        """See Executor: what runs is given up without a word, so that its jobs stay open."""
        self._queue.clear()
        for attempt in list(self._running.values()):
            self._close(attempt, finished=False)
            self._free(attempt.worker)
        return []

    # --- jobs --------------------------------------------------------------------------------

    def _begin_queued(self) -> None:
        while self._queue and self._idle:
            worker = heapq.heappop(self._next_idle)
            if worker in self._idle:
                self._idle.remove(worker)
                self._begin(self._queue.popleft(), worker)

    def _begin(self, job: Job, worker: int) -> None:
        number = self._numbers[job.job_id] = self._numbers.get(job.job_id, 0) + 1
        seconds, fails, share = self._costs.of(job), None, 1.0
        if self._straggling or self._failures is not None:
            rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0, job.job_id, number)))
            seconds *= math.exp(self._straggling * rng.standard_normal())
            share = rng.random()
            fails = None if self._failures is None else self._failures(job, rng)
        saved, saved_seconds = self._saved.get(job.job_id, (0.0, 0.0))
        seconds *= 1.0 - saved
        end = self.now + (seconds if fails is None else share * seconds)
        self._running[job.job_id] = _Attempt(job, number, worker, self.now, seconds, saved, saved_seconds, fails)
        self._jobs_of[worker] = job.job_id
        heapq.heappush(self._events, (end, _Kind.ENDED, job.job_id, number))

    def _end(self, attempt: _Attempt) -> Message:
        """What a worker says when its job ends, of itself or by a failure."""
        job = attempt.job
        if attempt.fails is None:
            seconds = attempt.saved_seconds + attempt.seconds
            message: Message = Report(job.job_id, job.to_budget, self._curves.measure(job), seconds)
        else:
            message = self._failure(attempt, attempt.fails, "as the simulation has it")
        self._close(attempt, finished=attempt.fails is None)
        self._free(attempt.worker)
        return message

    def _failure(self, attempt: _Attempt, kind: FailureKind, text: str) -> Failure:
        """A failure now. What was saved is there for the next attempt."""
        job, worked = attempt.job, self.now - attempt.start
        rate = (1.0 - attempt.saved) / attempt.seconds if attempt.seconds else 0.0  # share of the job a second
        done = min(1.0, attempt.saved + rate * worked)
        if self._save_seconds <= worked:
            kept = worked // self._save_seconds * self._save_seconds
            self._saved[job.job_id] = attempt.saved + rate * kept, attempt.saved_seconds + kept
        return Failure(job.job_id, kind, text, job.from_budget + int((job.to_budget - job.from_budget) * done), worked)

    def _close(self, attempt: _Attempt, *, finished: bool) -> None:
        del self._running[attempt.job.job_id], self._jobs_of[attempt.worker]
        self.spans.append(Span(attempt.job.job_id, attempt.worker, attempt.start, self.now, finished))

    # --- workers and time --------------------------------------------------------------------

    def _free(self, worker: int) -> None:
        self._idle.add(worker)
        heapq.heappush(self._next_idle, worker)
        self._begin_queued()

    def _take_away(self, worker: int) -> Failure | None:
        """A worker goes. The failure of its job, if it had one."""
        failure = None
        if worker in self._idle:
            self._idle.remove(worker)
        else:
            attempt = self._running[self._jobs_of[worker]]
            failure = self._failure(attempt, FailureKind.CRASH, f"worker {worker} was taken away")
            self._close(attempt, finished=False)
        heapq.heappush(self._events, (self.now + self._away[worker], _Kind.CAME, worker, 0))
        return failure

    def _schedule_leave(self, worker: int) -> None:
        if self._preemption is None:
            return
        stay = self._stays[worker] = self._stays.get(worker, -1) + 1
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(1, worker, stay)))
        present = self._preemption.present_seconds * rng.exponential()
        self._away[worker] = self._preemption.away_seconds * rng.exponential()
        heapq.heappush(self._events, (self.now + present, _Kind.LEFT, worker, 0))

    def _pass_time(self, moment: float) -> None:
        passed = moment - self.now
        self.busy_seconds += passed * len(self._running)
        self.present_seconds += passed * (len(self._running) + len(self._idle))
        self.now = moment
