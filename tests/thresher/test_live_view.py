from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from controller.trial import Job, Progress
from thresher.live_view import CurveRow, JobRow, RungRow, Scene, draw
from thresher.running import RunningJob


def running(trial_id: int, budget: int = 50) -> RunningJob:
    found = RunningJob(Job(trial_id, trial_id, {}, 0, 0, 100, 900), 1, 0.0, 0)
    found.hear(Progress(trial_id, budget, "train", 2.5), 0.0)
    return found


def scene(jobs: int = 2, **changes: Any) -> Scene:
    """A study in the midst of everything."""
    found = Scene(
        "validation_loss", "examples", "search", "9/12 trials started", "used: examples 5", "best: trial 4", 61
    )
    found.rungs = [
        RungRow(100, 12, 6, 2, 4, 2, "2.3000", 4),
        RungRow(300, 4, 1, 0, 1, 0, "2.2000", 1),
        RungRow(900, 1, 0, 0, 0, 0),
    ]
    found.curves = [
        CurveRow(1, "rank 64, a very long configuration indeed", 300, "2.2000", (2.4, 2.2)),
        CurveRow(4, "default", 100, "2.3000", (2.31,)),
    ]
    found.training = {1: [3.0, 2.8, 2.6, 2.5], 7: [9.0]}
    found.jobs = [JobRow(running(number), f"rank {number}") for number in range(jobs)]
    found.failures = [f"trial {number} failed, oom: CUDA out of memory" for number in range(5)]
    found.recent = [("12:00:00", f"news {number} " * 30, "") for number in range(6)]
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def drawn(found: Scene, width: int = 100, height: int = 60) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, color_system=None)
    console.print(draw(found, width, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def words(lines: list[str]) -> list[list[str]]:
    return [[cell for cell in line.split() if not set(cell) <= set("━╸╺")] for line in lines]


def test_everything_has_its_place() -> None:
    rows = words(drawn(scene()))
    assert rows[0] == ["search", "1m01s"]
    assert rows[1:4] == [["9/12", "trials", "started"], ["used:", "examples", "5"], ["best:", "trial", "4"]]
    assert ["100", "6", "2", "4", "2", "2.3000", "trial", "4"] in rows
    assert ["900", "·", "·", "·", "·", "·"] in rows
    assert ["1", "rank", "64,", "a", "very", "long", "configuration", "indeed", "300", "2.2000", "█▁", "█▅▂▁"] in rows
    assert ["4", "default", "100", "2.3000", "▅"] in rows, "on the scale of the others; no training was heard of"
    assert ["1", "rank", "1", "train", "50/100", "2.500"] in rows
    assert [row[1] for row in rows if row[2:4] == ["failed,", "oom:"]] == ["2", "3", "4"], "the latest of them"


@pytest.mark.parametrize("width", [30, 50, 71, 80, 100, 160])
@pytest.mark.parametrize("height", [10, 18, 24, 30, 50])
@pytest.mark.parametrize("jobs", [0, 1, 40])
def test_it_fits_every_terminal(width: int, height: int, jobs: int) -> None:
    lines = drawn(scene(jobs), width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 11), "the head and the rungs are always there"


@pytest.mark.parametrize(("height", "shown"), [(13, 0), (20, 2), (60, 29)])
def test_a_low_terminal_shows_the_foremost(height: int, shown: int) -> None:
    lines = drawn(scene(40), 100, height)
    assert sum(" train " in line for line in lines) == shown
    assert any(line.startswith(f"and {40 - shown} more jobs") for line in lines)


def test_before_anything_happened() -> None:
    assert words(drawn(Scene("loss", "examples")))[0] == ["search", "0s"]
