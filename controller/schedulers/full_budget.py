"""No early stopping: every trial gets the full budget."""

from __future__ import annotations

from dataclasses import dataclass

from controller.history import History
from controller.strategy import Done, Resume, StartNew, Wait


@dataclass(frozen=True, slots=True)
class FullBudget:
    """Train `max_trials` trials to the history's horizon. Keeps the checkpoints of the best `keep`."""

    max_trials: int
    keep: int = 1

    def __post_init__(self) -> None:
        if self.max_trials < 1:
            raise ValueError(f"expected max_trials >= 1, got {self.max_trials}; a study needs at least one trial")

    def next(self, history: History) -> StartNew | Resume | Wait | Done:
        """See Scheduler."""
        if history.num_started() < self.max_trials:
            return StartNew(history.horizon)
        return Wait() if history.searching else Done(f"{self.max_trials} trials trained to the full budget")

    def retain(self, history: History) -> set[int]:
        """See Scheduler."""
        return {trial_id for _, trial_id in history.rung(history.horizon).waiting[: self.keep]}
