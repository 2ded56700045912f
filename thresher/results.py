"""A study as it stands at one moment: what the Python API shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controller.finalists import Finalists
from controller.history import History
from controller.standings import standings
from controller.store import Store
from controller.trial import Objective, Status
from search_spaces.space import Params, Space

if TYPE_CHECKING:
    from thresher.record import StudyRecord

FUNCTION_KEY = "function"
"""The key of a manifest that tells the study of a function from one of fine-tuning."""


class StudyError(ValueError):
    """A study cannot do, or does not have, what was asked of it."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best configuration of a study.

    Attributes:
        trial: the number of the trial that it was found with.
        params: its parameters.
        metric: what was optimised.
        value: the metric at `budget`: for a finalist with repeats the mean over the runs that count.
        budget: the highest rung that holds a result. Values at other budgets are not comparable with this one.
        runs: the trials that the value is the mean of: its repeats, or without any the trial itself.
    """

    trial: int
    params: Params
    metric: str
    value: float
    budget: int
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a study.

    Attributes:
        budgets: the rungs, lowest first.
        max_trials: how many trials the search starts in all; None if that is not limited.
        finalists: which trials are repeated at the end; None for none.
        finished: nothing is left to do.
    """

    directory: Path
    history: History
    budgets: tuple[int, ...]
    max_trials: int | None
    finalists: Finalists | None
    finished: bool

    @property
    def objective(self) -> Objective:
        """What the trials are ranked by."""
        return self.history.objectives[0]

    def value(self, loss: float) -> float:
        """A loss as the value of its metric."""
        return loss if self.objective.direction == "minimize" else -loss

    def best(self) -> Best:
        """The best of the finalists, or before there are any, of the highest rung. Raises StudyError if none."""
        history, metric = self.history, self.objective.metric
        ranked = [] if self.finalists is None else standings(history, self.finalists)
        if ranked:
            first = ranked[0]
            runs = tuple(run.trial_id for run in first.counted)
            return Best(first.trial.trial_id, first.trial.params, metric, self.value(first.mean), history.horizon, runs)
        trial = history.best()
        if trial is None:
            failures = [trial.failure for trial in history.trials if trial.failure is not None]
            remedy = "run the study first"
            if failures:
                remedy = f"{len(failures)} failed, the first with: {failures[0].message.splitlines()[-1]}"
            raise StudyError(f"expected a trial that was measured in {self.directory}, got none; {remedy}")
        value = self.value(history.loss(trial.trial_id, trial.budget))
        return Best(trial.trial_id, trial.params, metric, value, trial.budget, (trial.trial_id,))

    def counts(self) -> dict[str, int]:
        """How many trials of the search stand where, by status; those without any left out."""
        statuses = [trial.status(self.history.horizon) for trial in self.history.trials if trial.repeat_of is None]
        return {status.value: statuses.count(status) for status in Status if status in statuses}

    def summary(self) -> str:
        """Where the study stands, in one line."""
        history = self.history
        states = "".join(f", {count} {status}" for status, count in self.counts().items())
        of_all = "" if self.max_trials is None else f" of {self.max_trials}"
        line = f"{history.num_started()}{of_all} trials started{states}"
        if history.best() is None:
            return line
        best = self.best()
        return f"{line}; best {best.metric} {best.value:.6g} (trial {best.trial}, at {best.budget}/{history.horizon})"


def replay(store: Store, *, seed: int, objective: Objective, horizon: int) -> History:
    """The history that a journal adds up to."""
    events = (event for _, _, event in store.events())
    return History.replay(events, seed=seed, objectives=(objective,), horizon=horizon)


def read_study(directory: Path) -> Snapshot:
    """Where the study in a directory stands, of a function or of fine-tuning, also while it runs.

    Raises StoreError if there is none, RecordError if it has only just begun.
    """
    from thresher.record import StudyRecord

    record = StudyRecord.open(directory)
    finished = bool(record.manifest.get("finished")) or (directory / "report.json").is_file()
    return Snapshot(directory, record.history, record.budgets, record.max_trials, record.finalists, finished)


def searched_space(record: StudyRecord) -> Space:
    """What a study searches, of a function or of fine-tuning. Raises StudyError if it is not on record."""
    if FUNCTION_KEY in record.manifest:
        return Space.from_dict(record.manifest[FUNCTION_KEY]["space"])
    space = record.space
    if space is None:
        raise StudyError(
            f"expected a study with its space on record in {record.directory}, got one of a version that did not keep "
            "it; read it with that version"
        )
    return space


def function_finalists(count: int, repeats: int) -> Finalists | None:
    """The finalists of a function's study, which has no test set; None if none were asked for."""
    return Finalists(count, repeats, test=False) if count else None
