"""How fast a study goes, and how long it may take yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.finalists import Finalists
from controller.history import History
from controller.limits import Limits


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a study went so far, on all its workers together.

    Attributes:
        jobs_per_hour, examples_per_hour: None before anything is measured. Jobs are counted when they end.
        seconds_left: an estimate, see `pace_of`; None where there is no ground for one.
    """

    jobs_per_hour: float | None
    examples_per_hour: float | None
    seconds_left: float | None


def pace_of(
    history: History,
    *,
    budgets: Sequence[int],
    max_trials: int | None,
    limits: Limits,
    finalists: Finalists | None,
    seconds: float,
) -> Pace:
    """The pace of a study that was at work for so many seconds.

    What is left is estimated in examples, and taken to go as fast as what was done: of the trials at the lowest rung
    a share of lowest / b comes to the rung b, as successive halving promotes on geometric rungs, unless a limit
    ends the search before; then the finalists and the default are trained again with other seeds. The final tests are
    not counted, and of a job at work everything is still to be done.
    """
    ended = len(history.jobs) - len(history.running)
    trained = history.spent["search"].examples + history.spent["repeats"].examples
    if not ended or seconds <= 0:
        return Pace(None, None, None)
    examples_per_hour = 3600 * trained / seconds
    pace = Pace(3600 * ended / seconds, examples_per_hour, None)
    left = examples_left(history, budgets=budgets, max_trials=max_trials, limits=limits, finalists=finalists)
    if left is None or not trained:
        return pace
    search, repeats = left
    search_seconds = search * seconds / trained
    if limits.max_seconds is not None:
        search_seconds = min(search_seconds, max(0.0, limits.max_seconds - seconds))
    return Pace(pace.jobs_per_hour, examples_per_hour, search_seconds + repeats * seconds / trained)


def examples_left(
    history: History,
    *,
    budgets: Sequence[int],
    max_trials: int | None,
    limits: Limits,
    finalists: Finalists | None,
) -> tuple[int, int] | None:
    """Training examples that the search and the repeats may still take; None if nothing says when the search ends."""
    horizon = budgets[-1]
    repeats = 0
    if finalists is not None:
        repeats = (min(finalists.count, max_trials or finalists.count) + 1) * finalists.repeats * horizon
    repeats = max(0, repeats - history.spent["repeats"].examples)
    if history.tests:
        return 0, 0
    if history.repeats:
        return 0, repeats
    used = history.spent["search"].examples
    ends = [limits.max_examples - used] if limits.max_examples is not None else []
    if max_trials is not None:
        steps = zip([0, *budgets], budgets, strict=False)
        in_all = max_trials * sum((budget - before) * budgets[0] / budget for before, budget in steps)
        ends.append(max(history.examples_underway, round(in_all) - used))
    return (max(0, min(ends)), repeats) if ends else None
