"""What a search may cost: training examples, time of workers, time on the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, final

from controller.events import Event, SessionStarted
from controller.history import History
from controller.strategy import Decision, Done, Strategy, Wait

Quantity = Literal["examples", "worker_seconds", "seconds"]


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a limited quantity is used up.

    Attributes:
        gpus: that each worker holds.
    """

    quantity: Quantity
    used: float
    limit: float
    gpus: int = 1

    def __str__(self) -> str:
        if self.quantity == "examples":
            return f"{self.used:,.0f} of {self.limit:,.0f} examples"
        hours = self.gpus / 3600 if self.quantity == "worker_seconds" else 1 / 3600
        unit = "GPU hours" if self.quantity == "worker_seconds" else "h"
        return f"{self.used * hours:.3g} of {self.limit * hours:.3g} {unit}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a search may use before it starts nothing more; None does not limit.

    Attributes:
        max_examples: training examples of the search, those of the jobs at work included.
        max_worker_seconds: wall-clock time of its workers. For a limit of h GPU hours and g GPUs a trial it is
            3600 h / g.
        max_seconds: time on the clock in which the study ran, pauses between its sessions not counted.
        gpus: that each worker holds, to show its time as GPU hours.
    """

    max_examples: int | None = None
    max_worker_seconds: float | None = None
    max_seconds: float | None = None
    gpus: int = 1

    def __post_init__(self) -> None:
        for name in ("max_examples", "max_worker_seconds", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"expected {name} > 0, got {value}; leave it out for no limit")

    def usages(self, history: History, seconds: float) -> tuple[Usage, ...]:
        """What is used of everything that is limited, after so many seconds on the clock."""
        found = []
        if self.max_examples is not None:
            found.append(Usage("examples", history.examples, self.max_examples))
        if self.max_worker_seconds is not None:
            found.append(Usage("worker_seconds", history.worker_seconds, self.max_worker_seconds, self.gpus))
        if self.max_seconds is not None:
            found.append(Usage("seconds", seconds, self.max_seconds))
        return tuple(found)

    def reached(self, history: History, seconds: float) -> Usage | None:
        """The first limit that leaves no room for another job, jobs at work included where it can be known."""
        for usage in self.usages(history, seconds):
            underway = history.examples_underway if usage.quantity == "examples" else 0
            if usage.used + underway >= usage.limit:
                return usage
        return None


@dataclass(frozen=True, slots=True)
class Limited:
    """A search that starts and resumes nothing once a limit is reached.

    Jobs at work go on to their rungs, so a limit on examples is passed by less than one job, one on time by up to
    one job of each worker. Finalists, who come after the search, are not limited: a limit that is reached before
    any trial had the full budget still ends with a result. The first trial is always started.

    What the search has used is read off the journal, so it adds up over restarts. The limit on the clock is the
    one rule here that is no function of the history: a study that it ends may end elsewhere when it is run again.
    Therefore it also holds that nothing is searched for once the repeats of finalists have begun under that limit,
    nor, under any, once the test set was used.

    Args:
        elapsed: seconds that the study has run so far, in all its sessions.
    """

    strategy: Strategy
    limits: Limits
    elapsed: Callable[[], float] = lambda: 0.0

    def next(self, history: History) -> Decision:
        """See Strategy."""
        if history.tests or (history.repeats and self.limits.max_seconds is not None):
            return Done("the search is over: its finalists were repeated or tested")
        reached = self.limits.reached(history, self.elapsed())
        if reached is None or not history.jobs:
            return self.strategy.next(history)
        if history.searching:
            return Wait()
        return Done(f"limit reached: {reached}")

    def retain(self, history: History) -> set[int]:
        """See Strategy."""
        return self.strategy.retain(history)


@final
class Stopwatch:
    """Seconds that a study has run in all its sessions. Made when a session starts; call it to read it.

    Args:
        earlier_seconds: of the sessions before, see `active_seconds`.
        clock: seconds from any start.
    """

    def __init__(self, earlier_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._earlier_seconds = earlier_seconds
        self._clock = clock
        self._started = clock()

    def __call__(self) -> float:
        return self._earlier_seconds + self._clock() - self._started


def active_seconds(entries: Iterable[tuple[int, float, Event]]) -> float:
    """How long a study ran in its sessions so far: from the start of each to its last entry in the journal.

    A session that was killed counts up to its last entry. Where the clock of the machine was set back, the time
    between two entries counts as 0.

    Args:
        entries: (sequence number, seconds since the epoch, event), as `Store.events` gives them.
    """
    total, before = 0.0, None
    for _, moment, event in entries:
        if before is not None and not isinstance(event, SessionStarted):
            total += max(0.0, moment - before)
        before = moment
    return total
