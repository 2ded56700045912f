"""Tuning problems from tables of learning curves: spaces, nearest rows, regret, and what the simulator needs.

A table is an `.npz` file without pickles: `names`, `kind` ('float' or 'int'), `log`, `low`, `high`, each of shape
[d]; `params` [n, d]; `val`, `test` and `seconds` (cumulative) [n, T], by epoch, lower is better, NaN = diverged.
Problems whose file names agree up to the first dash make a family.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from controller.trial import Job
from search_spaces.domains import Float, Int
from search_spaces.space import Params, Space

Floats = npt.NDArray[np.float64]

CAPPED_FAMILY = "taskset"
"""Its values are capped; those of other families only where a curve diverged."""


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """What turns a loss into a regret: 0 is the best value of the table, 1 the median one after full training.

    Both are taken after values were capped and gaps filled, as in the published figures of the peers.
    """

    best: float
    median_final: float

    def regret(self, loss: float) -> float:
        """How far a loss is from the best one."""
        return (loss - self.best) / (self.median_final - self.best)


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """A tuning problem.

    Attributes:
        name: of the file, without its ending; `family`: the name up to the first dash.
        space: what may vary, uniform on the scales of the table.
        val: validation losses without NaN, shape [n, epochs]; `test`: those of the test set.
        seconds: cumulative, shape [n, epochs].
        val_scale, test_scale: of the regrets.
    """

    name: str
    family: str
    space: Space
    val: Floats
    test: Floats
    seconds: Floats
    val_scale: Scale
    test_scale: Scale
    _logs: tuple[bool, ...]
    _bounds: tuple[tuple[float, float], ...]
    _tree: Any

    @property
    def epochs(self) -> int:
        """A full training."""
        return int(self.val.shape[1])

    def row(self, params: Params) -> int:
        """The row nearest to a configuration in the unit cube, logarithmic where the table says so."""
        return self._nearest(tuple(float(params[name]) for name in self.space.names))

    @functools.cached_property
    def _nearest(self) -> Callable[[tuple[float, ...]], int]:
        @functools.cache
        def nearest(values: tuple[float, ...]) -> int:
            return int(self._tree.query(_units(np.array([values]), self._logs, self._bounds)[0])[1])

        return nearest


def load(path: Path) -> Problem:
    """Read a table."""
    with np.load(path) as data:
        table = {name: data[name] for name in data.files}
    family = path.stem.partition("-")[0]
    logs = tuple(bool(log) for log in table["log"])
    bounds = tuple((float(low), float(high)) for low, high in zip(table["low"], table["high"], strict=True))
    domains: dict[str, Float | Int] = {}
    for name, kind, log, (low, high) in zip(table["names"], table["kind"], logs, bounds, strict=True):
        domains[str(name)] = Int(int(low), int(high), log) if kind == "int" else Float(low, high, log)
    units = _units(np.asarray(table["params"], np.float64), logs, bounds)
    val, test = (_without_gaps(np.asarray(table[name], np.float64), family) for name in ("val", "test"))
    return Problem(
        name=path.stem,
        family=family,
        space=Space(domains),
        val=val,
        test=test,
        seconds=np.asarray(table["seconds"], np.float64),
        val_scale=_scale(val),
        test_scale=_scale(test),
        _logs=logs,
        _bounds=bounds,
        _tree=cKDTree(units),
    )


def load_all(directory: Path) -> list[Problem]:
    """Read all tables of a directory, in the order of their names. Raises ValueError if there are none."""
    paths = sorted(directory.glob("*.npz"))
    if not paths:
        raise ValueError(
            f"expected tables of learning curves (.npz) in {directory}, got none; see benchmarks/README.md"
        )
    return [load(path) for path in paths]


@final
@dataclass(frozen=True, slots=True)
class TableCurves:
    """The curves of a problem, for SimulatedExecutor. A budget is a number of epochs."""

    problem: Problem

    def measure(self, job: Job) -> Mapping[str, float]:
        """See Curves."""
        row, epoch = self.problem.row(job.params), job.to_budget - 1
        return {
            "validation_loss": float(self.problem.val[row, epoch]),
            "test_loss": float(self.problem.test[row, epoch]),
        }

    def seconds(self, job: Job) -> float:
        """What the training of a job took, for CostModel."""
        seconds = self.problem.seconds[self.problem.row(job.params)]
        before = seconds[job.from_budget - 1] if job.from_budget else 0.0
        return float(seconds[job.to_budget - 1] - before) if job.to_budget else 0.0


def _scale(losses: Floats) -> Scale:
    return Scale(float(losses.min()), float(np.median(losses[:, -1])))


def _without_gaps(losses: Floats, family: str) -> Floats:
    """The losses with twice the median first one for those that diverged, and nothing above that."""
    if family != CAPPED_FAMILY and not np.isnan(losses).any():
        return losses
    cap = 2.0 * float(np.nanmedian(losses[:, 0]))
    return np.minimum(np.where(np.isnan(losses), cap, losses), cap)


def _units(params: Floats, logs: Sequence[bool], bounds: Sequence[tuple[float, float]]) -> Floats:
    columns = []
    for values, log, (low, high) in zip(params.T, logs, bounds, strict=True):
        if log:
            low, high, values = math.log(low), math.log(high), np.log(values)
        columns.append((values - low) / (high - low) if low < high else np.full(len(values), 0.5))
    return np.stack(columns, axis=1)
