"""Milliseconds a decision, for every kind of search, when the study has many finished trials.

A kind that is meant to take a millisecond at most runs its study from the beginning. The others would take hours:
their histories are filled by random search, with successive halving where the kind has rungs, and their own
decisions follow. `first_ms` is the one that finds no cache, as after a restart: it reads all trials.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Final, final

import reporting

from controller.controller import Controller
from controller.history import History
from controller.strategy import Decision, Done, Start, Strategy
from controller.trial import Job, Message, Objective, Report
from search_spaces.space import Params, Space
from thresher.strategies import SEARCH_KINDS, make_strategy, uses_rungs

LIMITS: Final = (
    ("freeze-thaw*", 200.0),
    ("gp*", 200.0),
    ("nsga2*", 20.0),
    ("*tpe*", 5.0),
    ("bohb*", 5.0),
    ("auto", None),
    ("cma*", None),
    ("prior*", None),
    ("mo-*", None),
    ("*", 1.0),
)
"""What a kind may take, in milliseconds: the first pattern that fits."""

_LIMIT_OF_WHOLE: Final = 1.0


@final
class NoJournal:
    """Instead of a Store, where commits are not what is measured."""

    def append(self, events: Sequence[object]) -> None:
        """Forget them."""


@final
@dataclass(slots=True)
class _Timed:
    """A strategy with a clock at its side, which ends the study after so many new trials."""

    strategy: Strategy
    trials: int
    seconds: list[float] = field(default_factory=list)

    def next(self, history: History) -> Decision:
        """See Strategy."""
        if len(history.trials) >= self.trials:
            return Done("enough")
        started = time.perf_counter()
        decision = self.strategy.next(history)
        if isinstance(decision, Start):
            self.seconds.append(time.perf_counter() - started)
        return decision

    def retain(self, history: History) -> set[int]:
        """See Strategy."""
        return self.strategy.retain(history)


@final
class AtOnce:
    """An executor with one worker that has trained a job as soon as it gets it."""

    def __init__(self, measure: Callable[[Params, int], Mapping[str, float]]) -> None:
        self.moments: list[float] = []
        self._measure = measure
        self._job: Job | None = None

    def has_room(self) -> bool:
        """See Executor."""
        return self._job is None

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._job = job

    def poll(self) -> Sequence[Message]:
        """See Executor."""
        job, self._job = self._job, None
        if job is None:
            return ()
        self.moments.append(time.perf_counter())
        return [Report(job.job_id, job.to_budget, self._measure(job.params, job.to_budget), seconds=0.0)]

    def stop(self) -> Sequence[Message]:
        """See Executor."""
        return ()


def rows(
    space: Space,
    rungs: Sequence[int],
    loss_of: Callable[[Params, int], float],
    *,
    trials: int,
    measured: int,
    seed: int,
    kinds: Sequence[str] = SEARCH_KINDS,
) -> list[reporting.Row]:
    """A row for each kind of search.

    Args:
        trials: how many are finished when its decisions are measured; `measured`: how many of these.
    """

    def measure(params: Params, budget: int) -> Mapping[str, float]:
        return {"loss": loss_of(params, budget), "size": float(params.get("lora.rank", 0))}

    return [_row(kind, space, rungs, measure, trials, measured, seed) for kind in kinds]


def _row(
    kind: str, space: Space, rungs: Sequence[int], measure: Any, trials: int, measured: int, seed: int
) -> reporting.Row:
    limit = limit_of(kind)
    objectives = [Objective("loss"), *([Objective("size")] if kind.startswith(("nsga2", "mo-")) else [])]
    history = History(seed=seed, objectives=objectives, horizon=rungs[-1])
    whole = limit is not None and limit <= _LIMIT_OF_WHOLE
    filler = kind if whole else "asha" if uses_rungs(kind) else "random"
    room = 2 * (trials + measured)  # none of them comes to its end
    _play(make_strategy(filler, space, rungs, room), history, measure, trials)
    first = _play(make_strategy(kind, space, rungs, room), history, measure, len(history.trials) + 1)
    seconds = _play(make_strategy(kind, space, rungs, room), history, measure, len(history.trials) + measured)
    row: dict[str, reporting.Value] = {
        "system": "thresher",
        "strategy": kind,
        "trials": trials,
        "filled_by": "itself" if whole else filler,
    }
    if len(seconds) < 2:
        return {**row, "measured": "no decision: it was done before"}
    later = [1000 * one for one in seconds[1:]]  # without the first, which found no cache either
    return {
        **row,
        "first_ms": round(1000 * first[0], 3) if first else None,
        "median_ms": round(statistics.median(later), 3),
        "slowest_of_20_ms": round(sorted(later)[-max(1, len(later) // 20)], 3),
        "limit_ms": limit,
        "within_limit": None if limit is None else str(statistics.median(later) <= limit).lower(),
        "measured": f"{len(later)} new trials",
    }


def _play(strategy: Strategy, history: History, measure: Any, trials: int) -> list[float]:
    """Let a strategy go on until there are so many trials. The seconds of its decisions to start one."""
    timed = _Timed(strategy, trials)
    Controller(timed, AtOnce(measure), NoJournal(), history).run()  # type: ignore[arg-type]
    return timed.seconds


def limit_of(kind: str) -> float | None:
    """What a kind may take, in milliseconds."""
    return next(limit for pattern, limit in LIMITS if fnmatch(kind, pattern))
