"""The best few trials, repeated over seeds, then tested once against the default and the base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from controller.history import History
from controller.strategy import Decision, Done, Resume, Start, Test, Wait
from controller.trial import Label, Source, Trial

DEFAULT_TRIAL = 0


@dataclass(frozen=True, slots=True)
class Finalists:
    """A strategy that runs after a search.

    First the default configuration (trial 0) is brought to the full budget, then the best `count` trials of
    the full budget and the default are trained again with `repeats` other seeds, and at last the weights of
    all these runs, and the base model, are measured on the test set, each once. Nothing is chosen after that,
    and nothing is measured again when a finished study is run again.

    A search that ended (by a limit, say) before any trial but the default reached the full budget has its one
    best trial brought there first: the best of the highest rung, unless the default did better in that rung. If
    it fails on the way, the next best takes its place. Only one, since each costs a full training.

    A repeat of a trial that builds on the weights of others replays its lineage: the ancestors are trained
    again first, with other seeds and to where they handed on. All trials of a repeat carry the labels
    `finalist` and `repeat`.
    """

    count: int = 3
    repeats: int = 2
    test: bool = True

    def __post_init__(self) -> None:
        if self.count < 1 or self.repeats < 0:
            raise ValueError(f"expected count >= 1 and repeats >= 0, got {self.count} and {self.repeats}")

    def next(self, history: History) -> Decision:
        """See Strategy."""
        if history.searching:
            return Wait()
        leader = _unfinished_leader(history)
        if leader is not None:
            return Resume(leader.trial_id, history.horizon)
        default = history.trials[DEFAULT_TRIAL] if history.trials else None
        if default is not None and default.failure is None and history.horizon not in default.reports:
            return Resume(DEFAULT_TRIAL, history.horizon)
        chosen = self.chosen(history)
        if not chosen:
            return Done("no trial reached the full budget")
        for trial in chosen:
            for repeat in range(1, self.repeats + 1):
                start = _next_of_repeat(history, trial, repeat)
                if start is not None:
                    return start
        if any(job.split == "validation" for job in history.running.values()):
            return Wait()
        return self._next_test(history, chosen) if self.test else Done("finalists repeated")

    def retain(self, history: History) -> set[int]:
        """See Strategy: the runs to be tested, and those that can still be brought to the full budget."""
        leader = _unfinished_leader(history)
        kept = {DEFAULT_TRIAL} if leader is None else {DEFAULT_TRIAL, leader.trial_id}
        chosen = {trial.trial_id for trial in self.chosen(history)}
        kept.update(chosen)
        kept.update(other.trial_id for other in history.repeats if other.labels.get("finalist") in chosen)
        return kept

    def chosen(self, history: History) -> list[Trial]:
        """The finalists, best first on the run that they were found with, then the default if it is not among them."""
        best = [history.trials[trial_id] for _, trial_id in history.rung(history.horizon).waiting[: self.count]]
        default = history.trials[DEFAULT_TRIAL] if history.trials else None
        if default is not None and default not in best and history.horizon in default.reports:
            best.append(default)
        return best

    def _next_test(self, history: History, chosen: Sequence[Trial]) -> Decision:
        for trial in chosen:
            for run in runs_of(history, trial):
                measured = history.horizon in run.reports
                if measured and run.failure is None and run.running is None and history.horizon not in run.tests:
                    if _test_failed(history, run.trial_id, history.horizon):
                        continue
                    return Test(run.trial_id, history.horizon)
        base = chosen[-1]
        if 0 not in base.tests and base.running is None and not _test_failed(history, base.trial_id, 0):
            return Test(base.trial_id, 0)
        return Wait() if history.running else Done("finalists repeated and tested")


def runs_of(history: History, trial: Trial) -> list[Trial]:
    """A trial and its repeats, in the order in which they were started. Those of its ancestors are none of them."""
    repeats = [other for other in history.repeats if other.repeat_of == trial.trial_id]
    return [trial, *(other for other in repeats if other.labels.get("finalist") == trial.trial_id)]


def _unfinished_leader(history: History) -> Trial | None:
    """The trial to bring to the full budget, if none but the default has reached it."""
    if any(trial_id != DEFAULT_TRIAL for trial_id in history.rung(history.horizon).arrivals):
        return None
    for budget in reversed(history.budgets):
        first = next((entry for entry in history.rung(budget).waiting if entry[1] != DEFAULT_TRIAL), None)
        if first is not None:
            default = history.trials[DEFAULT_TRIAL]
            rivals = default.failure is None and budget in default.reports
            is_behind = rivals and history.loss(DEFAULT_TRIAL, budget) <= first[0]
            return None if is_behind else history.trials[first[1]]
    return None


def _next_of_repeat(history: History, finalist: Trial, repeat: int) -> Start | None:
    """The next trial of a repeat: the repeat itself, or before it those of the ancestors, oldest first.

    None while one of them is running, after one of them failed, and when all are done.
    """
    labels: dict[str, Label] = {"origin": "repeat", "finalist": finalist.trial_id, "repeat": repeat}
    lineage = [(ancestor.trial, ancestor.budget) for ancestor in reversed(history.lineage(finalist.trial_id))]
    source: Source | None = None
    copy_id = 0
    for original, budget in [*lineage, (finalist, history.horizon)]:
        if original.source is not None:
            source = replace(original.source, trial_id=copy_id)
        copies = [trial for trial in history.repeats if trial.repeat_of == original.trial_id and trial.labels == labels]
        if not copies:
            return Start(original.params, budget, source, labels, repeat_of=original.trial_id)
        if budget not in copies[0].reports:
            return None
        copy_id = copies[0].trial_id
    return None


def _test_failed(history: History, trial_id: int, budget: int) -> bool:
    """Whether a test of these weights was tried and ended without a result: it is not tried again."""
    trial = history.trials[trial_id]
    return budget not in trial.tests and any(
        job.trial_id == trial_id and job.split == "test" and job.to_budget == budget
        for job in history.jobs
        if job.job_id not in history.running
    )
