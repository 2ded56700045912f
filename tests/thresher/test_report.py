from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console, RenderableType

from controller.events import AttemptFailed, AttemptStarted, Event, Failed, JobCreated, Noted, Reported, TrialCreated
from controller.finalists import Finalists
from controller.history import History
from controller.trial import Direction, Failure, FailureKind, Inherit, Label, Objective, Report
from search_spaces.space import ParamValue
from thresher.comparison import compare
from thresher.report import FinalReport, conclusions, final_report, leaderboard

NAMES = ("optimizer.learning_rate", "lora.rank", "lora.dropout", "optimizer.batch_size", "lora.targets")
DEFAULT: dict[str, ParamValue] = {
    "optimizer.learning_rate": 5e-4,
    "lora.rank": 32,
    "lora.dropout": 0.0,
    "optimizer.batch_size": 16,
    "lora.targets": "all-linear",
}
WEIGHTS = np.random.default_rng(7).integers(2, 20, 60).astype(float)
DIFFICULTY = np.random.default_rng(8).gamma(6, 0.35, 60)
PROMPTS = [("Describe it:\n```python\ndef f(): ...\n```", "Do | nothing."), ("Second", "two"), ("Never answered", "-")]


class Study:
    """A history made of the events that a controller would write. Rungs: 100, 300, 900."""

    def __init__(self, direction: Direction = "minimize", metric: str = "validation_loss") -> None:
        self.metric = metric
        self.history = History(seed=3, objectives=[Objective(metric, direction)], horizon=900)

    def apply(self, *events: Event) -> None:
        for event in events:
            self.history.apply(event)

    def start(self, labels: dict[str, Label] | None = None, repeat_of: int | None = None, **params: ParamValue) -> int:
        trial_id = len(self.history.trials)
        chosen = DEFAULT | {name.replace("__", "."): value for name, value in params.items()}
        self.apply(TrialCreated(trial_id, chosen, trial_id, None, labels or {"origin": "random"}, repeat_of))
        return trial_id

    def job(self, trial_id: int, start: int, end: int, split: str = "validation") -> int:
        job_id = len(self.history.jobs)
        self.apply(JobCreated(job_id, trial_id, start, end, split=split), AttemptStarted(job_id, 1))
        return job_id

    def train(self, trial_id: int, *losses: float) -> None:
        """Train to one rung after the other. A job ends at the first whole batch: four examples too late."""
        for loss, start, end in zip(losses, (0, 100, 300), (100, 300, 900), strict=False):
            self.apply(Reported(Report(self.job(trial_id, start, end), end + 4, {self.metric: loss}, 60.0)))

    def fail(self, trial_id: int, kind: FailureKind, message: str, start: int = 0, end: int = 100) -> None:
        self.apply(Failed(Failure(self.job(trial_id, start, end), kind, message, start + 40, 5.0)))

    def repeat(self, trial_id: int, *losses: float) -> None:
        for number, loss in enumerate(losses, 1):
            labels: dict[str, Label] = {"origin": "repeat", "finalist": trial_id, "repeat": number}
            copy = self.start(labels, repeat_of=trial_id)
            self.apply(Reported(Report(self.job(copy, 0, 900), 900, {self.metric: loss}, 120.0)))

    def test(self, trial_id: int, values: np.ndarray, budget: int = 900, answers: tuple[str, ...] = ()) -> None:
        pairs = tuple(zip(values.tolist(), WEIGHTS.tolist(), strict=True))
        loss = float(np.average(values, weights=WEIGHTS))
        job_id = self.job(trial_id, budget, budget, "test")
        self.apply(Reported(Report(job_id, budget, {"test_loss": loss}, 9.0, pairs, answers)))


def finished_study() -> Study:
    """A default, two finalists, two that went on to 300, three at 100 and two failures."""
    study = Study()
    study.train(study.start({"origin": "enqueued"}), 2.5, 2.35, 2.30)
    study.train(study.start(optimizer__learning_rate=1.23e-3, lora__targets="mlp"), 2.4, 2.2, 2.11)
    study.train(study.start({"origin": "mutation", "parent": 1}, lora__rank=64), 2.3, 2.15, 2.05)
    study.train(study.start({"origin": "crossover", "parent": 1, "other_parent": 2}), 2.2, 2.41)
    study.train(study.start(), 2.42, 2.4)
    study.train(study.start(), 2.1)
    study.fail(study.start(), FailureKind.OOM, "CUDA out of memory.\nTried to allocate 1.2 GiB [of 8]")
    failing = study.start()
    study.train(failing, 2.0)
    study.fail(failing, FailureKind.DIVERGED, "training loss is nan", 100, 300)
    for trial_id, losses in ((2, (2.09, 2.10)), (1, (2.12, 2.10)), (0, (2.31, 2.29))):
        study.repeat(trial_id, *losses)
    noise = np.random.default_rng(1)
    for trial in list(study.history.trials):
        if 900 in trial.reports:
            family = trial.trial_id if trial.repeat_of is None else trial.repeat_of
            values = DIFFICULTY + (0.2 if family == 0 else 0.0) + noise.normal(0, 0.05, 60)
            study.test(trial.trial_id, values, answers=(f"answer of {trial.trial_id}", "``` `` ```"))
    study.test(0, DIFFICULTY + 1.0, budget=0, answers=("I am\x1b[31m a base model\x07.", "?"))
    study.apply(Noted(0, "the checkpoint at 100 was damaged:\n trained again"))
    return study


def report_of(study: Study, finalists: Finalists | None = None, **settings: object) -> FinalReport:
    comparison = compare(study.history, finalists or Finalists(2, 2))
    return final_report(study.history, comparison, names=NAMES, **settings)  # type: ignore[arg-type]


def rendered(renderable: RenderableType, width: int) -> str:
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(renderable)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def rows(study: Study, width: int = 160, limit: int = 20) -> list[list[str]]:
    """The cells of a leaderboard that are not blank, by line."""
    lines = rendered(leaderboard(study.history, names=NAMES, width=width, limit=limit), width).splitlines()
    return [line.split() for line in lines if line.strip() and "─" not in line]


def test_the_leaderboard_never_ranks_a_low_budget_before_a_high_one() -> None:
    ranked = [row for row in rows(finished_study()) if row[0].isdigit() and "/" in " ".join(row)]

    assert [(row[0], row[1]) for row in ranked] == [
        ("1", "2"),
        ("2", "1"),
        ("3", "0"),
        ("4", "4"),
        ("5", "3"),
        ("6", "5"),
    ]
    budgets = [next(cell for cell in row if "/" in cell) for row in ranked]
    assert budgets == ["900/900"] * 3 + ["300/900"] * 2 + ["100/900"]


def test_the_leaderboard_shows_origin_parameters_and_losses() -> None:
    board = rows(finished_study())

    winner = ["1", "2", "from", "1", "complete", "900/900", "2.0500", "5e-4", "64", "0", "16", "all-linear", "3m00s"]
    assert winner in board
    crossed = next(row for row in board if row[:2] == ["5", "3"])
    assert crossed[2:8] == ["1", "×", "2", "paused", "300/900", "2.4100"]
    text = rendered(leaderboard(finished_study().history, names=NAMES, width=160), 160)
    assert "default" in text
    assert "1.23e-3" in text
    assert "learning" in text


def test_the_leaderboard_leaves_repeats_out() -> None:
    study = finished_study()

    trials = {row[1] for row in rows(study) if row[0].isdigit() or row[0] == "–"}

    assert trials == {str(trial.trial_id) for trial in study.history.trials if trial.repeat_of is None}
    assert len(study.history.trials) > len(trials)


def test_failures_come_last_with_kind_and_reason() -> None:
    text = rendered(leaderboard(finished_study().history, names=NAMES, width=160), 160)

    lines = text.splitlines()
    failed = [number for number, line in enumerate(lines) if " failed " in line]
    assert [lines[number].split()[:2] for number in failed[:2]] == [["–", "6"], ["–", "7"]]
    assert "trial 6 failed after 40 examples, oom: CUDA out of memory. … Tried to allocate 1.2 GiB [of 8]" in text
    assert "trial 7 failed after 140 examples, diverged: training loss is nan" in text


def test_a_running_trial_without_a_result_has_no_rank() -> None:
    study = finished_study()
    study.job(study.start(), 0, 100)

    row = next(row for row in rows(study) if "running" in row)

    assert row[0] == "–"
    assert "0/900" in row


def test_the_leaderboard_says_what_it_leaves_out() -> None:
    study = finished_study()
    for _ in range(6):
        study.fail(study.start(), FailureKind.OOM, "too large")

    text = rendered(leaderboard(study.history, names=NAMES, width=160, limit=4), 160)

    assert "2 more trials not shown" in text
    assert "3 more failed trials not shown" in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_leaderboard_fits_the_terminal(width: int) -> None:
    text = rendered(leaderboard(finished_study().history, names=NAMES, width=width), width)

    assert max(map(len, text.splitlines())) <= width
    assert "2.0500" in text
    assert "…" not in text.split("trial 6 failed")[0]
    is_wide = "learning_rate rank" not in text
    assert is_wide == (width > 80)


def test_the_leaderboard_of_a_maximised_metric_shows_its_values() -> None:
    study = Study("maximize", "accuracy")
    study.train(study.start(), 0.5, 0.6, 0.7)
    study.train(study.start(), 0.5, 0.7, 0.8)

    assert [(row[1], "0.8000" in row) for row in rows(study) if row[0].isdigit()] == [("1", True), ("0", False)]


def test_the_leaderboard_of_nothing_is_empty() -> None:
    assert rows(Study())[-1][0] == "#"


def test_conclusions_name_winner_ties_verdicts_and_selection() -> None:
    sentences = conclusions(compare(finished_study().history, Finalists(2, 2)))

    assert sentences[0] == "The winner is trial 2: validation_loss 2.0800 ± 0.0153 over 3 runs."
    assert sentences[1] == "On validation it is tied with trial 1: no more than two standard errors apart."
    assert sentences[2].startswith("On the test set it is better than the default: -0.2")
    assert sentences[3].startswith("On the test set it is better than the base model: -1.0")
    assert sentences[4].startswith("On the test set it is tied with trial 1: the difference ")
    assert sentences[4].endswith(" may be 0.")
    assert sentences[5] == (
        "It had 2.0500 on the run it was chosen by and 2.0950 in its repeats: about 0.0450 of its lead was selection."
    )
    assert sentences[6] == "Its lead over the default was 0.2500 on that run and 0.2050 in the repeats."


def test_a_worse_winner_is_called_worse() -> None:
    study = Study()
    study.train(study.start(), 2.5, 2.4, 2.3)
    study.train(study.start(), 2.5, 2.4, 2.2)
    study.test(0, DIFFICULTY)
    study.test(1, DIFFICULTY + 0.3 + np.linspace(-0.1, 0.1, 60))

    sentences = conclusions(compare(study.history, Finalists(1, 0)))

    assert sentences[0] == "The winner is trial 1: validation_loss 2.2000 over 1 run."
    assert sentences[1].startswith("On the test set it is worse than the default: +0.2990 [+0.28")


def test_a_winning_default_is_no_success_of_the_search() -> None:
    study = Study()
    study.train(study.start(), 2.5, 2.4, 2.1)
    study.train(study.start(), 2.5, 2.4, 2.2)

    sentences = conclusions(compare(study.history, Finalists(1, 0, test=False)))

    assert sentences == [
        "The winner is the default: validation_loss 2.1000 over 1 run.",
        "The search found nothing better than the default configuration.",
    ]


def test_repeats_that_do_no_worse_show_no_selection() -> None:
    study = Study()
    study.train(study.start(), 2.5, 2.4, 2.3)
    study.train(study.start(), 2.5, 2.4, 2.2)
    study.repeat(1, 2.19)

    sentences = conclusions(compare(study.history, Finalists(1, 1, test=False)))

    assert sentences[-1] == (
        "It had 2.2000 on the run it was chosen by and 2.1900 in its repeats: no sign that the choice flattered it."
    )


def test_the_effort_counts_what_was_trained() -> None:
    study = finished_study()
    job_id = study.job(study.start(), 0, 100)
    study.apply(
        AttemptFailed(Failure(job_id, FailureKind.CRASH, "killed")),
        AttemptStarted(job_id, 2),
        Reported(Report(job_id, 104, {"validation_loss": 2.45}, 60.0)),
    )

    report = report_of(study, wall_seconds=754.0)

    effort = report.data["effort"]
    searched = 3 * 904 + 2 * 304 + 104 + 40 + 140 + 104
    assert effort["search_budget"] == searched
    assert effort["search_budget_without_early_stopping"] == 9 * 900
    assert effort["repeats_budget"] == 6 * 900
    assert (effort["trials"], effort["repeats"], effort["retried"]) == (9, 6, 1)
    assert effort["failures"] == {"oom": 1, "diverged": 1}
    text = report.markdown
    assert "- 9 trials and 6 repeats of finalists, in 34 jobs; failed: 1 oom, 1 diverged; tried again: 1." in text
    assert (
        f"- The search trained on {searched:,} examples, {searched / 8100:.0%} of the 8,100 of 9 full trainings;"
        in text
    )
    assert "- It took 12m34s from first to last, " in text


def test_inherited_training_is_counted_once() -> None:
    study = Study()
    study.train(study.start(), 2.5, 2.4, 2.3)
    study.apply(TrialCreated(1, DEFAULT, 1, Inherit(0, 900)))
    study.train(1, 2.2)

    assert report_of(study, Finalists(1, 0, test=False)).data["effort"]["search_budget"] == 904 + 104


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_report_fits_the_terminal(width: int) -> None:
    text = rendered(report_of(finished_study(), prompts=PROMPTS, notes=("a note",)), width)

    assert max(map(len, text.splitlines())) <= width
    for heading in ("Result", "Search", "Trials", "Finalists on validation", "Test set", "Configuration", "Notes"):
        assert f"\n{heading}\n" in f"\n{text}"
    table = text.split("\nTest set\n")[1]
    assert "trial 2, winner" in table
    assert "tie" in table
    assert "\x1b" not in text
    assert "I am a base model." in text
    assert "- trial 0: the checkpoint at 100 was damaged: trained again" in text
    assert "- a note" in text
    assert "Never answered" not in text


def test_markdown_tables_have_as_many_cells_as_headings() -> None:
    markdown = report_of(finished_study(), prompts=PROMPTS).markdown

    tables = [block for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        widths = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "| trial 2, winner | " in markdown
    assert "| 1 | trial 2 | 2.0800 ± 0.0153 | 3 | 2.0500 | 2.0900, 2.1000 |" in markdown
    assert "| optimizer.learning\\_rate | 5e-4 | 5e-4 |" in markdown
    assert "| lora.rank | 32 | 64 |" in markdown


def test_markdown_fences_are_longer_than_those_inside() -> None:
    markdown = report_of(finished_study(), prompts=PROMPTS).markdown

    assert "## Test prompt 1\n\n````text\nDescribe it:\n```python\ndef f(): ...\n```\n````\n" in markdown
    assert "**trial 2, winner**\n\n```text\nanswer of 2\n```" in markdown
    assert "**default**\n\n```text\nanswer of 0\n```" in markdown


def test_notes_cannot_become_markup() -> None:
    study = finished_study()
    study.apply(Noted(0, "see <b>__init__</b> [red]x[/red] |"))
    report = report_of(study)

    assert "\\<b\\>\\_\\_init\\_\\_\\</b\\> \\[red\\]x\\[/red\\] \\|" in report.markdown
    assert "[red]x[/red]" in rendered(report, 100)


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    report = report_of(finished_study(), prompts=PROMPTS)
    directory = tmp_path / "new" / "study"

    report.write(directory)
    report.write(directory)

    assert sorted(path.name for path in directory.iterdir()) == ["report.json", "report.md"]
    assert (directory / "report.md").read_text(encoding="utf-8") == report.markdown
    data = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert data["comparison"]["winner"] == 2
    assert data["conclusions"] == conclusions(compare(finished_study().history, Finalists(2, 2)))
    assert [trial["trial"] for trial in data["trials"]] == list(range(14))
    assert data["trials"][6]["failure"]["kind"] == "oom"
    assert data["generations"][0]["answers"]["trial 2, winner"] == "answer of 2"
    assert list(data["generations"][0]["answers"]) == ["reference", "base model", "trial 2, winner", "default"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    good = report_of(finished_study())
    good.write(tmp_path)

    with pytest.raises(TypeError):
        FinalReport((), (), {"data": object()}).write(tmp_path)

    assert (tmp_path / "report.md").read_text(encoding="utf-8") == good.markdown


def test_numbers_that_are_none_do_not_spoil_the_json(tmp_path: Path) -> None:
    study = Study()
    trial_id = study.start()
    metrics = {"validation_loss": 2.0, "accuracy": math.nan}
    study.apply(Reported(Report(study.job(trial_id, 0, 900), 900, metrics, 1.0)))

    report_of(study, Finalists(1, 0)).write(tmp_path)

    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["trials"][0]["metrics"]["900"] == {"validation_loss": 2.0, "accuracy": None}


@pytest.mark.parametrize("width", [80, 140])
def test_a_study_without_results_has_a_report(width: int, tmp_path: Path) -> None:
    empty, failed = Study(), Study()
    failed.fail(failed.start(), FailureKind.OOM, "too large")

    for study in (empty, failed):
        report = report_of(study)
        report.write(tmp_path)
        text = rendered(report, width)
        assert "There is no winner." in text
        assert "No trial reached the full budget of 900: there is nothing to compare." in " ".join(text.split())
    assert "trial 0 failed after 40 examples, oom: too large" in text
