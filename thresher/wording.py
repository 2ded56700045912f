"""Words and numbers as people read them, the same in the live view, the tables and the reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from controller.finalists import DEFAULT_TRIAL
from controller.history import History
from controller.trial import Failure, Trial
from search_spaces.space import Params, ParamValue

MAX_REASON = 200  # characters
MAX_FAILURES = 50  # that are looked at for a summary

_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def who(history: History, job_id: int) -> str:
    """Which trial, or test of which, a job belongs to."""
    job = history.jobs[job_id]
    if job.split == "test":
        return f"test of trial {job.trial_id}" if job.to_budget else "test of the base model"
    return f"trial {job.trial_id}"


def failure_sentence(history: History, failure: Failure, unit: str) -> str:
    """What failed, when, and why."""
    after = f" after {failure.budget} {unit}" if failure.budget else ""
    return f"{who(history, failure.job_id)} failed{after}, {failure.kind.value}: {one_line(failure.message)}"


def failures_in_short(history: History) -> list[str]:
    """The failures that ended trials or tests, alike ones on one line, the latest last."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in history.failures[-MAX_FAILURES:]:
        reason = failure.kind.value, one_line(failure.message)
        groups[reason] = [*groups.pop(reason, []), who(history, failure.job_id)]
    return [f"{_listed(whose)} failed, {kind}: {message}" for (kind, message), whose in groups.items()]


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def table_of(*columns: str) -> Table:
    """An empty table; columns of text have a < in front of their heading, the others hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        text = column.startswith("<")
        heading = Text(column.lstrip("<") if " " in column else column.lstrip("<").replace("_", "\n"))
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    return table


def shown(history: History, loss: float) -> str:
    """A loss of the first objective as the value of its metric."""
    return f"{loss if history.objectives[0].direction == 'minimize' else -loss:.4f}"


def origin_of(trial: Trial) -> str:
    """Where a trial's parameters come from."""
    labels = trial.labels
    if trial.trial_id == DEFAULT_TRIAL and labels.get("origin", "enqueued") == "enqueued":
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
    """Some parameters on one line; those that the trial does not have are left out."""
    names = [name for name in names if name in params]
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
