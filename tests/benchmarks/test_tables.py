from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.trial import Continue, Job


def job(params: Any, to_epoch: int, from_epoch: int = 0) -> Job:
    return Job(0, 0, params, 0, from_epoch, to_epoch, 27, Continue(0, from_epoch) if from_epoch else None)


def rewritten(table: Path, path: Path, **changes: Any) -> Path:
    with np.load(table) as data:
        arrays = {name: data[name] for name in data.files}
    np.savez(path, **{**arrays, **changes})
    return path


def test_a_configuration_stands_for_its_nearest_row_in_the_unit_cube(table: Path) -> None:
    import tables

    problem = tables.load(table)
    with np.load(table) as data:
        params = data["params"]
    assert (problem.name, problem.family, problem.epochs) == ("synthetic-0", "synthetic", 27)
    for row, (rate, batch, momentum) in enumerate(params[:50]):
        exact = {"learning_rate": float(rate), "batch_size": int(batch), "momentum": float(momentum)}
        problem.space.validate(exact)
        assert problem.row(exact) == row
    rng = np.random.default_rng(0)
    low, high = np.log([1e-4, 8]), np.log([1e-1, 128])
    units = np.column_stack([(np.log(params[:, :2]) - low) / (high - low), params[:, 2] / 0.9])
    for _ in range(50):
        drawn = problem.space.sample(rng)
        place = np.array([drawn["learning_rate"], drawn["batch_size"], drawn["momentum"]], float)
        place = np.append((np.log(place[:2]) - low) / (high - low), place[2] / 0.9)
        assert problem.row(drawn) == int(((units - place) ** 2).sum(1).argmin())


def test_curves_are_read_at_the_end_of_a_job(table: Path) -> None:
    import tables

    problem = tables.load(table)
    curves = tables.TableCurves(problem)
    params = problem.space.sample(np.random.default_rng(1))
    row = problem.row(params)
    assert curves.measure(job(params, 9)) == {
        "validation_loss": problem.val[row, 8],
        "test_loss": problem.test[row, 8],
    }
    assert curves.seconds(job(params, 9)) == 9.0
    assert curves.seconds(job(params, 27, 9)) == 18.0
    assert curves.seconds(job(params, 9, 9)) == 0.0


def test_what_diverged_counts_as_twice_the_median_first_loss(table: Path) -> None:
    import tables

    problem = tables.load(table)
    with np.load(table) as data:
        raw = data["val"]
    gaps = np.isnan(raw)
    assert gaps.any()
    cap = 2 * np.nanmedian(raw[:, 0])
    assert (problem.val[gaps] == cap).all()
    assert problem.val.max() <= cap
    assert problem.val_scale.best == np.nanmin(raw)
    assert problem.val_scale.median_final == np.median(problem.val[:, -1])
    assert problem.val_scale.regret(problem.val_scale.best) == 0
    assert problem.val_scale.regret(problem.val_scale.median_final) == 1


@pytest.mark.parametrize(("name", "capped"), [("taskset-x.npz", True), ("lcbench-x.npz", False)])
def test_without_gaps_one_family_alone_is_capped(table: Path, tmp_path: Path, name: str, capped: bool) -> None:
    import tables

    with np.load(table) as data:
        val = np.nan_to_num(data["val"], nan=1.0)
    val[3, 20] = 50.0
    problem = tables.load(rewritten(table, tmp_path / name, val=val))
    assert (problem.val[3, 20] < 50.0) == capped
    assert np.array_equal(problem.val, np.minimum(val, 2 * np.median(val[:, 0])) if capped else val)


def test_tables_are_found_in_the_order_of_their_names(table: Path, tmp_path: Path) -> None:
    import tables

    for name in ("b-2", "a-1"):
        (tmp_path / f"{name}.npz").write_bytes(table.read_bytes())
    assert [problem.name for problem in tables.load_all(tmp_path)] == ["a-1", "b-2"]
    with pytest.raises(ValueError, match="expected tables of learning curves"):
        tables.load_all(tmp_path / "empty")
