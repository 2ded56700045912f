"""What the live view looks like: rungs filling, learning curves, jobs at work, failures, the latest news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thresher.running import RunningJob
from thresher.sparkline import sparkline
from thresher.wording import format_duration, table_of

RECENT_EVENTS: Final = 6
CURVES: Final = 5
FAILURES: Final = 3

_NARROW: Final = 72
_WIDE: Final = 100
_GRANTS: Final = (
    *(["jobs"] * 2 + ["recent"] * 2 + ["curves"] * 2 + ["failures"] + ["jobs"] * 4 + ["recent"] * 2),
    *(["curves"] * (CURVES - 2) + ["failures"] * (FAILURES - 1) + ["recent"] * (RECENT_EVENTS - 4)),
)
"""Who gets the next line of a terminal that is not high enough for all; what is left is for further jobs."""
_OVERHEAD: Final = {"jobs": 4, "recent": 1, "curves": 3, "failures": 1}
"""Empty lines, headings and rules; with the jobs also the line that says how many more there are."""


@dataclass(frozen=True, slots=True)
class RungRow:
    """A rung: how many trials of those that may be expected there have a result, and the best of them."""

    budget: int
    expected: int
    results: int
    failed: int
    waiting: int
    promoted: int
    best: str = ""
    best_trial: int | None = None


@dataclass(frozen=True, slots=True)
class CurveRow:
    """A trial's learning curve: its metric by rung, lowest rung first."""

    trial_id: int
    configuration: str
    budget: int
    value: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job at work."""

    running: RunningJob
    configuration: str


@dataclass(slots=True)
class Scene:
    """All that is drawn.

    Attributes:
        states: how many trials were started, and how they stand.
        used: what the search has used of its budget.
        curves: the best trials.
        training: the training losses of a trial, by its number, oldest first.
        failures: sentences, the latest last.
        recent: (time, text, style) of the latest news.
    """

    metric: str
    unit: str
    stage: str = "search"
    states: str = ""
    used: str = ""
    best: str = ""
    seconds: float = 0.0
    rungs: Sequence[RungRow] = ()
    curves: Sequence[CurveRow] = ()
    jobs: Sequence[JobRow] = ()
    training: Mapping[int, Sequence[float]] = field(default_factory=dict)
    failures: Sequence[str] = ()
    recent: Sequence[tuple[str, str, str]] = ()


def draw(scene: Scene, width: int, height: int) -> RenderableType:
    """The view in so many characters and lines. On a low terminal, only the foremost of each kind are shown."""
    header = Table.grid(expand=True)
    header.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    header.add_column(justify="right", no_wrap=True)
    header.add_row(Text(scene.stage, style="bold cyan"), Text(format_duration(scene.seconds), style="dim"))
    lines = [(scene.states, ""), (scene.used, "dim"), (scene.best, "bold green")]
    parts: list[RenderableType] = [header, *(_line(text, style) for text, style in lines if text), Text()]
    parts.append(_rungs_table(scene, width))
    shown = _share_lines(scene, height - len(parts) - 2 - len(scene.rungs))
    if shown["curves"]:
        parts += [Text(), _curves_table(scene, shown["curves"], width)]
    if shown["jobs"]:
        parts += [Text(), _jobs_table(scene, shown["jobs"], width)]
    if len(scene.jobs) > shown["jobs"]:
        parts.append(Text(f"and {len(scene.jobs) - shown['jobs']} more jobs", style="dim"))
    if shown["failures"]:
        parts += [Text(), *(_line(text, "red") for text in scene.failures[-shown["failures"] :])]
    if shown["recent"]:
        news = Table.grid(padding=(0, 1, 0, 0))
        news.add_column(no_wrap=True, min_width=8)
        news.add_column(no_wrap=True, overflow="ellipsis")
        for moment, text, style in scene.recent[-shown["recent"] :]:
            news.add_row(Text(moment, style="dim"), Text(text, style=style, no_wrap=True, overflow="ellipsis"))
        parts += [Text(), news]
    return Group(*parts)


def _share_lines(scene: Scene, lines: int) -> dict[str, int]:
    """How many rows of each kind are shown."""
    wanted = {
        "jobs": len(scene.jobs),
        "recent": len(scene.recent),
        "curves": min(CURVES, len(scene.curves)),
        "failures": min(FAILURES, len(scene.failures)),
    }
    shown = dict.fromkeys(wanted, 0)
    for kind in (*_GRANTS, *["jobs"] * wanted["jobs"]):
        cost = 1 if shown[kind] else 1 + _OVERHEAD[kind]
        if shown[kind] < wanted[kind] and cost <= lines:
            shown[kind] += 1
            lines -= cost
    return shown


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _table_of(*columns: str, stretched: int | None = None) -> Table:
    """A table whose rows take one line each. The column `stretched` gets all the room that the others leave."""
    table = table_of(*columns)
    for place, column in enumerate(table.columns):
        column.no_wrap, column.overflow = True, "ellipsis"
        if place == stretched:
            table.expand, column.ratio = True, 1
    return table


def _rungs_table(scene: Scene, width: int) -> Table:
    narrow = width < _NARROW
    counts = ("results", "failed") if narrow else ("results", "failed", "waiting", "promoted")
    table = _table_of(scene.unit, "<", *counts, "best", "<")
    for row in scene.rungs:
        bar = ProgressBar(total=row.expected, completed=min(row.results, row.expected), width=6 if narrow else 12)
        figures = [row.results, row.failed, row.waiting, row.promoted][: len(counts)]
        best = (row.best or "·", "" if row.best_trial is None else f"trial {row.best_trial}")
        table.add_row(Text(str(row.budget)), bar, *(Text(str(count or "·")) for count in figures), *map(Text, best))
    return table


def _curves_table(scene: Scene, count: int, width: int) -> Table:
    """The best trials with their curves. All curves of a kind share one scale, so that they compare."""
    rows = scene.curves[:count]
    bars = 8 if width < _NARROW else 16 if width < _WIDE else 24
    wide = width >= _NARROW
    what = ["<configuration"] if wide else []
    columns = ("trial", *what, "at", scene.metric.replace("_", " "), "<", "<training loss")
    table = _table_of(*columns, stretched=1 if wide else None)
    values = [value for row in rows for value in row.values]
    losses = [loss for row in rows for loss in scene.training.get(row.trial_id, ())]
    for row in rows:
        by_rung = sparkline(row.values, low=min(values), high=max(values))
        training = scene.training.get(row.trial_id, ())
        by_step = sparkline(training, width=bars, low=min(losses), high=max(losses)) if training else ""
        words = (str(row.trial_id), *([row.configuration] if wide else []), str(row.budget), row.value)
        table.add_row(*map(Text, words), Text(by_rung, style="green"), Text(by_step, style="cyan"))
    return table


def _jobs_table(scene: Scene, count: int, width: int) -> Table:
    wide = width >= _NARROW
    columns = ["trial", "<configuration", "<phase", "<", scene.unit, "loss"]
    table = _table_of(*columns, *(["per s", "left"] if wide else []), stretched=1)
    for row in scene.jobs[:count]:
        running = row.running
        job, left = running.job, running.seconds_left
        trains = job.split == "validation"
        bar = ProgressBar(total=max(1, job.to_budget), completed=running.budget, width=8 if width < _WIDE else 20)
        figures = [
            f"{running.budget}/{job.to_budget}" if trains else "",
            "" if running.loss is None else f"{running.loss:.3f}",
        ]
        if wide:
            figures.append("" if running.rate is None else f"{running.rate:.1f}")
            figures.append("" if left is None else format_duration(left))
        phase = f"{running.phase} (attempt {running.attempt})" if running.attempt > 1 else running.phase
        words = (str(job.trial_id), row.configuration, phase)
        table.add_row(*map(Text, words), bar if trains else Text("test set"), *map(Text, figures))
    return table
