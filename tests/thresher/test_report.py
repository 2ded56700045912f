from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from controller.events import Noted, Reported
from controller.finalists import Finalists
from controller.limits import Limits
from controller.trial import FailureKind, Objective, Report
from tests.thresher.written_study import LOSS, NAMES, WrittenStudy, finished_study, rendered
from thresher.budget_use import budget_use, sentence
from thresher.comparison import compare
from thresher.conclusions import conclusions
from thresher.report import FinalReport, final_report
from thresher.touched import uses_of_test_set

PROMPTS = [("Describe it:\n```python\ndef f(): ...\n```", "Do | nothing."), ("Second", "two"), ("Never answered", "-")]


def report_of(study: WrittenStudy, finalists: Finalists | None = None, **settings: object) -> FinalReport:
    comparison = compare(study.history, finalists or Finalists(2, 2))
    return final_report(study.history, comparison, names=NAMES, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_report_fits_the_terminal(width: int) -> None:
    study = finished_study()
    report = report_of(study, prompts=PROMPTS, notes=("a note",), test_uses=uses_of_test_set(study.entries))
    text = rendered(report, width)

    assert max(map(len, text.splitlines())) <= width
    headings = ("Result", "Search", "Trials", "Finalists on validation", "Test set", "All test metrics")
    for heading in (*headings, "Configuration", "Failures", "Notes"):
        assert f"\n{heading}\n" in f"\n{text}"
    table = text.split("\nTest set\n")[1]
    assert "trial 2, winner" in table
    assert "tie" in table
    assert "The test set was touched from 2023-11-14" in table
    assert "\x1b" not in text
    assert "I am a base model." in text
    assert "- trial 0: the checkpoint at 100 was damaged: trained again" in text
    assert "- a note" in text
    assert "Never answered" not in text


def test_the_search_says_what_it_used() -> None:
    limits = Limits(max_examples=50_000, max_seconds=7200.0)
    text = report_of(finished_study(), max_trials=20, limits=limits, wall_seconds=754.0, active_seconds=720.0).markdown

    uses = budget_use(finished_study().history, limits, max_trials=20, seconds=720.0)
    assert f"- Budget used: {sentence(uses)}." in text
    assert "trials 8 of 20" in text
    assert "- It took 12m34s from first to last, 12m00s at work, " in text
    without = report_of(finished_study(), max_trials=20)
    assert [use["what"] for use in without.data["budget"]["used"]] == ["trials", "examples"]


def test_failures_are_summed_up() -> None:
    text = report_of(finished_study()).markdown

    assert "## Failures\n\n- 1 oom (trial 6): CUDA out of memory. … Tried to allocate 1.2 GiB \\[of 8\\]\n" in text


def test_markdown_tables_have_as_many_cells_as_headings() -> None:
    markdown = report_of(finished_study(), prompts=PROMPTS).markdown

    tables = [block for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        widths = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "| trial 2, winner | " in markdown
    assert "| 1 | trial 2 | 2.0950 \\[" in markdown
    assert "\\] | 2.0500 | 2.0900, 2.1000 |" in markdown
    assert "| optimizer.learning\\_rate | 5e-4 | 5e-4 |" in markdown
    assert "| lora.rank | 32 | 64 |" in markdown


def test_every_test_metric_is_shown_for_all() -> None:
    markdown = report_of(finished_study()).markdown

    table = markdown.split("## All test metrics\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0] == "| model | runs | test loss | test exact match |"
    assert [line.split(" | ")[0] for line in table[2:]] == ["| base model", "| default", "| trial 2", "| trial 1"]
    assert table[2].endswith("| 0.0000 |")


def test_a_single_test_metric_needs_no_table_of_its_own() -> None:
    study = WrittenStudy()
    study.found(2.0)
    study.apply(Reported(Report(study.job(0, 900, 900, "test"), 900, {"test_loss": 2.0, "answer_tokens": 7.0}, 1.0)))
    assert "All test metrics" not in report_of(study, Finalists(1, 0)).markdown


def test_parameters_that_only_some_have_are_dashes() -> None:
    study = WrittenStudy()
    study.train(study.start(lora__dropout=None), 2.5, 2.4, 2.3)
    study.train(study.start(lora__rank=None, lora__dropout=None), 2.5, 2.4, 2.2)

    markdown = report_of(study, Finalists(1, 0, test=False)).markdown

    assert "| lora.rank | 32 | – |" in markdown
    assert "| lora.dropout |" not in markdown


def test_several_objectives_are_shown_with_their_trade_offs() -> None:
    study = WrittenStudy(LOSS, Objective("exact_match", "maximize"))
    for loss, match in ((2.3, 0.5), (2.1, 0.4), (2.2, 0.45), (2.4, 0.45)):
        study.found({"validation_loss": loss, "exact_match": match})

    report = report_of(study, Finalists(1, 0, test=False))

    assert "## Trade-offs\n\n- 3 trials of 4 at the full budget" in report.markdown
    assert "| 1 | trial 1 | 2.1000 | 2.1000 | – | 0.4000 |" in report.markdown
    assert report.data["pareto_front"] == [1, 2, 0]
    assert report.data["objectives"] == [
        {"metric": "validation_loss", "direction": "minimize"},
        {"metric": "exact_match", "direction": "maximize"},
    ]


def test_a_maximised_metric_keeps_its_direction() -> None:
    study = WrittenStudy(Objective("exact_match", "maximize"))
    study.found(0.5)
    study.found(0.7)
    study.repeat(1, 0.6, 0.62)
    study.repeat(0, 0.5, 0.52)
    for trial in list(study.history.trials):
        is_winner = 1 in (trial.trial_id, trial.repeat_of)
        hits = [float(place < (150 if is_winner else 80)) for place in range(200)]
        pairs = tuple((hit, 1.0) for hit in hits)
        job_id = study.job(trial.trial_id, 900, 900, "test")
        study.apply(Reported(Report(job_id, 900, {"test_exact_match": sum(hits) / 200}, 1.0, pairs)))

    text = rendered(report_of(study, Finalists(1, 2)), 120)

    assert "Differences are the winner's test_exact_match minus the other's: above 0 the winner is better." in text
    assert "On the test set it is better than the default: +0.3500 [+0.2" in text
    assert "-0." not in text


def test_markdown_fences_are_longer_than_those_inside() -> None:
    markdown = report_of(finished_study(), prompts=PROMPTS).markdown

    assert "## Test prompt 1\n\n````text\nDescribe it:\n```python\ndef f(): ...\n```\n````\n" in markdown
    assert "**trial 2, winner**\n\n```text\nanswer of 8\n```" in markdown
    assert "**default**\n\n```text\nanswer of 12\n```" in markdown


def test_notes_cannot_become_markup() -> None:
    study = finished_study()
    study.apply(Noted(0, "see <b>__init__</b> [red]x[/red] |"))
    report = report_of(study)

    assert "\\<b\\>\\_\\_init\\_\\_\\</b\\> \\[red\\]x\\[/red\\] \\|" in report.markdown
    assert "[red]x[/red]" in rendered(report, 100)


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    study = finished_study()
    uses = uses_of_test_set(study.entries)
    report = report_of(study, prompts=PROMPTS, test_uses=uses, test_data="abc", max_trials=9, limits=Limits(9000))
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
    assert data["trials"][2]["tests"]["900"]["test_loss"] > 0
    assert [failure["kind"] for failure in data["failures"]] == ["oom", "diverged"]
    assert data["generations"][0]["answers"]["trial 2, winner"] == "answer of 8"
    assert list(data["generations"][0]["answers"]) == ["reference", "base model", "trial 2, winner", "default"]
    assert data["test_set"]["data"] == "abc"
    assert data["test_set"]["measurements"] == 10
    assert data["budget"]["limits"]["max_examples"] == 9000
    assert data["budget"]["used"] == [
        {"what": "trials", "used": 8, "limit": 9},
        {"what": "examples", "used": 3604, "limit": 9000},
    ]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    good = report_of(finished_study())
    good.write(tmp_path)

    with pytest.raises(TypeError):
        FinalReport((), (), {"data": object()}).write(tmp_path)

    assert (tmp_path / "report.md").read_text(encoding="utf-8") == good.markdown


def test_numbers_that_are_none_do_not_spoil_the_json(tmp_path: Path) -> None:
    study = WrittenStudy()
    study.found({"validation_loss": 2.0, "accuracy": math.nan})

    report_of(study, Finalists(1, 0)).write(tmp_path)

    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["trials"][0]["metrics"]["900"] == {"validation_loss": 2.0, "accuracy": None}


@pytest.mark.parametrize("width", [80, 140])
def test_a_study_without_results_has_a_report(width: int, tmp_path: Path) -> None:
    empty, failed = WrittenStudy(), WrittenStudy()
    failed.fail(failed.start(), FailureKind.OOM, "too large")

    for study in (empty, failed):
        report = report_of(study, test_uses=uses_of_test_set(study.entries))
        report.write(tmp_path)
        text = rendered(report, width)
        assert "There is no winner." in text
        assert "No trial reached the full budget of 900: there is nothing to compare." in " ".join(text.split())
    assert "1 oom (trial 0): too large" in text
