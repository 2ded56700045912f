from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> list[dict[str, Any]]:
    import search_quality

    target = Path(str(arguments[arguments.index("--out") + 1])) / "rows.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(sys, "argv", ["search_quality.py", "--json", str(target), *map(str, arguments)])
    search_quality.main()
    rows: list[dict[str, Any]] = json.loads(target.read_text())
    return rows


def test_it_makes_a_row_for_each_system_family_and_budget(
    monkeypatch: pytest.MonkeyPatch, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quality.systems._digest", lambda sources: "of code that nobody is working on")
    for name in ("one-a", "one-b", "two-a"):
        (tmp_path / f"{name}.npz").write_bytes(table.read_bytes())
    only = ("--only", "thresher-asha", "thresher-random")
    rows = run(monkeypatch, "--tables", tmp_path, "--out", tmp_path / "out", "--seeds", 3, *only)
    assert [(row["system"], row["family"], row["budget"]) for row in rows] == [
        (system, family, budget)
        for system in ("thresher-random", "thresher-asha")
        for family in ("one", "two")
        for budget in (1, 2, 5, 10, 20)
    ]
    for row in rows:
        assert row["regret_low"] <= row["mean_regret"] <= row["regret_high"]
        assert {"median_regret", "mean_test_regret", "workers", "cpu", "versions", "seed"} <= row.keys()
        assert row["problems"] == (2 if row["family"] == "one" else 1)
        assert row["busy"] == 1.0
    regrets = [row["mean_regret"] for row in rows[:5]]
    assert regrets == sorted(regrets, reverse=True)
    assert "18 runs, 0 of them kept" in capsys.readouterr().out
    if any("picture" in path.name for path in (tmp_path / "out").iterdir()):
        assert (tmp_path / "out" / "search_quality-workers1-switch0.svg").stat().st_size > 1000

    again = run(monkeypatch, "--tables", tmp_path, "--out", tmp_path / "out", "--seeds", 3, *only)
    assert "18 runs, 18 of them kept" in capsys.readouterr().out
    assert [row["mean_regret"] for row in again] == [row["mean_regret"] for row in rows]


def test_what_was_kept_is_used_only_for_the_same_code_and_table(
    monkeypatch: pytest.MonkeyPatch, table: Path, tmp_path: Path
) -> None:
    from quality import runs
    from quality.systems import System
    from quality.trace import Setting

    run_ = runs.Run(System("thresher-random"), table, Setting(0), "first", "digest")
    assert runs.kept(run_, tmp_path, stale=True) is None
    ((_, trace),) = runs.play([run_], tmp_path, 1)
    assert runs.kept(run_, tmp_path, stale=False) == trace
    other = runs.Run(run_.system, table, run_.setting, "second", "digest")
    assert runs.kept(other, tmp_path, stale=False) is None
    assert runs.kept(other, tmp_path, stale=True) == trace
    assert runs.kept(runs.Run(run_.system, table, run_.setting, "first", "new"), tmp_path, stale=True) is None
    run_.place(tmp_path).write_text("{")  # whatever happened there
    assert runs.kept(run_, tmp_path, stale=False) is None


def test_runs_go_on_beside_each_other(table: Path, tmp_path: Path) -> None:
    from quality import runs
    from quality.systems import System
    from quality.trace import Setting

    wanted = [runs.Run(System("thresher-random"), table, Setting(seed), "v", "t") for seed in range(3)]
    together = dict(runs.play(wanted, tmp_path / "two", 2))
    alone = dict(runs.play(wanted, tmp_path / "one", 1))
    assert [together[run].points for run in wanted] == [alone[run].points for run in wanted]


def test_halves_share_no_problem_and_leave_none_out(tmp_path: Path) -> None:
    import search_quality

    names = ["a-1", "a-2", "a-3", "b-1", "b-2"]
    for name in names:
        (tmp_path / f"{name}.npz").touch()

    def half(*arguments: str) -> list[str]:
        args = search_quality._options().parse_args(["--tables", str(tmp_path), *arguments])
        return [path.stem for path in search_quality._tables(args, tmp_path)]

    assert half("--half", "1") == ["a-1", "a-3", "b-1"]
    assert half("--half", "2") == ["a-2", "b-2"]
    assert half("--problems", "b-*", "a-2") == ["a-2", "b-1", "b-2"]
    with pytest.raises(SystemExit, match="got none of those asked for"):
        half("--problems", "c-*")


def test_a_system_of_ones_own_can_be_added(monkeypatch: pytest.MonkeyPatch, table: Path, tmp_path: Path) -> None:
    (tmp_path / "my_strategies.py").write_text(
        "from controller.samplers.random import RandomSampler\n"
        "from controller.schedulers.full_budget import FullBudget\n"
        "from controller.strategy import Composed\n"
        "def make(space, rungs, max_trials, workers):\n"
        "    assert rungs == (1, 3, 9, 27) and max_trials == 540 and workers == 2\n"
        "    return Composed(RandomSampler(space), FullBudget(max_trials))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"
    arguments = ("--tables", table.parent, "--out", out, "--seeds", 1, "--workers", 2, "--only", "mine")
    rows = run(monkeypatch, *arguments, "--add", "mine=my_strategies:make")
    assert {row["system"] for row in rows} == {"mine"}
    assert rows[0]["mean_regret"] is None  # two workers have not trained anything yet after one training
    assert rows[1]["mean_regret"] is not None


def test_an_unknown_system_is_refused(monkeypatch: pytest.MonkeyPatch, table: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="got 'thresher-ashaa'"):
        run(monkeypatch, "--tables", table.parent, "--out", tmp_path, "--only", "thresher-ashaa")


def test_without_tables_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected --tables DIR, got none"):
        run(monkeypatch, "--out", tmp_path)


def test_the_interval_covers_problems_and_seeds() -> None:
    from quality.summary import interval

    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        values = rng.normal(size=(12, 1)) + 0.3 * rng.normal(size=(12, 8))
        low, high = interval(values)
        covered += low <= 0 <= high
    assert 85 <= covered <= 100
    assert interval(np.full((3, 4), 0.5)) == (0.5, 0.5)
