"""What is seen of a study while it runs."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import psutil
import pytest
from rich.console import Console

from controller.history import History
from controller.trial import Objective
from thresher.notebook import silent_console, study_html, watching
from thresher.progress import StudyProgress
from thresher.results import Snapshot

FIRST = """
import os
from thresher import Float, Study
scale = 2.0
def objective(params, budget, checkpoint_dir):
    return {"objective": scale * params["x"] + 1 / budget, "pid": os.getpid()}
study = Study({"x": Float(0, 1)}, objective, budget=9, trials=6)
study.run()
"""
SECOND = "study.run(workers=2, trials=12)"
THIRD = "[int(pid) for pid in study.reports.pid], os.getpid(), len(study.trials), study.finished"


def make_progress(console: Console) -> StudyProgress:
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    return StudyProgress(history, budgets=(3, 9), max_trials=12, console=console)


def test_on_a_console_it_is_the_console_that_is_written_to() -> None:
    file = io.StringIO()
    with watching(Console(file=file, force_interactive=False), make_progress) as view:
        view.notice("something happened")
    assert "12 trials" in file.getvalue()
    assert "something happened" in file.getvalue()


def test_a_silent_console_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(silent_console(), make_progress) as view:
        view.notice("something happened")
    assert capsys.readouterr().out == ""


def test_an_empty_study_is_a_line_of_html() -> None:
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    html = study_html(Snapshot(Path("<runs>"), history, (3, 9), 12, None, finished=False))
    assert html == "<p><b>Study</b> in <code>&lt;runs&gt;</code><br>0 of 12 trials started</p>"


# ipykernel says that its sockets are on this machine's loopback device, which is where they belong.
@pytest.mark.filterwarnings("default")
def test_a_real_notebook_shows_one_live_table_and_leaves_nothing_behind() -> None:
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in (FIRST, SECOND, THIRD)]  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(notebook, timeout=60).execute()
    first, second, third = notebook.cells
    for cell, trials in ((first, "6/6 trials started"), (second, "12/12 trials started")):
        live, result = cell.outputs
        assert live.output_type == "display_data"
        assert trials in html_of(live)
        assert "best: trial" in html_of(live)
        assert result.output_type == "execute_result"
        assert "<table>" in html_of(result)
    pids, kernel, started, finished = eval(third.outputs[0].data["text/plain"])
    assert (started, finished) == (12, True)
    assert kernel in pids
    assert len(set(pids)) > 1  # functions of a notebook run in processes of their own
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, {kernel, *pids})):
        assert time.monotonic() < deadline, "a process was left"
        time.sleep(0.05)


def html_of(output: Any) -> str:
    return str(output.data["text/html"])
