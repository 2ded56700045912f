"""The adapters, each with the real library, where that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, about libraries that are newer than they are


def trace(system: str, table: Path, seed: int = 0, workers: int = 1) -> Any:
    import peers
    import tables
    from quality.systems import System
    from quality.trace import Setting

    missing = peers.why_missing(system)
    if missing:
        pytest.skip(missing)
    found = System(system).run(tables.load(table), Setting(seed, workers))
    found.seconds = 0.0
    return found


SYSTEMS = (
    "random",
    "optuna-tpe",
    "optuna-random-hyperband",
    "optuna-tpe-hyperband",
    "synetune-asha",
    "synetune-bohb",
    "dehb",
)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_peer_uses_its_budget_and_repeats_itself(system: str, table: Path) -> None:
    found = trace(system, table)
    assert found == trace(system, table)
    assert 0 < found.points[0][0] <= 27
    assert found.points[-1][0] <= 20 * 27
    assert found.trials >= 20
    if system != "synetune-bohb":  # seconds
        assert trace(system, table, seed=1).points != found.points
        assert trace(system, table, workers=4).points != found.points


def test_random_and_tpe_begin_alike_and_train_everything_to_the_end(table: Path) -> None:
    random, tpe = trace("random", table), trace("optuna-tpe", table)
    assert (random.trials, tpe.trials) == (21, 21)  # the last one is cut off
    assert [point for point in random.points if point[0] <= 270] == [point for point in tpe.points if point[0] <= 270]


def test_dehb_takes_up_what_it_has_trained(table: Path) -> None:
    found = trace("dehb", table)
    assert found.trials < found.jobs


def test_every_peer_is_tested() -> None:
    import peers

    assert set(peers.PEERS) == set(SYSTEMS)


def test_a_missing_package_is_a_reason_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import peers

    monkeypatch.setitem(sys.modules, "dehb", None)
    reason = peers.why_missing("dehb")
    assert reason is not None
    assert reason.startswith("dehb needs dehb")
    assert "benchmarks/README.md" in reason
