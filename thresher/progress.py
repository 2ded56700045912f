"""What a person sees while a study runs: a live view on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from controller.events import AttemptFailed, AttemptStarted, Enqueued, Event, Failed, JobCreated, Noted, Reported
from controller.finalists import DEFAULT_TRIAL
from controller.history import History
from controller.limits import Limits
from controller.trial import Failure, Job, Progress, Report, Status, Trial
from thresher.budget_use import budget_use, sentence
from thresher.live_view import CURVES, RECENT_EVENTS, CurveRow, JobRow, RungRow, Scene, draw
from thresher.running import RunningJob
from thresher.sparkline import Curve
from thresher.wording import (
    describe_params,
    failure_sentence,
    failures_in_short,
    format_duration,
    one_line,
    origin_of,
    shown,
    who,
)

REFRESH_PER_SECOND = 4
PLAIN_INTERVAL = 30.0  # seconds between two lines about a running job


class StudyProgress:
    """Shows a study while its controller runs: `with StudyProgress(...) as progress`.

    All methods but `draw` are called by the thread that runs the controller, also from its signal handlers.

    Args:
        history: what events are applied to before `on_event` is called.
        budgets: the rungs, lowest first.
        max_trials: how many trials the search starts; None if that is not limited.
        limits: what else limits the search.
        elapsed: seconds that the study has run in all its sessions, by default since now.
        budget_unit: what budgets count.
        console: a live view if it is interactive and shows Unicode, else one plain line for each thing worth it.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        history: History,
        *,
        budgets: tuple[int, ...],
        max_trials: int | None,
        limits: Limits | None = None,
        elapsed: Callable[[], float] | None = None,
        budget_unit: str = "examples",
        console: Console,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history = history
        self._budgets = budgets
        self._max_trials = max_trials
        self._limits = limits or Limits()
        self._unit = budget_unit
        self._console = console
        self._clock = clock
        self._began = clock()
        self._elapsed = elapsed or (lambda: clock() - self._began)
        self._lock = threading.RLock()  # between the controller's thread and the one that draws
        self._live: Live | None = None
        self._jobs: dict[int, RunningJob] = {}
        self._training: dict[int, Curve] = {}
        self._recent: deque[tuple[str, str, str]] = deque(maxlen=RECENT_EVENTS)
        self._statuses = {t.trial_id: t.status(history.horizon) for t in history.trials if t.repeat_of is None}
        self._scene = Scene(history.objectives[0].metric, budget_unit)
        self._set_scene()

    def __enter__(self) -> Self:
        if self._console.is_interactive and not self._console.options.ascii_only:
            self._live = Live(console=self._console, get_renderable=self.draw, refresh_per_second=REFRESH_PER_SECOND)
            self._live.start(refresh=True)
        else:
            trials = f"{self._max_trials} trials, " if self._max_trials is not None else ""
            self._say(f"{trials}compared at {', '.join(map(str, self._budgets))} {self._unit}")
        if self._history.trials:
            started, jobs = self._history.num_started(), len(self._history.running)
            self._say(f"the study goes on; trials started before: {started}, jobs interrupted: {jobs}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
        elif self._history.trials:
            self._say(f"used so far: {self._used()}")

    def notice(self, text: str) -> None:
        """Show a sentence."""
        self._say(one_line(text), "yellow")

    def on_progress(self, message: Progress) -> None:
        """Take in a sign of life of a job."""
        now = self._clock()
        running = self._jobs.get(message.job_id)
        if running is None:
            return
        with self._lock:
            is_step = message.loss is not None and message.phase == "train" and message.budget != running.budget
            running.hear(message, now)
            if is_step and message.loss is not None:
                self._training.setdefault(running.job.trial_id, Curve()).add(message.loss)
        if now - running.last_line >= PLAIN_INTERVAL:
            running.last_line = now
            self._say(_running_sentence(self._history, running, self._unit), plain_only=True)

    def on_event(self, event: Event) -> None:
        """Take in an event that was just applied to the history."""
        history = self._history
        with self._lock:
            self._follow(event)
        match event:
            case Enqueued(params):
                self._say(f"enqueued: {describe_params(params, params)}")
            case JobCreated(job_id):
                self._say(_job_sentence(history, history.jobs[job_id], self._unit), plain_only=True)
            case AttemptStarted(job_id, attempt) if attempt > 1:
                self._say(f"{who(history, job_id)} starts again (attempt {attempt})")
            case AttemptFailed(failure):
                self._say(failure_sentence(history, failure, self._unit), "yellow")
            case Failed(failure):
                self._say(failure_sentence(history, failure, self._unit), "red")
            case Reported(report):
                text, is_best = _report_sentence(history, report)
                self._say(text, "bold green" if is_best else "")
            case Noted(job_id, text):
                self._say(f"{who(history, job_id)}, note: {one_line(text)}", "yellow")

    def draw(self) -> RenderableType:
        """The live view as it is now, in the size of the console. May be called by any thread.

        It keeps to what the controller's thread has left for it, which may be changing the history just now.
        """
        with self._lock:
            scene = self._scene
            jobs = list(self._jobs.values())
            counts = Counter(self._statuses.values())
            states = "".join(f" · {counts[status]} {status.value}" for status in Status if counts[status])
            limit = "" if self._max_trials is None else f"/{self._max_trials}"
            scene.stage = _stage(self._history, jobs)
            scene.states = f"{len(self._statuses)}{limit} trials started{states}"
            scene.used = f"used: {self._used()}"
            scene.seconds = self._clock() - self._began
            scene.jobs = [JobRow(running, _configuration(self._history, running.job)) for running in jobs]
            scene.training = {trial_id: curve.points for trial_id, curve in self._training.items()}
            scene.recent = list(self._recent)
            width, height = self._console.size
            return draw(scene, width, height)

    def _used(self) -> str:
        uses = budget_use(
            self._history,
            self._limits,
            max_trials=self._max_trials,
            seconds=self._elapsed(),
            unit=self._unit,
        )
        return sentence(use for use in uses if use.what != "trials")

    def _follow(self, event: Event) -> None:
        """Keep what is drawn up to date."""
        match event:
            case AttemptStarted(job_id, attempt):
                job = self._history.jobs[job_id]
                self._jobs[job_id] = RunningJob(job, attempt, self._clock(), job.from_budget)
            case Reported(Report(job_id=job_id)) | Failed(Failure(job_id=job_id)):
                job = self._history.jobs[job_id]
                self._jobs.pop(job_id, None)
            case _:
                return
        trial = self._history.trials[job.trial_id]
        if trial.repeat_of is None:
            self._statuses[trial.trial_id] = trial.status(self._history.horizon)
        self._set_scene()

    def _set_scene(self) -> None:
        """Read off the history what the thread that draws will need."""
        history, scene = self._history, self._scene
        scene.best = _best_sentence(history)
        scene.rungs = _rung_rows(history, self._budgets, self._max_trials)
        scene.curves = _curve_rows(history)
        scene.failures = failures_in_short(history)

    def _say(self, text: str, style: str = "", *, plain_only: bool = False) -> None:
        moment = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        if self._live is None:
            encoding = self._console.encoding  # a message must not end a study because a terminal lacks a character
            self._console.out(f"{moment} {text}".encode(encoding, "replace").decode(encoding), highlight=False)
        elif not plain_only:
            with self._lock:
                self._recent.append((moment, text, style))


def _best_sentence(history: History) -> str:
    best = history.best()
    if best is None:
        return ""
    value = f"{history.objectives[0].metric} {shown(history, history.loss(best.trial_id, best.budget))}"
    return f"best: trial {best.trial_id}, {value} at {best.budget}/{history.horizon}"


def _rung_rows(history: History, budgets: Sequence[int], max_trials: int | None) -> list[RungRow]:
    rows = []
    for budget in budgets:
        rung = history.rung(budget)
        results = len(rung.arrivals)
        best = (shown(history, rung.ranking[0][0]), rung.ranking[0][1]) if results else ("", None)
        # Of those at the lowest rung about one in budget / lowest comes so far, if rungs are geometric.
        expected = max(1, round((max_trials or history.num_started()) * budgets[0] / budget))
        rows.append(RungRow(budget, expected, results, len(rung.failed), len(rung.waiting), rung.promoted, *best))
    return rows


def _curve_rows(history: History) -> list[CurveRow]:
    """The best trials: those of the highest rung, then those of the next that did not come further."""
    metric = history.objectives[0].metric
    found: dict[int, CurveRow] = {}
    for budget in reversed(history.budgets):
        for loss, trial_id in islice(history.rung(budget).ranking, 20 * CURVES):
            if len(found) == CURVES or math.isinf(loss):
                break
            if trial_id not in found:
                trial = history.trials[trial_id]
                values = tuple(report.metrics[metric] for report in trial.reports.values())
                found[trial_id] = CurveRow(trial_id, _difference(history, trial), budget, shown(history, loss), values)
    return list(found.values())


def _configuration(history: History, job: Job) -> str:
    """A job's trial in few words: where it differs from the default."""
    trial = history.trials[job.trial_id]
    if job.split == "test" and not job.to_budget:
        return "base model"
    return origin_of(trial) if trial.repeat_of is not None else _difference(history, trial)


def _difference(history: History, trial: Trial) -> str:
    """Where a trial differs from the default."""
    if trial.trial_id == DEFAULT_TRIAL:
        return origin_of(trial)
    default = history.trials[DEFAULT_TRIAL].params
    return describe_params(trial.params, [name for name, value in trial.params.items() if default.get(name) != value])


def _stage(history: History, jobs: Sequence[RunningJob]) -> str:
    if any(running.job.split == "test" for running in jobs):
        return "test of the finalists"
    repeats = any(history.trials[running.job.trial_id].repeat_of is not None for running in jobs)
    return "finalists: other seeds" if repeats else "search"


def _job_sentence(history: History, job: Job, unit: str) -> str:
    trial = history.trials[job.trial_id]
    if job.split == "test":
        return f"{who(history, job.job_id)} starts"
    if trial.reports:
        return f"trial {trial.trial_id} goes on: {job.from_budget} to {job.to_budget} {unit}"
    params = describe_params(trial.params, trial.params)
    return f"trial {trial.trial_id} starts, to {job.to_budget} {unit} ({origin_of(trial)}: {params})"


def _running_sentence(history: History, running: RunningJob, unit: str) -> str:
    sentence = f"{who(history, running.job.job_id)}: {running.phase}"
    if running.job.split == "validation":
        sentence += f", {running.budget}/{running.job.to_budget} {unit}"
    if running.loss is not None:
        sentence += f", training loss {running.loss:.3f}"
    if running.rate is not None:
        sentence += f", {running.rate:.1f} {unit}/s"
    if running.seconds_left is not None:
        sentence += f", {format_duration(running.seconds_left)} of training left"
    return sentence


def _report_sentence(history: History, report: Report) -> tuple[str, bool]:
    """What a job found, and whether no trial did better at its budget."""
    job = history.jobs[report.job_id]
    trial, seconds = history.trials[job.trial_id], format_duration(report.seconds)
    if job.split == "test":
        losses = ", ".join(f"{name} {value:.4f}" for name, value in report.metrics.items())
        return f"{who(history, job.job_id)}: {losses} in {seconds}", False
    metric = history.objectives[0].metric
    sentence = f"trial {trial.trial_id} at {job.to_budget}: {metric} {report.metrics[metric]:.4f} in {seconds}"
    if trial.repeat_of is not None:
        return f"{sentence} (repeats trial {trial.repeat_of})", False
    rung = history.rung(job.to_budget)
    if rung.ranking[0][1] != trial.trial_id:
        return sentence, False
    return f"{sentence} ({f'best of {len(rung.arrivals)}' if len(rung.arrivals) > 1 else 'the first'} there)", True
