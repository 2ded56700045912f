"""One simulated study of a thousand workers: decisions a second, with every event in a journal on disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import reporting

from controller.controller import Controller
from controller.executors.cost_model import CostModel
from controller.executors.simulated import SimulatedExecutor
from controller.history import History
from controller.samplers.random import RandomSampler
from controller.schedulers.asha import ASHA
from controller.store import Store
from controller.strategy import Composed, Decision, Done, Strategy
from controller.trial import Job, Objective
from search_spaces.space import Params, Space


@final
@dataclass(frozen=True, slots=True)
class _Curves:
    loss_of: Callable[[Params, int], float]

    def measure(self, job: Job) -> Mapping[str, float]:
        """See Curves."""
        return {"loss": self.loss_of(job.params, job.to_budget)}


@final
@dataclass(frozen=True, slots=True)
class _UpTo:
    """A strategy that is done after so many jobs."""

    strategy: Strategy
    jobs: int

    def next(self, history: History) -> Decision:
        """See Strategy."""
        return Done("enough") if len(history.jobs) >= self.jobs else self.strategy.next(history)

    def retain(self, history: History) -> set[int]:
        """See Strategy."""
        return self.strategy.retain(history)


def row(
    space: Space, rungs: Sequence[int], loss_of: Callable[[Params, int], float], *, workers: int, jobs: int, seed: int
) -> reporting.Row:
    """Run it once: random proposals, promotion, and stragglers (sigma 0.5), so that jobs end one by one."""
    strategy = _UpTo(Composed(RandomSampler(space), ASHA(rungs, max_trials=jobs)), jobs)
    executor = SimulatedExecutor(_Curves(loss_of), CostModel(switch=0.0), workers=workers, straggling=0.5, seed=seed)
    history = History(seed=seed, objectives=[Objective("loss")], horizon=rungs[-1])
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory)) as store:
        started = time.perf_counter()
        Controller(strategy, executor, store, history).run()
        seconds = time.perf_counter() - started
    return {
        "system": "thresher",
        "strategy": "asha",
        "sampler": "random",
        "store": "sqlite WAL NORMAL",
        "workers": workers,
        "trials": len(history.trials),
        "jobs": len(history.jobs),
        "jobs_per_second": round(len(history.jobs) / seconds, 1),
        "measured": f"a simulated study of {len(history.jobs):,} jobs in {seconds:.1f} s",
    }
