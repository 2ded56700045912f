"""What a person sees while a study runs: a live view on a terminal, plain lines anywhere else."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from controller.events import AttemptFailed, AttemptStarted, Event, Failed, JobCreated, Noted, Reported
from controller.finalists import DEFAULT_TRIAL
from controller.history import History
from controller.trial import Failure, Job, Progress, Report, Status, Trial
from search_spaces.space import Params, ParamValue

REFRESH_PER_SECOND = 4
PLAIN_INTERVAL = 30.0  # seconds between two lines about a running job
RATE_WINDOW = 60.0  # seconds over which the speed of a job is measured
RECENT_EVENTS = 6
MAX_REASON = 200  # characters

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(slots=True)
class _Running:
    """A job at work, as far as it was heard of. `rate` is in examples per second of training."""

    job: Job
    attempt: int
    last_line: float
    budget: int
    phase: str = "waiting"
    loss: float | None = None
    rate: float | None = None
    points: deque[tuple[float, int]] = field(default_factory=deque)

    def hear(self, message: Progress, now: float) -> None:
        """Take in a sign of life."""
        self.phase, self.budget = message.phase, message.budget
        self.loss = self.loss if message.loss is None else message.loss
        if message.phase != "train":
            self.points.clear()  # saving and measuring must not count as slow training
            return
        self.points.append((now, message.budget))
        while now - self.points[0][0] > RATE_WINDOW and len(self.points) > 2:
            self.points.popleft()
        seconds, examples = now - self.points[0][0], message.budget - self.points[0][1]
        if seconds >= 1 and examples > 0:
            self.rate = examples / seconds

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training to the end of the job at the measured rate; None before that is known."""
        left = self.job.to_budget - self.budget
        return left / self.rate if self.phase == "train" and self.rate is not None and left > 0 else None


class StudyProgress:
    """Shows a study while its controller runs: `with StudyProgress(...) as progress`.

    All methods are called by the thread that runs the controller, also from its signal handlers.

    Args:
        history: what events are applied to before `on_event` is called.
        budgets: the rungs, lowest first.
        max_trials: how many trials the search starts.
        budget_unit: what budgets count.
        console: a live view if it is interactive, else one plain line for each thing worth it.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        history: History,
        *,
        budgets: tuple[int, ...],
        max_trials: int,
        budget_unit: str = "examples",
        console: Console,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._history = history
        self._budgets = budgets
        self._max_trials = max_trials
        self._unit = budget_unit
        self._console = console
        self._clock = clock
        self._began = clock()
        self._lock = threading.RLock()  # between the controller's thread and the one that draws
        self._live: Live | None = None
        self._jobs: dict[int, _Running] = {}
        self._recent: deque[tuple[str, str, str]] = deque(maxlen=RECENT_EVENTS)
        self._statuses = {t.trial_id: t.status(history.horizon) for t in history.trials if t.repeat_of is None}
        self._rungs, self._best = _rungs_table(history, budgets, max_trials, budget_unit), _best_sentence(history)

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=REFRESH_PER_SECOND)
            self._live.start(refresh=True)
        else:
            self._say(f"{self._max_trials} trials, compared at {', '.join(map(str, self._budgets))} {self._unit}")
        if self._history.trials:
            started, jobs = self._history.num_started(), len(self._history.running)
            self._say(f"the study goes on; trials started before: {started}, jobs interrupted: {jobs}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

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
            running.hear(message, now)
        if now - running.last_line >= PLAIN_INTERVAL:
            running.last_line = now
            self._say(_running_sentence(self._history, running, self._unit), plain_only=True)

    def on_event(self, event: Event) -> None:
        """Take in an event that was just applied to the history."""
        history = self._history
        with self._lock:
            self._follow(event)
        match event:
            case JobCreated(job_id):
                self._say(_job_sentence(history, history.jobs[job_id], self._unit), plain_only=True)
            case AttemptStarted(job_id, attempt) if attempt > 1:
                self._say(f"{_who(history, job_id)} starts again (attempt {attempt})")
            case AttemptFailed(failure):
                self._say(failure_sentence(history, failure, self._unit), "yellow")
            case Failed(failure):
                self._say(failure_sentence(history, failure, self._unit), "red")
            case Reported(report):
                sentence, is_best = _report_sentence(history, report)
                self._say(sentence, "bold green" if is_best else "")
            case Noted(job_id, text):
                self._say(f"{_who(history, job_id)}, note: {one_line(text)}", "yellow")

    def _follow(self, event: Event) -> None:
        """Keep what is drawn up to date."""
        match event:
            case AttemptStarted(job_id, attempt):
                job = self._history.jobs[job_id]
                self._jobs[job_id] = _Running(job, attempt, self._clock(), job.from_budget)
            case Reported(Report(job_id=job_id)) | Failed(Failure(job_id=job_id)):
                job = self._history.jobs[job_id]
                self._jobs.pop(job_id, None)
            case _:
                return
        trial = self._history.trials[job.trial_id]
        if trial.repeat_of is None:
            self._statuses[trial.trial_id] = trial.status(self._history.horizon)
        self._rungs = _rungs_table(self._history, self._budgets, self._max_trials, self._unit)
        self._best = _best_sentence(self._history)

    def _say(self, text: str, style: str = "", *, plain_only: bool = False) -> None:
        moment = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        if self._live is None:
            encoding = self._console.encoding  # a message must not end a study because a terminal lacks a character
            self._console.out(f"{moment} {text}".encode(encoding, "replace").decode(encoding), highlight=False)
        elif not plain_only:
            with self._lock:
                self._recent.append((moment, text, style))

    def _draw(self) -> RenderableType:
        """The live view. Called by the thread that refreshes it, so it keeps to what the other has left for it."""
        width, height = self._console.size
        room = max(2, height - len(self._budgets) - RECENT_EVENTS - 11)
        with self._lock:
            jobs, recent, counts = list(self._jobs.values()), list(self._recent), Counter(self._statuses.values())
            states = "".join(f" · {counts[status]} {status.value}" for status in Status if counts[status])
            header = Table.grid(expand=True)
            header.add_column(ratio=1)
            header.add_column(justify="right", no_wrap=True)
            elapsed = Text(format_duration(self._clock() - self._began), style="dim")
            header.add_row(Text(_stage(self._history, jobs), style="bold cyan"), elapsed)
            header.add_row(Text(f"{len(self._statuses)}/{self._max_trials} trials started{states}"), "")
            header.add_row(Text(self._best, style="bold green"), "")
            parts: list[RenderableType] = [header, Text(), self._rungs]
            if jobs:
                parts += [Text(), _jobs_table(self._history, jobs[:room], width)]
        if len(jobs) > room:
            parts.append(Text(f"and {len(jobs) - room} more jobs", style="dim"))
        lines = Table.grid(padding=(0, 1, 0, 0))
        for moment, text, style in recent:
            lines.add_row(Text(moment, style="dim"), Text(text, style=style, no_wrap=True, overflow="ellipsis"))
        if recent:
            parts += [Text(), lines]
        return Group(*parts)


def _best_sentence(history: History) -> str:
    best = history.best()
    if best is None:
        return ""
    value = f"{history.objectives[0].metric} {shown(history, history.loss(best.trial_id, best.budget))}"
    return f"best: trial {best.trial_id}, {value} at {best.budget}/{history.horizon}"


def _rungs_table(history: History, budgets: Sequence[int], max_trials: int, unit: str) -> Table:
    table = table_of(unit, "<", "results", "failed", "waiting", "promoted", "best", "<")
    for budget in budgets:
        rung = history.rung(budget)
        results = len(rung.arrivals)
        bar = ProgressBar(total=max(1, max_trials), completed=results, width=12)
        counts = (results, rung.failures, len(rung.waiting), rung.promoted)
        best = (shown(history, rung.ranking[0][0]), f"trial {rung.ranking[0][1]}") if results else ("·", "")
        table.add_row(Text(str(budget)), bar, *(Text(str(count or "·")) for count in counts), *map(Text, best))
    return table


def _jobs_table(history: History, jobs: Sequence[_Running], width: int) -> Table:
    table = table_of("trial", "<configuration", "<phase", "<", "examples", "loss", "per s", "left")
    table.expand, configuration = True, table.columns[1]
    configuration.ratio, configuration.no_wrap, configuration.overflow = 1, True, "ellipsis"
    for running in jobs:
        job, left = running.job, running.seconds_left
        trains = job.split == "validation"
        bar = ProgressBar(total=max(1, job.to_budget), completed=running.budget, width=8 if width < 100 else 20)
        numbers = (
            f"{running.budget}/{job.to_budget}" if trains else "",
            "" if running.loss is None else f"{running.loss:.3f}",
            "" if running.rate is None else f"{running.rate:.1f}",
            "" if left is None else format_duration(left),
        )
        phase = f"{running.phase} (attempt {running.attempt})" if running.attempt > 1 else running.phase
        words = (str(job.trial_id), _configuration(history, job), phase)
        table.add_row(*map(Text, words), bar if trains else Text("test set"), *map(Text, numbers))
    return table


def _configuration(history: History, job: Job) -> str:
    """A job's trial in few words: where it differs from the default."""
    trial, default = history.trials[job.trial_id], history.trials[DEFAULT_TRIAL].params
    if job.split == "test" and not job.to_budget:
        return "base model"
    if trial.repeat_of is not None or trial.trial_id == DEFAULT_TRIAL:
        return origin_of(trial)
    return describe_params(trial.params, [name for name, value in trial.params.items() if default.get(name) != value])


def _stage(history: History, jobs: Sequence[_Running]) -> str:
    if any(running.job.split == "test" for running in jobs):
        return "test of the finalists"
    repeats = any(history.trials[running.job.trial_id].repeat_of is not None for running in jobs)
    return "finalists: other seeds" if repeats else "search"


def _who(history: History, job_id: int) -> str:
    job = history.jobs[job_id]
    if job.split == "test":
        return f"test of trial {job.trial_id}" if job.to_budget else "test of the base model"
    return f"trial {job.trial_id}"


def _job_sentence(history: History, job: Job, unit: str) -> str:
    trial = history.trials[job.trial_id]
    if job.split == "test":
        return f"{_who(history, job.job_id)} starts"
    if trial.reports:
        return f"trial {trial.trial_id} goes on: {job.from_budget} to {job.to_budget} {unit}"
    params = describe_params(trial.params, trial.params)
    return f"trial {trial.trial_id} starts, to {job.to_budget} {unit} ({origin_of(trial)}: {params})"


def _running_sentence(history: History, running: _Running, unit: str) -> str:
    sentence = f"{_who(history, running.job.job_id)}: {running.phase}"
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
        return f"{_who(history, job.job_id)}: {losses} in {seconds}", False
    metric = history.objectives[0].metric
    sentence = f"trial {trial.trial_id} at {job.to_budget}: {metric} {report.metrics[metric]:.4f} in {seconds}"
    if trial.repeat_of is not None:
        return f"{sentence} (repeats trial {trial.repeat_of})", False
    rung = history.rung(job.to_budget)
    if rung.ranking[0][1] != trial.trial_id:
        return sentence, False
    return f"{sentence} ({f'best of {len(rung.arrivals)}' if len(rung.arrivals) > 1 else 'the first'} there)", True


def failure_sentence(history: History, failure: Failure, unit: str) -> str:
    """What failed, when, and why."""
    after = f" after {failure.budget} {unit}" if failure.budget else ""
    return f"{_who(history, failure.job_id)} failed{after}, {failure.kind.value}: {one_line(failure.message)}"


def table_of(*columns: str) -> Table:
    """An empty table; columns of text have a < in front of their heading, the others hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        text = column.startswith("<")
        heading = Text(column.lstrip("<") if " " in column else column.lstrip("<").replace("_", "\n"))
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    return table


def shown(history: History, loss: float) -> str:
    """A validation loss as the value of its metric."""
    return f"{loss if history.objectives[0].direction == 'minimize' else -loss:.4f}"


def origin_of(trial: Trial) -> str:
    """Where a trial's parameters come from."""
    labels = trial.labels
    if trial.trial_id == DEFAULT_TRIAL:
        return "default"
    if trial.repeat_of is not None:
        return f"repeats {trial.repeat_of}"
    if "other_parent" in labels:
        return f"{labels['parent']} × {labels['other_parent']}"
    return f"from {labels['parent']}" if "parent" in labels else str(labels.get("origin", "–"))


def short_names(names: Sequence[str]) -> list[str]:
    """Dotted names without what is not needed to tell them apart."""
    last = Counter(name.rpartition(".")[2] for name in names)
    return [short if last[short := name.rpartition(".")[2]] == 1 else name for name in names]


def describe_params(params: Params, names: Iterable[str]) -> str:
    """Some parameters on one line."""
    names = list(names)
    return ", ".join(f"{short} {format_value(params[n])}" for short, n in zip(short_names(names), names, strict=True))


def format_value(value: ParamValue) -> str:
    """A parameter in at most three digits."""
    if not isinstance(value, float):
        return str(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{value:.3g}" if value == 0 or abs(value) >= 0.01 else f"{float(mantissa):g}e{int(exponent)}"


def format_duration(seconds: float) -> str:
    """42s, 4m02s, 1h04m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def one_line(text: str) -> str:
    """A message of any shape on one line: its first line and, as in a traceback, its last."""
    lines = [line.strip() for line in printable(text).splitlines() if line.strip()]
    joined = " … ".join(lines if len(lines) < 3 else (lines[0], lines[-1]))
    return joined if len(joined) <= MAX_REASON else joined[: MAX_REASON - 1] + "…"


def printable(text: str) -> str:
    """Text without control sequences, which could do anything to a terminal; newlines and tabs stay."""
    return _CONTROL.sub("", text.replace("\r", "\n"))
