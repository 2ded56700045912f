"""Everything that is known of one trial."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.history import History
from controller.trial import Continue, Report, Trial
from search_spaces.space import ParamValue
from thresher.record import RecordError, StudyRecord
from thresher.sparkline import sparkline
from thresher.timeline import Attempt, Timeline
from thresher.wording import format_duration, format_value, one_line, table_of


def find_trial(record: StudyRecord, trial_id: int) -> Trial:
    """A trial by its number. Raises RecordError if there is none of it."""
    trials = record.history.trials
    if not 0 <= trial_id < len(trials):
        there = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise RecordError(
            f"expected the number of a trial of {record.directory} ({there}), got {trial_id}; "
            "`thresher status` lists them"
        )
    return trials[trial_id]


def trial_view(record: StudyRecord, trial: Trial) -> RenderableType:
    """A trial for a person: its parameters, origin, rungs, learning curve, attempts, notes and files."""
    history = record.history
    heading = f"trial {trial.trial_id}: {trial.status(history.horizon).value} at {trial.budget} of {history.horizon}"
    parts: list[RenderableType] = [Text(heading, style="bold"), Text(origin_sentence(history, trial)), Text()]
    parts += [_params_table(record, trial), Text()]
    if trial.reports:
        parts += [_reports_table(history, trial), Text(), *_curves(history, trial), Text()]
    if trial.tests:
        parts += [Text("test set", style="bold"), _tests_table(trial), Text()]
    attempts = _attempts(record, trial)
    if attempts:
        parts += [_attempts_table(history, attempts), Text()]
    parts += _files(record, trial)
    return Group(*parts)


def trial_data(record: StudyRecord, trial: Trial) -> dict[str, Any]:
    """A trial as plain data."""
    history = record.history
    source = trial.source
    return {
        "trial": trial.trial_id,
        "status": trial.status(history.horizon).value,
        "origin": origin_sentence(history, trial),
        "labels": dict(trial.labels),
        "repeat_of": trial.repeat_of,
        "source": None if source is None else {"kind": type(source).__name__.lower(), **_place(source)},
        "seed": trial.seed,
        "budget": trial.budget,
        "full_budget": history.horizon,
        "params": dict(trial.params),
        "fixed": {name: value for name, value in record.defaults.items() if name not in trial.params},
        "rungs": [
            {**_report_data(budget, report), "rank": rank, "of": count}
            for budget, report in trial.reports.items()
            for rank, count in [_rank(history, trial, budget)]
        ],
        "tests": [_report_data(budget, report) for budget, report in trial.tests.items()],
        "attempts": [_attempt_data(history, attempt) for attempt in _attempts(record, trial)],
        "notes": _notes(history, trial),
        "checkpoints": [str(path) for path, _ in _checkpoints(record, trial)],
        "logs": [str(path) for path in _logs(record)],
    }


def origin_sentence(history: History, trial: Trial) -> str:
    """Where a trial's parameters and first weights come from."""
    labels = trial.labels
    origin = str(labels.get("origin", "enqueued" if trial.trial_id == 0 else "unknown"))
    if trial.repeat_of is not None:
        text = f"repeats trial {trial.repeat_of} with another seed"
        if "finalist" in labels and labels["finalist"] != trial.repeat_of:
            text += f", on behalf of finalist {labels['finalist']}"
    elif "other_parent" in labels:
        text = f"{origin} of trials {labels['parent']} and {labels['other_parent']}"
    elif "parent" in labels:
        text = f"{origin} of trial {labels['parent']}"
    elif origin == "enqueued":
        text = "the default configuration" if trial.trial_id == 0 else "enqueued by somebody"
    else:
        text = f"a {origin} draw" if origin == "random" else f"origin: {origin}"
    if trial.source is not None:
        what = "goes on from" if isinstance(trial.source, Continue) else "starts with the weights of"
        text += f"; {what} trial {trial.source.trial_id} at {trial.source.budget}"
    repeats = [other.trial_id for other in history.repeats if other.repeat_of == trial.trial_id]
    if repeats:
        text += f"; repeated in {', '.join(f'trial {number}' for number in repeats)}"
    return f"{text}; seed {trial.seed}"


def _params_table(record: StudyRecord, trial: Trial) -> Table:
    table = table_of("<parameter", "value", "default", "<")
    default = record.params(record.history.trials[0])
    for name, value in sorted(record.params(trial).items()):
        searched = name in trial.params
        before = "" if default.get(name) == value else _value(default.get(name))
        words = (name, _value(value), before, "searched" if searched else "fixed")
        table.add_row(*map(Text, words), style=None if searched else "dim")
    return table


def _reports_table(history: History, trial: Trial) -> Table:
    metrics = _metric_names(history, list(trial.reports.values()))
    table = table_of("rung", "examples", *metrics, "rank", "time")
    for budget, report in trial.reports.items():
        rank, count = _rank(history, trial, budget)
        values = (f"{report.metrics[name]:.4f}" if name in report.metrics else "–" for name in metrics)
        place = "–" if rank is None else f"{rank} of {count}"
        cells = (str(budget), str(report.budget), *values, place, format_duration(report.seconds))
        table.add_row(*map(Text, cells))
    return table


def _tests_table(trial: Trial) -> Table:
    metrics = list(dict.fromkeys(name for report in trial.tests.values() for name in report.metrics))
    table = table_of("<weights", *metrics, "time")
    for budget, report in trial.tests.items():
        weights = f"at {budget} examples" if budget else "base model"
        values = (f"{report.metrics[name]:.4f}" if name in report.metrics else "–" for name in metrics)
        table.add_row(*map(Text, (weights, *values, format_duration(report.seconds))))
    return table


def _curves(history: History, trial: Trial) -> list[Text]:
    """A line for the metric, and one for the training loss, each from the lowest rung to the highest."""
    metrics = dict.fromkeys((history.objectives[0].metric,), "green") | {"train_loss": "cyan"}
    lines = []
    for name, style in metrics.items():
        values = [report.metrics[name] for report in trial.reports.values() if name in report.metrics]
        if values:
            line = Text(f"{name} by rung  ")
            line.append(sparkline(values), style=style)
            line.append(f"  {values[0]:.4f} to {values[-1]:.4f}" if len(values) > 1 else f"  {values[0]:.4f}")
            lines.append(line)
    return lines


def _attempts_table(history: History, attempts: Sequence[Attempt]) -> Table:
    table = table_of("job", "<to", "attempt", "<began", "time", "<outcome")
    for attempt in attempts:
        job = history.jobs[attempt.job_id]
        goal = str(job.to_budget) if job.split == "validation" else "test set"
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.began))
        took = "" if attempt.ended is None else format_duration(attempt.ended - attempt.began)
        style = "red" if attempt.failure is not None else None
        cells = (str(attempt.job_id), goal, str(attempt.number), began, took, _outcome(attempt))
        table.add_row(*map(Text, cells), style=style)
    return table


def _outcome(attempt: Attempt) -> str:
    if attempt.failure is not None:
        return f"{attempt.failure.kind.value}: {one_line(attempt.failure.message)}"
    return attempt.ending or "not ended"


def _files(record: StudyRecord, trial: Trial) -> list[RenderableType]:
    lines = [f"note: {one_line(text)}" for text in _notes(record.history, trial)]
    for path, size in _checkpoints(record, trial):
        lines.append(f"checkpoint: {path} ({size / 1e6:.1f} MB)")
    if not _checkpoints(record, trial):
        lines.append("checkpoints: none on disk (those that the search can no longer need are deleted)")
    lines += [f"log of the worker: {path}" for path in _logs(record)]
    return [Text(line) for line in lines]


def _attempts(record: StudyRecord, trial: Trial) -> list[Attempt]:
    jobs = {job.job_id for job in record.history.jobs if job.trial_id == trial.trial_id}
    return [attempt for attempt in Timeline.of(record.entries).attempts if attempt.job_id in jobs]


def _notes(history: History, trial: Trial) -> list[str]:
    return [note.text for note in history.notes if history.jobs[note.job_id].trial_id == trial.trial_id]


def _checkpoints(record: StudyRecord, trial: Trial) -> list[tuple[Path, int]]:
    """The directories of a trial's checkpoints with their sizes in bytes."""
    found = []
    for path in sorted((record.directory / "checkpoints" / f"trial-{trial.trial_id:04d}").glob("[!.]*")):
        if path.is_dir():
            found.append((path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())))
    return found


def _logs(record: StudyRecord) -> list[Path]:
    """What the workers printed. Which of them had a trial the journal does not say."""
    return sorted((record.directory / "logs").glob("worker-*.log"))


def _metric_names(history: History, reports: Sequence[Report]) -> list[str]:
    """The objectives first, then whatever else was measured."""
    measured = [name for report in reports for name in report.metrics]
    return list(dict.fromkeys([*(objective.metric for objective in history.objectives), *measured]))


def _rank(history: History, trial: Trial, budget: int) -> tuple[int | None, int]:
    """A trial's place at a rung, from 1, among how many; repeats have none."""
    rung = history.rung(budget)
    if trial.repeat_of is not None or budget not in trial.reports:
        return None, len(rung.ranking)
    return rung.rank((history.loss(trial.trial_id, budget), trial.trial_id)) + 1, len(rung.ranking)


def _report_data(budget: int, report: Report) -> dict[str, Any]:
    return {"rung": budget, "examples": report.budget, "seconds": report.seconds, "metrics": dict(report.metrics)}


def _attempt_data(history: History, attempt: Attempt) -> dict[str, Any]:
    job, failure = history.jobs[attempt.job_id], attempt.failure
    return {
        "job": attempt.job_id,
        "split": job.split,
        "from_budget": job.from_budget,
        "to_budget": job.to_budget,
        "attempt": attempt.number,
        "began": attempt.began,
        "ended": attempt.ended,
        "ending": attempt.ending,
        "failure": None if failure is None else {"kind": failure.kind.value, "message": failure.message},
    }


def _place(source: Any) -> dict[str, int]:
    return {"trial": source.trial_id, "budget": source.budget}


def _value(value: ParamValue | None) -> str:
    return "–" if value is None else format_value(value)
