from __future__ import annotations

import re
import sys
import time
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console

from controller.events import (
    AttemptFailed,
    AttemptStarted,
    Enqueued,
    Event,
    Failed,
    JobCreated,
    Noted,
    Reported,
    TrialCreated,
)
from controller.history import History
from controller.limits import Limits
from controller.trial import Failure, FailureKind, Label, Objective, Progress, Report
from search_spaces.space import ParamValue
from thresher.progress import StudyProgress

DEFAULT: dict[str, ParamValue] = {"optimizer.learning_rate": 5e-4, "lora.rank": 32, "schedule.warmup": 0.05}
CONTROL = re.compile(r"\x1b|\r")


class Study:
    """A study as the controller goes through it: events are applied to the history, then shown."""

    def __init__(self, console: Console, history: History | None = None, max_trials: int | None = 12) -> None:
        self.now = time.mktime((2026, 11, 23, 12, 0, 0, 0, 0, -1))
        self.history = history or History(seed=3, objectives=[Objective("validation_loss")], horizon=900)
        self.progress = StudyProgress(
            self.history,
            budgets=(100, 300, 900),
            max_trials=max_trials,
            limits=Limits(max_examples=5000),
            console=console,
            clock=lambda: self.now,
        )

    def commit(self, *events: Event) -> None:
        for event in events:
            self.history.apply(event)
        for event in events:
            self.progress.on_event(event)

    def start(self, labels: dict[str, Label] | None = None, repeat_of: int | None = None, **params: ParamValue) -> int:
        """A new trial and its first job."""
        trial_id = len(self.history.trials)
        chosen = DEFAULT | {name.replace("__", "."): value for name, value in params.items()}
        trial = TrialCreated(trial_id, chosen, trial_id, None, labels or {"origin": "random"}, repeat_of)
        return self.job(trial_id, 0, 100 if repeat_of is None else 900, trial)

    def job(self, trial_id: int, start: int, end: int, *before: Event, split: str = "validation") -> int:
        job_id = len(self.history.jobs)
        self.commit(*before, JobCreated(job_id, trial_id, start, end, split=split), AttemptStarted(job_id, 1))
        return job_id

    def report(self, job_id: int, loss: float, metric: str = "validation_loss") -> None:
        self.commit(Reported(Report(job_id, self.history.jobs[job_id].to_budget, {metric: loss}, 42.4)))

    def train(self, job_id: int, *points: tuple[float, int], loss: float | None = 2.5, phase: str = "train") -> None:
        """Signs of life: (seconds since the last, budget)."""
        for seconds, budget in points:
            self.now += seconds
            self.progress.on_progress(Progress(job_id, budget, phase, loss))


@pytest.fixture
def out() -> StringIO:
    return StringIO()


@pytest.fixture
def plain(out: StringIO) -> Study:
    return Study(Console(file=out, width=80))


def lines(out: StringIO) -> list[str]:
    """What was printed, without the time of day, which every line must have."""
    assert not CONTROL.search(out.getvalue())
    printed = out.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in printed), printed
    return [line[9:] for line in printed if not line[9:].startswith("used so far: ")]


def live(out: StringIO, width: int = 100, height: int = 40) -> Study:
    console = Console(file=out, width=width, height=height, force_terminal=True, force_interactive=True)
    return Study(console)


def drawn(study: Study, width: int = 100, height: int = 40) -> str:
    """The live view as it would be drawn now, without colours."""
    console = Console(file=StringIO(), width=width, height=height, color_system=None)
    console.print(study.progress.draw())
    return console.file.getvalue()  # type: ignore[attr-defined]


def busy(study: Study) -> None:
    """Several trials at work after some results."""
    study.report(study.start({"origin": "enqueued"}), 2.5)
    study.report(study.start(lora__rank=64), 2.4)
    study.report(study.job(1, 100, 300), 2.2)
    study.commit(Failed(Failure(study.start(), FailureKind.OOM, "CUDA out of memory", 64)))
    first, second = (
        study.job(1, 300, 900),
        study.start({"origin": "mutation", "parent": 1}, optimizer__learning_rate=1e-3),
    )
    study.train(first, (1, 400), (10, 500), (10, 600))
    study.train(second, (1, 16), loss=3.21)


def test_plain_lines_of_a_search(plain: Study, out: StringIO) -> None:
    with plain.progress:
        first = plain.start({"origin": "enqueued"})
        plain.report(first, 2.5)
        second = plain.start(lora__rank=64, optimizer__learning_rate=1.234e-3)
        plain.report(second, 2.4)
        third = plain.start({"origin": "crossover", "parent": 0, "other_parent": 1})
        plain.report(third, 2.45)
        plain.report(plain.job(1, 100, 300), 2.2)

    assert lines(out) == [
        "12 trials, compared at 100, 300, 900 examples",
        "trial 0 starts, to 100 examples (default: learning_rate 5e-4, rank 32, warmup 0.05)",
        "trial 0 at 100: validation_loss 2.5000 in 42s (the first there)",
        "trial 1 starts, to 100 examples (random: learning_rate 1.23e-3, rank 64, warmup 0.05)",
        "trial 1 at 100: validation_loss 2.4000 in 42s (best of 2 there)",
        "trial 2 starts, to 100 examples (0 × 1: learning_rate 5e-4, rank 32, warmup 0.05)",
        "trial 2 at 100: validation_loss 2.4500 in 42s",
        "trial 1 goes on: 100 to 300 examples",
        "trial 1 at 300: validation_loss 2.2000 in 42s (the first there)",
    ]
    assert out.getvalue().startswith("12:00:00 ")
    assert out.getvalue().endswith(" used so far: examples 500 of 5,000 · time 0s\n")


def test_plain_lines_of_what_goes_wrong(plain: Study, out: StringIO) -> None:
    with plain.progress:
        job_id = plain.start()
        log = "worker 0 was killed by SIGKILL; the end of its log:\nTraceback\n  File x\n\x1b[31mKeyError: 'a'\r\n"
        plain.commit(AttemptFailed(Failure(job_id, FailureKind.CRASH, log)), AttemptStarted(job_id, 2))
        plain.commit(Noted(job_id, "the checkpoint was damaged"))
        plain.commit(Failed(Failure(job_id, FailureKind.OOM, "out of [bold]memory[/bold]", 64)))

    assert lines(out)[2:] == [
        "trial 0 failed, crash: worker 0 was killed by SIGKILL; the end of its log: … KeyError: 'a'",
        "trial 0 starts again (attempt 2)",
        "trial 0, note: the checkpoint was damaged",
        "trial 0 failed after 64 examples, oom: out of [bold]memory[/bold]",
    ]


def test_plain_lines_of_finalists_and_tests(plain: Study, out: StringIO) -> None:
    with plain.progress:
        plain.report(plain.start(), 2.5)
        plain.report(plain.job(0, 100, 900), 2.1)
        plain.report(plain.start({"origin": "repeat", "finalist": 0}, repeat_of=0), 2.05)
        plain.report(plain.job(0, 900, 900, split="test"), 2.2, "test_loss")
        base = plain.job(0, 0, 0, split="test")
        plain.commit(Failed(Failure(base, FailureKind.TIMEOUT, "said nothing for 1800 seconds")))

    assert lines(out)[5:] == [
        "trial 1 starts, to 900 examples (repeats 0: learning_rate 5e-4, rank 32, warmup 0.05)",
        "trial 1 at 900: validation_loss 2.0500 in 42s (repeats trial 0)",
        "test of trial 0 starts",
        "test of trial 0: test_loss 2.2000 in 42s",
        "test of the base model starts",
        "test of the base model failed, timeout: said nothing for 1800 seconds",
    ]


def test_a_running_job_has_a_plain_line_at_most_every_30_seconds(plain: Study, out: StringIO) -> None:
    with plain.progress:
        job_id = plain.start()
        before = len(lines(out))
        plain.train(job_id, *[(1.0, 2 * step) for step in range(1, 30)])
        assert len(lines(out)) == before
        plain.train(job_id, (1.0, 60), (1.0, 62), (20.0, 80))
        assert lines(out)[before:] == [
            "trial 0: train, 60/100 examples, training loss 2.500, 2.0 examples/s, 20s of training left"
        ]
        plain.train(job_id, (10.0, 100), phase="evaluate")
    assert lines(out)[before + 1 :] == ["trial 0: evaluate, 100/100 examples, training loss 2.500, 1.6 examples/s"]


def test_measuring_does_not_slow_the_measured_rate(plain: Study, out: StringIO) -> None:
    with plain.progress:
        job_id = plain.start()
        plain.train(job_id, (1, 0), (5, 20), (5, 40))
        plain.train(job_id, (1, 40), phase="save")
        plain.train(job_id, (20, 40), (5, 60), (5, 80))
    assert lines(out)[-1].endswith("4.0 examples/s, 15s of training left")


def test_messages_of_unknown_jobs_are_ignored(plain: Study, out: StringIO) -> None:
    plain.progress.on_progress(Progress(17, 3, "train"))
    assert lines(out) == []


def test_a_study_that_goes_on_says_so(out: StringIO) -> None:
    before = Study(Console(file=StringIO()))
    before.report(before.start(), 2.5)
    open_job = before.start()
    study = Study(Console(file=out), before.history)

    with study.progress:
        study.commit(AttemptStarted(open_job, 2))
        study.report(open_job, 2.4)

    assert lines(out)[1:] == [
        "the study goes on; trials started before: 2, jobs interrupted: 1",
        "trial 1 starts again (attempt 2)",
        "trial 1 at 100: validation_loss 2.4000 in 42s (best of 2 there)",
    ]


def test_notices_take_one_line(plain: Study, out: StringIO) -> None:
    plain.progress.notice("stopping:\nsaving what is running")

    assert lines(out) == ["stopping: … saving what is running"]


def test_a_character_that_the_terminal_lacks_does_not_end_the_study() -> None:
    raw = BytesIO()
    file = TextIOWrapper(raw, encoding="ascii")
    study = Study(Console(file=file))

    study.progress.notice("größer …")
    file.flush()

    assert raw.getvalue().decode("ascii").strip().endswith("gr??er ?")


def test_a_maximised_metric_is_shown_as_it_was_measured(out: StringIO) -> None:
    study = Study(Console(file=out), History(seed=0, objectives=[Objective("accuracy", "maximize")], horizon=900))
    study.report(study.start(), 0.7, "accuracy")
    study.report(study.start(), 0.8, "accuracy")

    assert lines(out)[-1] == "trial 1 at 100: accuracy 0.8000 in 42s (best of 2 there)"
    assert "best: trial 1, accuracy 0.8000 at 100/900" in drawn(study)


def test_the_live_view_shows_where_the_study_stands(out: StringIO) -> None:
    study = live(out)
    with study.progress:
        busy(study)
        view = drawn(study)

    rows = [line.split() for line in view.splitlines()]
    assert rows[0] == ["search", "22s"]
    assert "4/12 trials started · 2 running · 1 paused · 1 failed" in view
    assert "best: trial 1, validation_loss 2.2000 at 300/900" in view
    bars = [[cell for cell in row if not set(cell) & set("━╸╺")] for row in rows]
    assert ["100", "2", "1", "1", "1", "2.4000", "trial", "1"] in bars
    assert ["300", "1", "·", "·", "1", "2.2000", "trial", "1"] in bars
    assert ["900", "·", "·", "·", "·", "·"] in bars
    assert ["1", "rank", "64", "train", "600/900", "2.500", "10.0", "30s"] in bars
    assert ["3", "learning_rate", "1e-3", "train", "16/100", "3.210"] in bars
    assert "trial 2 failed after 64 examples, oom: CUDA out of memory" in view
    assert "starts, to" not in view


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (140, 50)])
def test_the_live_view_fits_the_terminal(out: StringIO, width: int, height: int) -> None:
    study = live(out, width, height)
    with study.progress:
        busy(study)
        for _ in range(30):
            job_id = study.start(lora__rank=8, schedule__warmup=0.0123, optimizer__learning_rate=2.5e-4)
        study.commit(Failed(Failure(job_id, FailureKind.CRASH, "a long story " * 30)))
        view = drawn(study, width, height).splitlines()

    assert len(view) <= height
    assert max(map(len, view)) <= width
    assert any(re.fullmatch(r"and \d+ more jobs", line.strip()) for line in view)
    assert view[-1][9:].startswith("trial 33 failed, crash: a long story")


def test_the_live_view_names_the_stage(out: StringIO) -> None:
    study = live(out)
    with study.progress:
        study.report(study.start(), 2.5)
        assert drawn(study).startswith("search")
        study.report(study.job(0, 100, 900), 2.1)
        repeat = study.start({"origin": "repeat", "finalist": 0}, repeat_of=0)
        assert drawn(study).startswith("finalists: other seeds")
        assert "1/12 trials started" in drawn(study)
        study.report(repeat, 2.2)
        study.job(0, 0, 0, split="test")
        view = drawn(study)
        assert view.startswith("test of the finalists")
        assert re.search(r"base model +waiting +test set", view)


def test_the_live_view_marks_another_attempt(out: StringIO) -> None:
    study = live(out)
    with study.progress:
        job_id = study.start()
        study.commit(AttemptFailed(Failure(job_id, FailureKind.CRASH, "gone")), AttemptStarted(job_id, 2))
        assert "waiting (attempt 2)" in drawn(study)


def test_the_terminal_is_restored_after_an_error(out: StringIO) -> None:
    study = live(out)
    before = sys.stdout

    def run() -> None:
        with study.progress:
            busy(study)
            print("a library prints")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()

    assert sys.stdout is before
    written = out.getvalue()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")  # the cursor is shown again
    assert "a library prints" in written
    assert "best: trial 1" in written


def test_the_view_is_drawn_while_events_come_in(out: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that draws must not stumble over what the controller's thread changes."""
    monkeypatch.setattr("thresher.progress.REFRESH_PER_SECOND", 500)
    study = live(out)
    with study.progress:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            job_id = study.start(lora__rank=8)
            study.train(job_id, (0.1, 10), (1.5, 20))
            study.report(job_id, 2.0 + 1 / len(study.history.trials))

    frames = out.getvalue().count("trials started")
    assert frames > 10
    assert len(study.history.trials) > 50


def test_what_somebody_enqueues_is_told(plain: Study, out: StringIO) -> None:
    plain.commit(Enqueued(DEFAULT, "request 1"))
    assert lines(out) == ["enqueued: learning_rate 5e-4, rank 32, warmup 0.05"]


def test_the_live_view_has_learning_curves_and_failures(out: StringIO) -> None:
    study = live(out, 100, 60)
    with study.progress:
        busy(study)
        study.train(4, *[(1.0, 600 + step) for step in range(1, 9)], loss=2.0)
        study.commit(Failed(Failure(study.start(), FailureKind.OOM, "CUDA out of memory", 64)))
        view = drawn(study, 100, 60)

    rows = [line.split() for line in view.splitlines()]
    assert ["1", "rank", "64", "300", "2.2000", "▆▁", "███▁▁▁▁▁▁▁▁"] in rows, (
        "two rungs, and what was heard of its training"
    )
    assert ["0", "default", "100", "2.5000", "█"] in rows
    assert "trial 2, trial 4 failed, oom: CUDA out of memory" in view
    assert "used: examples 528 of 5,000 · time 30s" in view


def test_curves_of_a_maximised_metric_are_drawn_as_measured(out: StringIO) -> None:
    study = Study(Console(file=out), History(seed=0, objectives=[Objective("accuracy", "maximize")], horizon=900))
    study.report(study.start(), 0.7, "accuracy")
    study.report(study.job(0, 100, 300), 0.8, "accuracy")
    study.report(study.start(lora__rank=8), 0.6, "accuracy")
    rows = [line.split() for line in drawn(study).splitlines()]
    assert ["0", "random", "300", "0.8000", "▄█"] in rows
    assert ["1", "rank", "8", "100", "0.6000", "▁"] in rows


def test_parameters_may_be_absent(plain: Study, out: StringIO) -> None:
    plain.report(plain.start(), 2.5)
    trial = TrialCreated(1, {"lora.rank": 64, "schedule.kind": "wsd"}, 1, None, {"origin": "random"})
    plain.report(plain.job(1, 0, 100, trial), 2.4)
    assert lines(out)[2].startswith("trial 1 starts, to 100 examples (random: rank 64, kind wsd)")
    assert "rank 64, kind wsd" in drawn(plain)


def test_a_terminal_without_unicode_gets_plain_lines() -> None:
    raw = BytesIO()
    file = TextIOWrapper(raw, encoding="ascii")
    study = Study(Console(file=file, force_terminal=True, force_interactive=True))
    with study.progress:
        study.report(study.start(), 2.5)
    file.flush()
    assert b"trial 0 at 100: validation_loss 2.5000" in raw.getvalue()


def test_without_a_number_of_trials(out: StringIO) -> None:
    study = Study(Console(file=out), max_trials=None)
    with study.progress:
        study.report(study.start(), 2.5)
        assert "1 trials started" in drawn(study)
    assert lines(out)[0] == "compared at 100, 300, 900 examples"
