from __future__ import annotations

import pytest

from controller.trial import FailureKind, Objective
from tests.thresher.written_study import LOSS, NAMES, WrittenStudy, finished_study, rendered
from thresher.leaderboard import leaderboard, leaderboard_section, param_cells, trade_offs_section


def rows(study: WrittenStudy, width: int = 160, limit: int = 20) -> list[list[str]]:
    """The cells of a leaderboard that are not blank, by line."""
    lines = rendered(leaderboard(study.history, names=NAMES, width=width, limit=limit), width).splitlines()
    return [line.split() for line in lines if line.strip() and "─" not in line]


def two_objectives() -> WrittenStudy:
    study = WrittenStudy(LOSS, Objective("exact_match", "maximize"))
    for loss, match in ((2.3, 0.5), (2.1, 0.4), (2.2, 0.45), (2.4, 0.45)):
        trial_id = study.start()
        study.train(trial_id, *[{"validation_loss": loss, "exact_match": match}] * 3)
    return study


def test_it_never_ranks_a_low_budget_before_a_high_one() -> None:
    ranked = [row for row in rows(finished_study()) if row[0].isdigit() and "/" in " ".join(row)]

    assert [row[:2] for row in ranked] == [["1", "2"], ["2", "1"], ["3", "0"], ["4", "4"], ["5", "3"], ["6", "5"]]
    budgets = [next(cell for cell in row if "/" in cell) for row in ranked]
    assert budgets == ["900/900"] * 3 + ["300/900"] * 2 + ["100/900"]


def test_it_shows_origin_parameters_and_losses() -> None:
    board = rows(finished_study())

    winner = ["1", "2", "from", "1", "complete", "900/900", "2.0500", "5e-4", "64", "0", "16", "all-linear", "3m00s"]
    assert winner in board
    crossed = next(row for row in board if row[:2] == ["5", "3"])
    assert crossed[2:8] == ["1", "×", "2", "paused", "300/900", "2.4100"]
    text = rendered(leaderboard(finished_study().history, names=NAMES, width=160), 160)
    assert "default" in text
    assert "1.23e-3" in text
    assert "learning" in text


def test_it_leaves_repeats_out() -> None:
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


def test_in_a_report_the_reasons_are_elsewhere() -> None:
    assert leaderboard_section(finished_study().history, NAMES, 10).sentences == ()


def test_a_running_trial_without_a_result_has_no_rank() -> None:
    study = finished_study()
    study.job(study.start(), 0, 100)

    row = next(row for row in rows(study) if "running" in row)

    assert row[0] == "–"
    assert "0/900" in row


def test_it_says_what_it_leaves_out() -> None:
    study = finished_study()
    for _ in range(6):
        study.fail(study.start(), FailureKind.OOM, "too large")

    text = rendered(leaderboard(study.history, names=NAMES, width=160, limit=4), 160)

    assert "2 more trials not shown" in text
    assert "3 more failed trials not shown" in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_it_fits_the_terminal(width: int) -> None:
    text = rendered(leaderboard(finished_study().history, names=NAMES, width=width), width)

    assert max(map(len, text.splitlines())) <= width
    assert "2.0500" in text
    assert "…" not in text.split("trial 6 failed")[0]
    is_wide = "learning_rate rank" not in text
    assert is_wide == (width > 80)


def test_a_maximised_metric_shows_its_values() -> None:
    study = WrittenStudy(Objective("accuracy", "maximize"))
    study.train(study.start(), 0.5, 0.6, 0.7)
    study.train(study.start(), 0.5, 0.7, 0.8)

    assert [(row[1], "0.8000" in row) for row in rows(study) if row[0].isdigit()] == [("1", True), ("0", False)]


def test_every_objective_has_a_column() -> None:
    board = rows(two_objectives())

    assert [row[1] for row in board if row[0].isdigit()] == ["1", "2", "0", "3"]
    assert next(row for row in board if row[:2] == ["1", "1"])[5:7] == ["2.1000", "0.4000"]


def test_a_parameter_that_a_trial_lacks_is_a_dash() -> None:
    study = WrittenStudy()
    study.train(study.start(lora__rank=None), 2.0)

    assert next(row for row in rows(study) if row[0] == "1")[6:9] == ["5e-4", "–", "0"]
    assert param_cells({"a": 1.0}, ("a", "b")) == ["1", "–"]


def test_trade_offs_are_the_front_of_the_full_budget() -> None:
    section = trade_offs_section(two_objectives().history, NAMES)

    assert section.sentences[0].startswith("3 trials of 4 at the full budget: no other is at least as good in all of ")
    text = rendered(section.table, 140) if section.table else ""
    shown = [line.split()[:3] for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert shown == [["1", "2.1000", "0.4000"], ["2", "2.2000", "0.4500"], ["0", "2.3000", "0.5000"]]


def test_a_single_objective_has_no_trade_offs() -> None:
    assert trade_offs_section(finished_study().history, NAMES).is_empty


def test_that_of_nothing_is_empty() -> None:
    assert rows(WrittenStudy())[-1][0] == "#"
