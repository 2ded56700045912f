"""Trade-offs between several objectives: what no other trial beats in all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from controller.history import History
from controller.trial import Trial


def pareto_front(losses: Sequence[Sequence[float]]) -> list[int]:
    """The places of the non-dominated rows, in their order.

    A row is dominated by one that is nowhere worse and somewhere better. Rows that are equal do not dominate each
    other; a row that is not finite throughout is left out. Takes O(n^2) comparisons.

    Args:
        losses: [rows, objectives], lower is better.
    """
    measured = [place for place, row in enumerate(losses) if all(map(math.isfinite, row))]
    return [place for place in measured if not any(_dominates(losses[other], losses[place]) for other in measured)]


def front_of(history: History) -> list[Trial]:
    """The trials at the full budget that no other dominates, best first by the first objective; no repeats.

    Losses at lower budgets do not compare with those, and a repeat is the same configuration once more.
    """
    full = [history.trials[trial_id] for _, trial_id in history.rung(history.horizon).ranking]
    full = [trial for trial in full if history.horizon in trial.reports]
    losses = [history.losses(trial.trial_id, history.horizon) for trial in full]
    return [full[place] for place in pareto_front(losses)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return tuple(one) != tuple(other) and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
