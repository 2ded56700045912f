"""How much of what a search may cost is used up, and what is left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.history import History
from controller.limits import Limits
from thresher.wording import format_duration


@dataclass(frozen=True, slots=True)
class Use:
    """Something that a search uses up. `limit` is None where nothing limits it."""

    what: str
    used: float
    limit: float | None = None

    @property
    def left(self) -> float | None:
        """What is left of it; None without a limit."""
        return None if self.limit is None else max(0.0, self.limit - self.used)

    @property
    def text(self) -> str:
        """For example `examples 1,200 of 5,000`, or `time 1h30m of 4h00m`."""
        limit = "" if self.limit is None else f" of {self.figure(self.limit)}"
        return f"{self.label} {self.figure(self.used)}{limit}"

    @property
    def label(self) -> str:
        """What it is, beside its figures."""
        return self.what.replace("hours", "time")

    def figure(self, amount: float | None) -> str:
        """An amount of it, with a dash for None."""
        if amount is None:
            return "–"
        return format_duration(3600 * amount) if "hours" in self.what else f"{amount:,.0f}"


def budget_use(
    history: History,
    limits: Limits,
    *,
    max_trials: int | None,
    seconds: float,
    unit: str = "examples",
) -> list[Use]:
    """What the search of a study has used so far: trials, training examples, hours, and GPU hours if they are limited.

    Args:
        seconds: on the clock, in all sessions of the study together.
        unit: what budgets count.
    """
    uses = [
        Use("trials", history.num_started(), max_trials),
        Use(unit, history.examples, limits.max_examples),
        Use("hours", seconds / 3600, None if limits.max_seconds is None else limits.max_seconds / 3600),
    ]
    if limits.max_worker_seconds is not None:
        hours = limits.gpus / 3600
        uses.append(Use("GPU hours", history.worker_seconds * hours, limits.max_worker_seconds * hours))
    return uses


def sentence(uses: Iterable[Use]) -> str:
    """All of them on one line."""
    return " · ".join(use.text for use in uses)
