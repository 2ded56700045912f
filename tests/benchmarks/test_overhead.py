from __future__ import annotations

from typing import Any

import pytest

from search_spaces.domains import Float
from search_spaces.space import Params, Space

SPACE = Space({"x": Float(0.0, 1.0)})


def loss_of(params: Params, budget: int) -> float:
    return float(params["x"]) + 1 / budget


@pytest.mark.parametrize("kind", ["random", "asha", "evolution-asha", "auto"])
def test_decisions_are_measured_at_the_size_that_was_asked_for(kind: str) -> None:
    from overhead import proposals

    (row,) = proposals.rows(SPACE, (1, 3, 9), loss_of, trials=60, measured=10, seed=0, kinds=[kind])
    assert (row["strategy"], row["trials"], row["measured"]) == (kind, 60, "9 new trials")
    assert 0 < row["median_ms"] <= row["slowest_of_20_ms"]
    assert row["filled_by"] == ("itself" if row["limit_ms"] else "asha")


def test_every_kind_has_the_limit_that_was_set_for_it() -> None:
    from overhead.proposals import limit_of

    kinds = ("random", "evolution", "asha", "hyperband", "tpe", "nsga2", "gp", "freeze-thaw", "auto")
    assert [limit_of(kind) for kind in kinds] == [1.0, 1.0, 1.0, 1.0, 5.0, 20.0, 200.0, 200.0, None]


def test_a_study_of_many_workers_is_counted_in_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from overhead import large_study

    row: Any = large_study.row(SPACE, (1, 3, 9), loss_of, workers=50, jobs=300, seed=0)
    assert (row["workers"], row["jobs"]) == (50, 300)
    assert row["jobs_per_second"] > 0
    assert row["trials"] < 300
