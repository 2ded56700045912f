"""A history made of the events that a controller would write, for tests of what is read from it."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

import numpy as np
from rich.console import Console, RenderableType

from controller.events import AttemptStarted, Event, Failed, JobCreated, Noted, Reported, TrialCreated
from controller.history import History
from controller.trial import Continue, Failure, FailureKind, Label, Objective, Report
from search_spaces.space import ParamValue

FULL = 900
RUNGS = (100, 300, FULL)
LOSS = Objective("validation_loss")
NAMES = ("optimizer.learning_rate", "lora.rank", "lora.dropout", "optimizer.batch_size", "lora.targets")
DEFAULT: dict[str, ParamValue] = {
    "optimizer.learning_rate": 5e-4,
    "lora.rank": 32,
    "lora.dropout": 0.0,
    "optimizer.batch_size": 16,
    "lora.targets": "all-linear",
}
WEIGHTS = np.random.default_rng(7).integers(2, 20, 60).astype(float)
DIFFICULTY = np.random.default_rng(8).gamma(6, 0.35, 60)


class WrittenStudy:
    """A study of 900 examples a trial, with rungs at 100, 300 and 900.

    Every entry comes a second after the one before it, from `START` on.
    """

    START = 1_700_000_000.0

    def __init__(self, *objectives: Objective) -> None:
        self.objectives = objectives or (LOSS,)
        self.history = History(seed=3, objectives=self.objectives, horizon=FULL)
        self.entries: list[tuple[int, float, Event]] = []

    def apply(self, *events: Event) -> None:
        """Write events down."""
        for event in events:
            self.history.apply(event)
            self.entries.append((len(self.entries) + 1, self.START + len(self.entries), event))

    def start(
        self, labels: Mapping[str, Label] | None = None, repeat_of: int | None = None, **params: ParamValue | None
    ) -> int:
        """A new trial; `lora__rank=8` changes the default, None leaves the parameter out."""
        trial_id = len(self.history.trials)
        chosen = DEFAULT | {name.replace("__", "."): value for name, value in params.items()}  # type: ignore[operator]
        chosen = {name: value for name, value in chosen.items() if value is not None}
        self.apply(TrialCreated(trial_id, chosen, trial_id, None, labels or {"origin": "random"}, repeat_of))
        return trial_id

    def job(self, trial_id: int, start: int, end: int, split: str = "validation") -> int:
        """A new job, given to a worker."""
        job_id = len(self.history.jobs)
        source = Continue(trial_id, start) if start else None
        created = JobCreated(job_id, trial_id, start, end, source, split)  # type: ignore[arg-type]
        self.apply(created, AttemptStarted(job_id, 1))
        return job_id

    def train(self, trial_id: int, *results: float | Mapping[str, float]) -> None:
        """Train to one rung after the other. A job ends at the first whole batch: four examples too late."""
        for result, start, end in zip(results, (0, *RUNGS), RUNGS, strict=False):
            report = Report(self.job(trial_id, start, end), end + 4, self.metrics(result), 60.0)
            self.apply(Reported(report))

    def fail(self, trial_id: int, kind: FailureKind, message: str, start: int = 0, end: int = 100) -> None:
        """Fail after 40 examples and 5 seconds."""
        self.apply(Failed(Failure(self.job(trial_id, start, end), kind, message, start + 40, 5.0)))

    def found(self, value: float | Mapping[str, float] | FailureKind) -> int:
        """A trial of the search that went to the full budget in one stretch, or failed."""
        return self._run(self.start(), value)

    def repeat(self, trial_id: int, *values: float | Mapping[str, float] | FailureKind) -> list[int]:
        """Repeats of a trial, each trained to the full budget, or failed."""
        copies = []
        for number, value in enumerate(values, 1):
            labels: dict[str, Label] = {"origin": "repeat", "finalist": trial_id, "repeat": number}
            copies.append(self._run(self.start(labels, repeat_of=trial_id), value))
        return copies

    def test(
        self,
        trial_id: int,
        values: np.ndarray | FailureKind,
        budget: int = FULL,
        answers: tuple[str, ...] = (),
        *,
        weights: np.ndarray = WEIGHTS,
        metric: str = "test_loss",
        **metrics: float,
    ) -> None:
        """Measure a trial on the test set: the metric by example, and other metrics."""
        job_id = self.job(trial_id, budget, budget, "test")
        if isinstance(values, FailureKind):
            self.apply(Failed(Failure(job_id, values, "no luck")))
            return
        pairs = tuple(zip(values.tolist(), weights.tolist(), strict=True))
        measured = {metric: float(np.average(values, weights=weights)), **metrics}
        self.apply(Reported(Report(job_id, budget, measured, 9.0, pairs, answers)))

    def metrics(self, result: float | Mapping[str, float]) -> Mapping[str, float]:
        """A single number is the first objective."""
        return result if isinstance(result, Mapping) else {self.objectives[0].metric: result}

    def _run(self, trial_id: int, value: float | Mapping[str, float] | FailureKind) -> int:
        job_id = self.job(trial_id, 0, FULL)
        if isinstance(value, FailureKind):
            self.apply(Failed(Failure(job_id, value, "no luck")))
        else:
            self.apply(Reported(Report(job_id, FULL, self.metrics(value), 120.0)))
        return trial_id


def finished_study() -> WrittenStudy:
    """A default, two finalists, two that went on to 300, three at 100 and two failures. Trial 2 wins."""
    study = WrittenStudy()
    study.train(study.start({"origin": "enqueued"}), 2.5, 2.35, 2.30)
    study.train(study.start(optimizer__learning_rate=1.23e-3, lora__targets="mlp"), 2.4, 2.2, 2.11)
    study.train(study.start({"origin": "mutation", "parent": 1}, lora__rank=64), 2.3, 2.15, 2.05)
    study.train(study.start({"origin": "crossover", "parent": 1, "other_parent": 2}), 2.2, 2.41)
    study.train(study.start(), 2.42, 2.4)
    study.train(study.start(), 2.1)
    study.fail(study.start(), FailureKind.OOM, "CUDA out of memory.\nTried to allocate 1.2 GiB [of 8]")
    failing = study.start()
    study.train(failing, 2.0)
    study.fail(failing, FailureKind.DIVERGED, "training loss is nan", 100, 300)
    for trial_id, losses in ((2, (2.09, 2.10)), (1, (2.12, 2.10)), (0, (2.31, 2.29))):
        study.repeat(trial_id, *losses)
    noise = np.random.default_rng(1)
    for trial in list(study.history.trials):
        if FULL in trial.reports:
            family = trial.trial_id if trial.repeat_of is None else trial.repeat_of
            offset = (0.2 if family == 0 else 0.0) + noise.normal(0, 0.005)
            values = DIFFICULTY + offset + noise.normal(0, 0.05, 60)
            answers = (f"answer of {trial.trial_id}", "``` `` ```")
            study.test(trial.trial_id, values, answers=answers, test_exact_match=0.5 - offset)
    study.test(0, DIFFICULTY + 1.0, budget=0, answers=("I am\x1b[31m a base model\x07.", "?"), test_exact_match=0.0)
    study.apply(Noted(0, "the checkpoint at 100 was damaged:\n trained again"))
    return study


def rendered(renderable: RenderableType, width: int) -> str:
    """What a console of so many characters shows, without the spaces at the end of lines."""
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())
