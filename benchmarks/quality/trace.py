"""One run of one system on one problem, in virtual time.

The clock counts epochs of one worker; what has been spent is that times the number of workers, idle ones included.
A resumed job also pays the switch cost.
"""

from __future__ import annotations

import heapq
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from peers import Peer, Stretch
from tables import Problem, TableCurves

from controller.controller import Controller
from controller.events import Event, Reported
from controller.executors.cost_model import CostModel
from controller.executors.simulated import SimulatedExecutor
from controller.history import History
from controller.limits import Limited, Limits
from controller.store import Store
from controller.strategy import Strategy
from controller.trial import Objective

BUDGETS: Final = (1, 2, 5, 10, 20)
"""In full trainings."""

TRAININGS: Final = BUDGETS[-1]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a system is run under. `switch_cost`: epochs for resuming a configuration."""

    seed: int
    workers: int = 1
    switch_cost: float = 0.0


@dataclass(slots=True)
class Trace:
    """What a run came to.

    Attributes:
        points: (epochs spent, validation loss, test loss of the same weights) whenever the validation loss was the
            best so far.
        trials: configurations that were started; `jobs`: stretches of training.
        busy: share of the workers' time that went into jobs, up to the end of the budget.
        seconds: of the machine that ran this benchmark.
    """

    points: list[tuple[float, float, float]] = field(default_factory=list)
    trials: int = 0
    jobs: int = 0
    busy: float = 0.0
    seconds: float = 0.0

    def see(self, spent: float, val: float, test: float) -> None:
        """Take note of a measurement."""
        if not self.points or val < self.points[-1][1]:
            self.points.append((spent, val, test))

    def at(self, spent: float) -> tuple[float, float] | None:
        """(best validation loss, its test loss) once so many epochs are spent; None if nothing was seen by then."""
        seen = [point for point in self.points if point[0] <= spent * (1 + 1e-12)]
        return seen[-1][1:] if seen else None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trace:
        """What `to_json` gave."""
        return cls(**{**data, "points": [tuple(point) for point in data["points"]]})


_MAX_FREE: Final = 1000
"""A peer that asks so often in a row for what was trained before has to pay for it, or its run would never end."""

MakeStrategy = Callable[[Problem, int], Strategy]
"""Makes a strategy for a problem and a number of workers."""


def run_strategy(make: MakeStrategy, problem: Problem, setting: Setting) -> Trace:
    """Run one of our strategies with the Controller and the journal of a real study."""
    trace, started = Trace(), time.perf_counter()
    clock_end = TRAININGS * problem.epochs / setting.workers
    executor = SimulatedExecutor(
        TableCurves(problem), CostModel(unit=1.0, switch=setting.switch_cost), workers=setting.workers
    )
    history = History(seed=setting.seed, objectives=[Objective("validation_loss")], horizon=problem.epochs)

    def note(event: Event) -> None:
        if isinstance(event, Reported):
            metrics = event.report.metrics
            trace.see(executor.now * setting.workers, metrics["validation_loss"], metrics["test_loss"])

    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory)) as store:
        strategy = Limited(make(problem, setting.workers), Limits(max_seconds=clock_end), lambda: executor.now)
        Controller(strategy, executor, store, history, on_event=note).run()
    trace.trials, trace.jobs = len(history.trials), len(history.jobs)
    at_work = math.fsum(max(0.0, min(span.end, clock_end) - span.start) for span in executor.spans)
    trace.busy = at_work / (clock_end * setting.workers)
    trace.seconds = time.perf_counter() - started
    return trace


def run_peer(make: Callable[[], Peer], problem: Problem, setting: Setting) -> Trace:
    """Run another library, whose every epoch is seen."""
    trace, started = Trace(), time.perf_counter()
    run = _PeerRun(make(), problem, setting, trace)
    trace.busy = run.play(TRAININGS * problem.epochs / setting.workers)
    trace.seconds = time.perf_counter() - started
    return trace


class _PeerRun:
    """The workers of a peer: a heap of the epochs that are being trained."""

    def __init__(self, peer: Peer, problem: Problem, setting: Setting, trace: Trace) -> None:
        self._peer = peer
        self._problem = problem
        self._setting = setting
        self._trace = trace
        self._count = 0
        self._epochs: list[tuple[float, int, int, Stretch, int]] = []  # (moment, order, row, stretch, epoch)

    def play(self, clock_end: float) -> float:
        """Train until the clock says so. The share of time at work, which is all of it: no peer here waits."""
        for _ in range(self._setting.workers):
            self._start(0.0)
        while self._epochs[0][0] <= clock_end * (1 + 1e-12):
            now, _, row, stretch, epoch = heapq.heappop(self._epochs)
            loss = float(self._problem.val[row, epoch - 1])
            self._trace.see(now * self._setting.workers, loss, float(self._problem.test[row, epoch - 1]))
            if self._peer.goes_on(stretch, epoch, loss) and epoch < stretch.to_epoch:
                self._train(now, row, stretch, epoch + 1)
            else:
                self._peer.end(stretch, epoch, loss)
                self._start(now)
        return 1.0

    def _start(self, now: float) -> None:
        """Give a worker something to train. What was trained before takes no time, unless nothing else comes."""
        free = 0
        while True:
            stretch = self._peer.start()
            row = self._problem.row(stretch.params)
            self._trace.trials += stretch.from_epoch == 0
            self._trace.jobs += 1
            if stretch.from_epoch < stretch.to_epoch or free == _MAX_FREE:
                from_epoch = stretch.from_epoch if free < _MAX_FREE else 0
                switch = self._setting.switch_cost if from_epoch else 0.0
                return self._train(now + switch, row, stretch, from_epoch + 1)
            self._peer.end(stretch, stretch.to_epoch, float(self._problem.val[row, stretch.to_epoch - 1]))
            free += 1

    def _train(self, now: float, row: int, stretch: Stretch, epoch: int) -> None:
        self._count += 1
        heapq.heappush(self._epochs, (now + 1.0, self._count, row, stretch, epoch))


def regrets(trace: Trace, problem: Problem, budgets: Sequence[float]) -> list[tuple[float, float]]:
    """(validation regret, test regret of the configuration that it chose) at budgets; NaN where nothing was seen."""
    found = []
    for budget in budgets:
        seen = trace.at(budget * problem.epochs)
        if seen is None:
            found.append((math.nan, math.nan))
        else:
            found.append((problem.val_scale.regret(seen[0]), problem.test_scale.regret(seen[1])))
    return found
