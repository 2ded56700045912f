"""Where a study stands: trials, rungs, who works on what, pace, budget, failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.history import History
from controller.requests import Enqueue, pending_requests, refused_requests
from controller.store import writer_of
from controller.trial import Job, Trial
from thresher.budget_use import Use, budget_use
from thresher.effort import failure_sentences, failures_to_json
from thresher.leaderboard import leaderboard
from thresher.pace import Pace, pace_of
from thresher.record import StudyRecord
from thresher.section import counted
from thresher.timeline import Attempt, Timeline
from thresher.wording import format_duration, one_line, origin_of, table_of, who

State = Literal["running", "finished", "stopped"]

MAX_TRIALS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """Where a study stands at one moment.

    Attributes:
        writer: who runs it, if anybody does.
        open_attempts: the last attempt at each job that has not ended, in the order of the jobs. Where nobody runs
            the study, that is what the next run takes up.
        queued: configurations that wait to be tried, those included that nobody has taken in yet.
        refused: requests that were set aside, with the reason.
    """

    record: StudyRecord
    writer: str | None
    open_attempts: tuple[Attempt, ...]
    pace: Pace
    uses: tuple[Use, ...]
    queued: int
    refused: tuple[str, ...]
    now: float

    @property
    def state(self) -> State:
        """Whether somebody runs it, and if not, whether it came to its end."""
        if self.writer is not None:
            return "running"
        over = not self.record.history.running and (self.record.directory / "report.json").is_file()
        return "finished" if over else "stopped"

    @property
    def summary(self) -> str:
        """All of it in one sentence."""
        history = self.record.history
        failed = sum(trial.failure is not None for trial in history.trials)
        limit = "" if self.record.max_trials is None else f" of {self.record.max_trials}"
        by = f"run by {self.writer}" if self.writer else "nobody is running it"
        jobs = counted(len(history.running), "job")
        return f"{history.num_started()}{limit} trials started, {failed} failed, {jobs} open; {by}"


def status_of(record: StudyRecord, now: float) -> StudyStatus:
    """Where a study stands.

    Args:
        now: seconds since the epoch.
    """
    history, writer = record.history, writer_of(record.directory)
    seconds = record.seconds
    if writer is not None and record.entries:
        seconds += max(0.0, now - record.entries[-1][1])
    latest = {attempt.job_id: attempt for attempt in Timeline.of(record.entries).attempts}
    pending = [filed for filed in pending_requests(record.directory) if isinstance(filed.request, Enqueue)]
    return StudyStatus(
        record=record,
        writer=writer,
        open_attempts=tuple(latest[job_id] for job_id in history.running if job_id in latest),
        pace=pace_of(
            history,
            budgets=record.budgets,
            max_trials=record.max_trials,
            limits=record.limits,
            finalists=record.finalists,
            seconds=seconds,
        ),
        uses=tuple(budget_use(history, record.limits, max_trials=record.max_trials, seconds=seconds)),
        queued=len(history.queue) - history.queue_taken + len(pending),
        refused=tuple(f"{refused.name}: {one_line(refused.reason)}" for refused in refused_requests(record.directory)),
        now=now,
    )


def status_view(status: StudyStatus) -> RenderableType:
    """The status for a person."""
    record, history = status.record, status.record.history
    parts: list[RenderableType] = [leaderboard(history, names=names_of(history), limit=MAX_TRIALS_SHOWN), Text()]
    parts += [_rungs_table(record), Text()]
    if status.open_attempts:
        parts += [_jobs_table(status), Text()]
    parts += [_uses_table(status.uses), Text()]
    sentences = list(failure_sentences(history))
    if sentences:
        parts += [
            Text("failures", style="bold"),
            *(Text(f"  {sentence}", style="red") for sentence in sentences),
            Text(),
        ]
    if status.refused:
        parts += [Text("refused requests", style="bold")]
        parts += [*(Text(f"  {reason}", style="yellow") for reason in status.refused), Text()]
    parts += [Text(line) for line in _pace_lines(status)]
    parts.append(Text(status.summary, no_wrap=True, overflow="fold"))
    return Group(*parts)


def status_data(status: StudyStatus) -> dict[str, Any]:
    """The status as plain data."""
    record, history, pace = status.record, status.record.history, status.pace
    return {
        "directory": str(record.directory),
        "state": status.state,
        "run_by": status.writer,
        "metric": history.objectives[0].metric,
        "direction": history.objectives[0].direction,
        "full_budget": history.horizon,
        "trials": [_trial_data(history, trial) for trial in history.trials],
        "rungs": [_rung_data(record, budget) for budget in record.budgets],
        "open_jobs": [_job_data(status, attempt) for attempt in status.open_attempts],
        "queued": status.queued,
        "budget": [{"what": use.what, "used": use.used, "limit": use.limit, "left": use.left} for use in status.uses],
        "jobs_per_hour": pace.jobs_per_hour,
        "examples_per_hour": pace.examples_per_hour,
        "estimated_seconds_left": pace.seconds_left if status.state != "finished" else 0.0,
        "failures": failures_to_json(history),
        "refused_requests": list(status.refused),
    }


def names_of(history: History) -> tuple[str, ...]:
    """The parameters that any trial has, in the order in which they first appear."""
    return tuple(dict.fromkeys(name for trial in history.trials for name in trial.params))


def _pace_lines(status: StudyStatus) -> list[str]:
    pace, lines = status.pace, []
    if pace.jobs_per_hour is not None and pace.examples_per_hour is not None:
        lines.append(f"pace: {pace.jobs_per_hour:,.0f} jobs and {pace.examples_per_hour:,.0f} examples an hour")
    if status.state == "finished":
        lines.append(f"finished: see {status.record.directory / 'report.md'}")
    elif pace.seconds_left is not None:
        lines.append(f"time left, an estimate: {format_duration(pace.seconds_left)}, tests not counted")
    if status.queued:
        lines.append(f"queue: {counted(status.queued, 'configuration')} to be tried next")
    if status.state == "stopped" and status.record.settings is not None:
        lines.append(f"it goes on with: thresher resume {status.record.directory}")
    return lines


def _rungs_table(record: StudyRecord) -> Table:
    table = table_of("examples", "results", "failed", "waiting", "promoted", "best", "<")
    for budget in record.budgets:
        row = _rung_data(record, budget)
        counts = (str(row[name] or "·") for name in ("results", "failed", "waiting", "promoted"))
        best = "·" if row["best"] is None else f"{row['best']:.4f}"
        who_is_best = "" if row["best_trial"] is None else f"trial {row['best_trial']}"
        table.add_row(*map(Text, (str(budget), *counts, best, who_is_best)))
    return table


def _jobs_table(status: StudyStatus) -> Table:
    history = status.record.history
    heading = "<at work" if status.writer is not None else "<interrupted"
    table = table_of(heading, "<origin", "<job", "attempt", "for")
    for attempt in status.open_attempts:
        job = history.jobs[attempt.job_id]
        since = format_duration(_seconds(status, attempt))
        words = (who(history, job.job_id), origin_of(history.trials[job.trial_id]), _stretch(job))
        table.add_row(*map(Text, (*words, str(attempt.number), since)))
    return table


def _seconds(status: StudyStatus, attempt: Attempt) -> float:
    """How long an attempt has lasted; where nobody runs the study, until its last word."""
    end = attempt.ended
    if end is None:
        end = status.now if status.writer is not None else status.record.entries[-1][1]
    return max(0.0, end - attempt.began)


def _stretch(job: Job) -> str:
    return "test set" if job.split == "test" else f"{job.from_budget} to {job.to_budget} examples"


def _uses_table(uses: tuple[Use, ...]) -> Table:
    table = table_of("<budget", "used", "limit", "left")
    for use in uses:
        cells = (use.figure(use.used), use.figure(use.limit), use.figure(use.left))
        table.add_row(*map(Text, (use.label, *cells)))
    return table


def _trial_data(history: History, trial: Trial) -> dict[str, Any]:
    metric = history.objectives[0].metric
    return {
        "trial": trial.trial_id,
        "status": trial.status(history.horizon).value,
        "origin": origin_of(trial),
        "repeat_of": trial.repeat_of,
        "budget": trial.budget,
        metric: None if not trial.reports else trial.reports[trial.budget].metrics[metric],
        "params": dict(trial.params),
    }


def _rung_data(record: StudyRecord, budget: int) -> Mapping[str, Any]:
    history = record.history
    rung = history.rung(budget)
    loss, trial_id = rung.ranking[0] if rung.arrivals else (None, None)
    return {
        "budget": budget,
        "results": len(rung.arrivals),
        "failed": len(rung.failed),
        "waiting": len(rung.waiting),
        "promoted": rung.promoted,
        "best": None if loss is None else record.value(loss),
        "best_trial": trial_id,
    }


def _job_data(status: StudyStatus, attempt: Attempt) -> dict[str, Any]:
    job = status.record.history.jobs[attempt.job_id]
    return {
        "job": job.job_id,
        "trial": job.trial_id,
        "split": job.split,
        "from_budget": job.from_budget,
        "to_budget": job.to_budget,
        "attempt": attempt.number,
        "seconds": _seconds(status, attempt),
    }
