"""What a study has learnt so far as arrays: trials as points of the unit cube, their losses at a rung."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from controller.history import History
from controller.trial import Trial
from search_spaces.space import Space, SpaceError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RungData:
    """The results at one rung, and what is known besides. Read-only; trials outside the space are left out.

    Attributes:
        budget: the rung.
        trial_ids: shape [n], the measured trials in the order in which their reports came.
        units: shape [n, d], where they stand in the unit cube.
        losses: shape [n, objectives], finite, lower is better.
        failed_ids: shape [f], the trials that failed at any rung, in the order of their failures: one that runs out of
            memory early would not have come here, yet tells where not to look.
        failed_units: shape [f, d].
        pending_ids: shape [p], the trials with a job at work and no result here, oldest first.
        pending_units: shape [p, d].
    """

    budget: int
    trial_ids: Indices
    units: Floats
    losses: Floats
    failed_ids: Indices
    failed_units: Floats
    pending_ids: Indices
    pending_units: Floats


@final
class Observations:
    """Arrays that grow with a history, so that a proposal does not encode 10,000 trials again.

    A cache: for another history, or one that lost entries, it is built anew. Rows are read-only views.

    Args:
        space: where the trials live. Those outside it (a narrowed space, say) are left out of everything.
    """

    _failures_read: int

    def __init__(self, space: Space) -> None:
        self.space = space
        self._forget(None)

    def units(self, history: History) -> Floats:
        """Where all trials stand, repeats too, shape [trials, d]; NaN for those outside the space."""
        self._read_trials(history)
        return self._units.view()

    def highest(self, history: History, enough: int) -> RungData | None:
        """The highest rung that holds at least `enough` measured trials; None if there is none.

        Losses of different rungs never mix (Falkner et al. 2018, arXiv:1807.01774, take the same rung).
        """
        self._read_trials(history)
        for budget in reversed(history.budgets):
            if len(history.rung(budget).arrivals) >= enough and len(self._at(history, budget)[1]) >= enough:
                return self.at(history, budget)
        return None

    def at(self, history: History, budget: int) -> RungData:
        """The results at a rung."""
        self._read_trials(history)
        losses, ids, _ = self._at(history, budget)
        units = self._units.view()
        measured, failed = np.array(ids, np.int64), np.array(self._failed, np.int64)
        running = {job.trial_id for job in history.searching}
        waiting = sorted(one for one in running if self._inside[one] and budget not in history.trials[one].reports)
        pending = np.array(waiting, np.int64)
        return RungData(
            budget, measured, units[measured], losses.view(), failed, units[failed], pending, units[pending]
        )

    def _read_trials(self, history: History) -> None:
        """Take in what is new."""
        if history is not self._history or len(history.trials) < len(self._inside):
            self._forget(history)
        for trial in history.trials[len(self._inside) :]:
            row = self._encoded(trial)
            self._inside.append(row is not None)
            self._units.append(np.full(len(self.space.domains), np.nan) if row is None else row)
        for failure in history.failures[self._failures_read :]:
            job = history.jobs[failure.job_id]
            searched = job.split == "validation" and history.trials[job.trial_id].repeat_of is None
            if searched and self._inside[job.trial_id]:
                self._failed.append(job.trial_id)
        self._failures_read = len(history.failures)

    def _forget(self, history: History | None) -> None:
        """Be empty, for a history."""
        self._history = history
        self._units = _Rows(len(self.space.domains))
        self._inside: list[bool] = []
        self._arrived: dict[int, tuple[_Rows, list[int], int]] = {}
        self._failed: list[int] = []
        self._failures_read = 0

    def _encoded(self, trial: Trial) -> Floats | None:
        try:
            return self.space.encode(trial.params)
        except SpaceError:
            return None

    def _at(self, history: History, budget: int) -> tuple[_Rows, list[int], int]:
        losses, ids, read = self._arrived.get(budget) or (_Rows(len(history.objectives)), [], 0)
        arrivals = history.rung(budget).arrivals
        for trial_id in arrivals[read:]:
            if self._inside[trial_id]:
                ids.append(trial_id)
                losses.append(np.array(history.losses(trial_id, budget)))
        self._arrived[budget] = losses, ids, len(arrivals)
        return self._arrived[budget]


@final
class _Rows:
    """A matrix that grows by rows."""

    def __init__(self, columns: int) -> None:
        self._buffer: npt.NDArray[Any] = np.empty((64, columns))
        self._count = 0

    def append(self, row: Floats) -> None:
        if self._count == len(self._buffer):
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
        self._buffer[self._count] = row
        self._count += 1

    def view(self) -> Floats:
        rows: Floats = self._buffer[: self._count]
        rows.flags.writeable = False
        return rows
