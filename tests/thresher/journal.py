"""A study without training: a journal as a controller would have written it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controller.events import AttemptStarted, Failed, JobCreated, Reported, TrialCreated
from controller.store import Store
from controller.trial import Continue, Failure, FailureKind, Label, Report, Split
from thresher.record import StudyRecord

DEFAULTS = {"optimizer.learning_rate": 3e-3, "lora.rank": 4, "lora.dropout": 0.1}
BUDGETS = (8, 16)


@dataclass
class Journal:
    """Writes the journal of a study as a controller would, without training anything."""

    store: Store
    trials: int = 0
    jobs: int = 0
    budgets: dict[int, int] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Of the study."""
        return self.store.path.parent

    @property
    def record(self) -> StudyRecord:
        """What the commands that only read see of it."""
        return StudyRecord.open(self.directory)

    def start(
        self,
        loss: float,
        *,
        rank: int = 4,
        repeat_of: int | None = None,
        budget: int = BUDGETS[0],
        metric: str = "validation_loss",
    ) -> int:
        """A trial, trained to its first budget; its number."""
        labels: dict[str, Label] = {} if repeat_of is None else {"finalist": repeat_of, "repeat": 1}
        trial_id = self.create(labels, rank=rank, repeat_of=repeat_of)
        self.train(trial_id, budget, loss, metric)
        return trial_id

    def create(self, labels: dict[str, Label], *, rank: int = 4, repeat_of: int | None = None) -> int:
        """A trial without any job yet; its number."""
        params = {"optimizer.learning_rate": 3e-3, "lora.rank": rank}
        trial_id, self.trials = self.trials, self.trials + 1
        self.store.append([TrialCreated(trial_id, params, seed=100 + trial_id, labels=labels, repeat_of=repeat_of)])
        return trial_id

    def train(self, trial_id: int, budget: int, loss: float, metric: str = "validation_loss") -> None:
        """Train a trial on to a budget."""
        job = self.begin(trial_id, budget)
        report = Report(job, budget, {metric: loss, "answer_tokens": 7.0, "train_loss": loss - 0.1}, seconds=1.0)
        self.store.append([Reported(report)])
        self.budgets[trial_id] = budget

    def test(self, trial_id: int, losses: Sequence[float], metric: str = "test_loss") -> None:
        """Measure a trial on the test set, with a loss for each example."""
        budget = self.budgets[trial_id]
        job = self.begin(trial_id, budget, "test")
        per_example = tuple((loss, 1.0) for loss in losses)
        report = Report(job, budget, {metric: sum(losses) / len(losses)}, seconds=1.0, per_example=per_example)
        self.store.append([Reported(report)])

    def fail(self, message: str, kind: FailureKind = FailureKind.CRASH) -> int:
        """A trial that fails before its first budget; its number."""
        trial_id = self.create({"origin": "random"})
        self.store.append([Failed(Failure(self.begin(trial_id, BUDGETS[0]), kind, message, seconds=1.0))])
        return trial_id

    def begin(self, trial_id: int, budget: int, split: Split = "validation") -> int:
        """A job that does not end; its number."""
        job, self.jobs = self.jobs, self.jobs + 1
        before = self.budgets.get(trial_id, 0)
        source = Continue(trial_id, before) if before else None
        self.store.append([JobCreated(job, trial_id, before, budget, source, split), AttemptStarted(job, 1)])
        return job
