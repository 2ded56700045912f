"""What a person sees of a study of their own function while it runs: terminal, log file or notebook."""

from __future__ import annotations

import html
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, final

from rich.console import Console

from controller.events import Event
from controller.trial import Progress, Trial
from thresher.progress import StudyProgress
from thresher.results import Snapshot
from thresher.wording import format_value

REFRESH_SECONDS: Final = 0.5
WIDTH: Final = 110
HEIGHT: Final = 40
SHOWN_TRIALS: Final = 10
_PRE: Final = '<pre style="line-height:1.2;white-space:pre;overflow-x:auto">{code}</pre>'


class StudyView(Protocol):
    """Shows a study while its controller runs."""

    def on_event(self, event: Event) -> None:
        """Take in an event that was just applied to the history."""
        ...

    def on_progress(self, message: Progress) -> None:
        """Take in a sign of life of a job."""
        ...

    def notice(self, text: str) -> None:
        """Show a sentence."""
        ...


@contextmanager
def watching(console: Console, make_progress: Callable[[Console], StudyProgress]) -> Iterator[StudyView]:
    """What shows a study on a console: itself, or in a notebook a view that draws it as the output of the cell."""
    if not console.is_jupyter:
        with make_progress(console) as progress:
            yield progress
        return
    with make_progress(silent_console()) as progress:
        view = NotebookView(progress)
        try:
            yield view
        finally:
            view.refresh()


def silent_console() -> Console:
    """A console that shows nothing."""
    return Console(file=io.StringIO(), quiet=True, force_interactive=False, force_jupyter=False, width=WIDTH)


@final
class NotebookView:
    """The live view as one output of a notebook's cell, drawn anew as things happen.

    It needs no widgets and no thread: the cell is drawn by the thread that runs the study.
    """

    def __init__(self, progress: StudyProgress) -> None:
        from IPython.display import HTML, display

        self._html: Any = HTML
        self._progress = progress
        self._drawn = time.monotonic()
        self._handle: Any = display(HTML(self.drawing()), display_id=True)  # type: ignore[no-untyped-call]

    def on_event(self, event: Event) -> None:
        """See StudyView."""
        self._progress.on_event(event)
        self._refresh_sometimes()

    def on_progress(self, message: Progress) -> None:
        """See StudyView."""
        self._progress.on_progress(message)
        self._refresh_sometimes()

    def notice(self, text: str) -> None:
        """See StudyView."""
        print(text)

    def refresh(self) -> None:
        """Draw the study as it is now."""
        self._drawn = time.monotonic()
        if self._handle is not None:
            self._handle.update(self._html(self.drawing()))

    def drawing(self) -> str:
        """The view as HTML."""
        console = Console(
            file=io.StringIO(), record=True, width=WIDTH, height=HEIGHT, force_terminal=True, force_jupyter=False
        )
        console.print(self._progress.draw())
        return console.export_html(inline_styles=True, code_format=_PRE)

    def _refresh_sometimes(self) -> None:
        if time.monotonic() - self._drawn >= REFRESH_SECONDS:
            self.refresh()


def study_html(snapshot: Snapshot) -> str:
    """A study in a few lines of HTML: where it stands, and its best trials."""
    history = snapshot.history
    ranked: list[Trial] = []
    for budget in reversed(history.budgets):
        rung = (history.trials[trial_id] for _, trial_id in history.rung(budget).ranking)
        ranked += [trial for trial in rung if trial.reports and trial.budget == budget]
    names = list(dict.fromkeys(name for trial in ranked[:SHOWN_TRIALS] for name in trial.params))
    metric = snapshot.objective.metric
    rows = [_row("th", ["trial", metric, "budget", *names])]
    for trial in ranked[:SHOWN_TRIALS]:
        value = f"{snapshot.value(history.loss(trial.trial_id, trial.budget)):.6g}"
        params = [format_value(trial.params[name]) if name in trial.params else "" for name in names]
        rows.append(_row("td", [str(trial.trial_id), value, str(trial.budget), *params]))
    title = f"<p><b>Study</b> in <code>{html.escape(str(snapshot.directory))}</code><br>"
    table = f"<table>{''.join(rows)}</table>" if ranked else ""
    return f"{title}{html.escape(snapshot.summary())}</p>{table}"


def _row(cell: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{html.escape(text)}</{cell}>' for text in texts)}</tr>"
