"""What trains next: the decisions, the contracts of those who take them, and how they compose.

A strategy is a function of the history. It keeps no state that cannot be rebuilt from the journal, so a
killed study goes on as if nothing had happened, and a simulated study runs the same code as a real one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from controller.history import History
from controller.trial import Label, Source
from search_spaces.space import Params


class StrategyError(ValueError):
    """A strategy decided something that cannot be done: a mistake in its code, found before it was journaled."""


@dataclass(frozen=True, slots=True)
class Start:
    """Create a trial and train it to `budget`. See Trial for the other fields."""

    params: Params
    budget: int
    source: Source | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    repeat_of: int | None = None
    enqueued: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """Train a paused trial on to `budget`."""

    trial_id: int
    budget: int


@dataclass(frozen=True, slots=True)
class Test:
    """Measure the weights that a trial had at `budget` on the test set. Budget 0 is the base model."""

    __test__ = False  # not a test case, whatever a test runner makes of the name

    trial_id: int
    budget: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be decided before a running job ends."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do, and no running job is one that the strategy waits for."""

    reason: str


@dataclass(frozen=True, slots=True)
class StartNew:
    """A scheduler's wish for a new trial, whose parameters a sampler proposes."""

    budget: int
    labels: Mapping[str, Label] = field(default_factory=dict)


Decision = Start | Resume | Test | Wait | Done


class Strategy(Protocol):
    """Decides what trains next."""

    def next(self, history: History) -> Decision:
        """The decision that is due. The same history gives the same decision."""
        ...

    def retain(self, history: History) -> set[int]:
        """The trials whose checkpoints may still be needed. Those of all others may be deleted."""
        ...


@dataclass(frozen=True, slots=True)
class Proposal:
    """Parameters for a new trial, with the labels that tell how they came about."""

    params: Params
    labels: Mapping[str, Label] = field(default_factory=dict)


class Sampler(Protocol):
    """Proposes parameters."""

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """Parameters inside the space, drawn with `rng` alone."""
        ...


class Scheduler(Protocol):
    """Allocates budget to trials."""

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """The decision that is due. The same history gives the same decision."""
        ...

    def retain(self, history: History) -> set[int]:
        """The trials whose checkpoints may still be needed."""
        ...


@dataclass(frozen=True, slots=True)
class Composed:
    """A sampler and a scheduler make a strategy.

    Enqueued configurations come first. A proposal that equals an earlier trial is drawn again up to
    `max_redraws` times, then taken as it is (a small space may be used up).
    """

    sampler: Sampler
    scheduler: Scheduler
    max_redraws: int = 20

    def __post_init__(self) -> None:
        if self.max_redraws < 0:
            raise ValueError(f"expected max_redraws >= 0, got {self.max_redraws}; 0 takes every proposal as it is")

    def next(self, history: History) -> Decision:
        """See Strategy."""
        wish = self.scheduler.next(history)
        if not isinstance(wish, StartNew):
            return wish
        queued = history.next_queued()
        if queued is not None:
            return Start(queued, wish.budget, labels={"origin": "enqueued", **wish.labels}, enqueued=True)
        for attempt in range(1 + self.max_redraws):
            proposal = self.sampler.propose(history, history.generator(attempt))
            if not history.was_tried(proposal.params):
                break
        return Start(proposal.params, wish.budget, labels={**proposal.labels, **wish.labels})

    def retain(self, history: History) -> set[int]:
        """See Strategy."""
        return self.scheduler.retain(history)


@dataclass(frozen=True, slots=True)
class InTurn:
    """Several strategies one after the other: each begins when the one before it is done."""

    strategies: Sequence[Strategy]

    def next(self, history: History) -> Decision:
        """See Strategy."""
        decision: Decision = Done("nothing to do")
        for strategy in self.strategies:
            decision = strategy.next(history)
            if not isinstance(decision, Done):
                break
        return decision

    def retain(self, history: History) -> set[int]:
        """See Strategy: what any of them may need."""
        return set().union(*(strategy.retain(history) for strategy in self.strategies))
