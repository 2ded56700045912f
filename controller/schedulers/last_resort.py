"""Who goes on when a ladder of rungs is at its end and nobody has reached the top."""

from __future__ import annotations

from collections.abc import Sequence

from controller.history import History
from controller.strategy import Resume


def last_resort(history: History, budgets: Sequence[int], bracket: int | None = None) -> Resume | None:
    """The best trial that waits in the highest rung, brought to the next one; None once one is at the top.

    For when nothing else is left to do: there were fewer trials than the reduction factor, or the promoted ones
    failed. Asked again after each step it brings one trial to the full budget, if any can be trained so far.
    """
    if history.rung(budgets[-1], bracket).arrivals:
        return None
    for level in reversed(range(len(budgets) - 1)):
        waiting = history.rung(budgets[level], bracket).waiting
        if waiting:
            return Resume(waiting[0][1], budgets[level + 1])
    return None
