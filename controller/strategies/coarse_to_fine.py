"""From coarse to fine: one search, then a second one in the part of the space where the first did best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast, final

import numpy as np

from controller.history import History, Rung
from controller.strategy import Composed, Decision, Done, Proposal, Sampler, Start, Strategy, Wait
from controller.trial import Job, Trial
from search_spaces.narrowing import narrowed
from search_spaces.space import Params, Space, SpaceError

PHASE: Final = "phase"
"""The label that tells which of the two searches started a trial: 1 or 2."""


@final
class CoarseToFine:
    """Runs a first strategy until it is done, narrows the space around its best trials, and runs a second one there.

    The best trials are the best share of the first search: those at its highest rung by loss, then those of the next
    one, and so on, since losses at different rungs are never compared. What they measured before the first trial of
    the second search counts, and nothing later. See `narrowed` for what is left of the space.

    The second search starts over: its scheduler sees its own trials alone, and `max_trials` of it are those of the
    second search. Its sampler learns from the trials of both that lie in the narrowed space.

    Trials are labelled with the `phase` that started them, 1 or 2. Enqueued configurations are tried by whichever
    search is running. With several objectives the first one decides where the space is narrowed.

    Args:
        space: what the first search runs in.
        first: the coarse search.
        second: makes the fine search, a sampler and a scheduler, for the narrowed space.
        best_share: the share of the measured trials of the first search that is narrowed around.
        min_best: at least so many of them.
        margin: how far the narrowed space reaches beyond them, in the unit interval of each parameter.
    """

    def __init__(
        self,
        space: Space,
        first: Strategy,
        second: Callable[[Space], Composed],
        *,
        best_share: float = 0.2,
        min_best: int = 3,
        margin: float = 0.1,
    ) -> None:
        if not 0.0 < best_share <= 1.0 or min_best < 1 or not 0.0 <= margin < 1.0:
            raise ValueError(
                "expected best_share in (0, 1], min_best >= 1 and margin in [0, 1), got "
                f"{best_share}, {min_best} and {margin}; the defaults are 0.2, 3 and 0.1"
            )
        self.space = space
        self.first = first
        self.second = second
        self.best_share = best_share
        self.min_best = min_best
        self.margin = margin
        self._history: History | None = None
        self._scanned = 0
        self._phases: tuple[int, _Phases] | None = None

    def next(self, history: History) -> Decision:
        """See Strategy."""
        begin = self._begin(history)
        if begin is None:
            decision = self.first.next(history)
            if not isinstance(decision, Done):
                return _labelled(decision, 1)
            if history.searching:
                return Wait()  # for what may still be measured, although the first search does not
            begin = len(history.trials)
        return _labelled(self._split(history, begin).next(), 2)

    def retain(self, history: History) -> set[int]:
        """See Strategy: the best of both searches, and what the one that is running may need."""
        begin = self._begin(history)
        return self.first.retain(history) if begin is None else self._split(history, begin).retain(self.first)

    def narrowed_space(self, history: History) -> Space | None:
        """The space of the second search; None before it has begun."""
        begin = self._begin(history)
        return None if begin is None else narrowed(self.space, self._best(history, begin), self.margin)

    def _begin(self, history: History) -> int | None:
        """The first trial of the second search, if it has begun."""
        if history is not self._history or len(history.trials) < self._scanned:
            self._history, self._scanned, self._phases = history, 0, None
        while self._scanned < len(history.trials) and history.trials[self._scanned].labels.get(PHASE) != 2:
            self._scanned += 1
        return self._scanned if self._scanned < len(history.trials) else None

    def _split(self, history: History, begin: int) -> _Phases:
        """The two searches, the second of which begins with a trial. A cache while they stay the same."""
        if self._phases is None or self._phases[0] != begin:
            space = narrowed(self.space, self._best(history, begin), self.margin)
            self._phases = begin, _Phases(history, begin, space, self.second(space))
        return self._phases[1]

    def _best(self, history: History, begin: int) -> list[Params]:
        """The best trials of the first search, by what was known when the second began."""
        jobs = (job.job_id for job in history.jobs if job.trial_id == begin)
        first_job = next(jobs, len(history.jobs))
        found: list[tuple[int, float, int]] = []
        for trial in history.trials[:begin]:
            rungs = [budget for budget, report in trial.reports.items() if report.job_id < first_job]
            if rungs and trial.repeat_of is None and _is_in(self.space, trial.params):
                found.append((-max(rungs), history.loss(trial.trial_id, max(rungs)), trial.trial_id))
        count = max(self.min_best, math.ceil(self.best_share * len(found)))
        return [history.trials[trial_id].params for _, _, trial_id in sorted(found)[:count]]


@final
class _Phases:
    """Both searches of one history, each with what it sees of it.

    Args:
        begin: the first trial of the second search.
        space: what that one runs in.
    """

    def __init__(self, history: History, begin: int, space: Space, second: Composed) -> None:
        self._before = _Part(history, lambda trial: trial.trial_id >= begin)
        self._after = _Part(history, lambda trial: trial.trial_id < begin)
        inside = _Part(history, lambda trial: not _is_in(space, trial.params))
        self._second = replace(second, sampler=_Sees(second.sampler, inside))

    def next(self) -> Decision:
        """What the second search decides."""
        return self._second.next(cast(History, self._after))

    def retain(self, first: Strategy) -> set[int]:
        """What both searches may need."""
        return first.retain(cast(History, self._before)) | self._second.retain(cast(History, self._after))


@final
class _Sees:
    """A sampler that is shown one part of a history, whatever the scheduler is shown."""

    def __init__(self, sampler: Sampler, part: _Part) -> None:
        self._sampler, self._part = sampler, part

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        return self._sampler.propose(cast(History, self._part), rng)


@final
class _Part:
    """A history without some of its trials: they are in no rung, and neither counted nor running.

    All else is that of the whole history, trials keep their numbers, and it grows as the whole one does.

    Args:
        hides: whether a trial is left out, decided once.
    """

    def __init__(self, whole: History, hides: Callable[[Trial], bool]) -> None:
        self._whole, self._hides = whole, hides
        self._seen: list[bool] = []
        self._started: Counter[int | None] = Counter()
        self._rungs: dict[tuple[int | None, int], tuple[tuple[int, int], Rung]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def rung(self, budget: int, bracket: int | None = None) -> Rung:
        """See History."""
        whole = self._whole.rung(budget, bracket)
        state = len(whole.ranking), len(whole.waiting)  # with as many results the waiting ones can only get fewer
        known = self._rungs.get((bracket, budget))
        if known is None or known[0] != state:
            seen = self._read()
            rung = Rung(
                [entry for entry in whole.ranking if seen[entry[1]]],
                [entry for entry in whole.waiting if seen[entry[1]]],
                [trial_id for trial_id in whole.arrivals if seen[trial_id]],
                [trial_id for trial_id in whole.failed if seen[trial_id]],
            )
            known = self._rungs[bracket, budget] = state, rung
        coming = (self._whole.trials[job.trial_id] for job in self.searching if job.to_budget == budget)
        heading = sum(bracket is None or trial.labels.get("bracket") == bracket for trial in coming)
        return replace(known[1], heading=heading)

    def num_started(self, bracket: int | None = None) -> int:
        """See History."""
        self._read()
        return self._started[bracket]

    @property
    def budgets(self) -> list[int]:
        """See History."""
        return [budget for budget in self._whole.budgets if self.rung(budget).ranking]

    @property
    def searching(self) -> list[Job]:
        """See History."""
        seen = self._read()
        return [job for job in self._whole.searching if seen[job.trial_id]]

    def best(self) -> Trial | None:
        """See History."""
        for budget in reversed(self.budgets):
            rung = self.rung(budget)
            if rung.arrivals:
                return self._whole.trials[rung.ranking[0][1]]
        return None

    def _read(self) -> list[bool]:
        """Whether each trial is seen."""
        for trial in self._whole.trials[len(self._seen) :]:
            seen = not self._hides(trial)
            self._seen.append(seen)
            if seen and trial.repeat_of is None:
                self._started[None] += 1
                bracket = trial.labels.get("bracket")
                if isinstance(bracket, int):
                    self._started[bracket] += 1
        return self._seen


def _labelled(decision: Decision, phase: int) -> Decision:
    return replace(decision, labels={**decision.labels, PHASE: phase}) if isinstance(decision, Start) else decision


def _is_in(space: Space, params: Params) -> bool:
    try:
        space.validate(params)
    except SpaceError:
        return False
    return True
