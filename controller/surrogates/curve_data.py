"""What a study has measured along its learning curves, as a surrogate of curves takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

from controller.history import History
from controller.observations import Observations
from controller.surrogates.curves import CurveHyperparameters, fit_curves
from controller.surrogates.features import Features
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_DECADES: Final = 4.0  # e-folds of budget below the full one that the unit interval of places spans
_TAIL: Final = 0.5
_EVERY: Final = 12  # up to this many results, every one of them leads to a fit
_GROWTH: Final = 1.25  # from then on, that many times more
_MOST_FITTED: Final = 250


@final
@dataclass(frozen=True, slots=True, eq=False)
class CurvePoints:
    """Measurements in the order of their reports.

    Attributes:
        trial_ids: shape [n].
        places: shape [n], where on the curve, 1 at the full budget; see `place_of`.
        losses: shape [n], first objective.
        last: shape [n], whether it is the latest of its trial.
    """

    trial_ids: Indices
    places: Floats
    losses: Floats
    last: Flags

    def selected(self, count: int) -> Indices:
        """At most `count` rows: the latest of each trial, best first, a quarter of them the newest; then the best."""
        if len(self.losses) <= count:
            return np.arange(len(self.losses))
        latest, earlier = np.flatnonzero(self.last), np.flatnonzero(~self.last)
        by_loss = latest[np.argsort(self.losses[latest], kind="stable")]
        if len(by_loss) > count:
            best, rest = by_loss[: count - count // 4], by_loss[count - count // 4 :]
            return np.sort(np.concatenate([best, np.sort(rest)[-(count // 4) :]]))
        others = earlier[np.argsort(self.losses[earlier], kind="stable")][: count - len(by_loss)]
        return np.sort(np.concatenate([by_loss, others]))


@final
class CurveData:
    """Reads curves off a history, and fits hyperparameters on a schedule. A cache: built anew for another history.

    Args:
        space: where the trials live; those outside are left out.
    """

    def __init__(self, space: Space) -> None:
        self.features = Features(space)
        self._observations = Observations(space)
        self._history: History | None = None
        self._fit: tuple[int, CurveHyperparameters] | None = None

    def points(self, history: History, count: int | None = None) -> CurvePoints:
        """All measurements, or the first so many of them."""
        inside = ~np.isnan(self.units(history)[:, 0])
        kept = [(trial_id, rung) for trial_id, rung in history.results if inside[trial_id]][:count]
        latest = dict(kept)
        return CurvePoints(
            np.array([trial_id for trial_id, _ in kept], np.int64),
            place_of(np.array([rung for _, rung in kept], np.float64), history.horizon),
            np.array([history.loss(trial_id, rung) for trial_id, rung in kept]),
            np.array([latest[trial_id] == rung for trial_id, rung in kept], np.bool_),
        )

    def units(self, history: History) -> Floats:
        """Where all trials stand in the unit cube, shape [trials, d]; NaN for those outside the space."""
        return self._observations.units(history)

    def hyperparameters(self, history: History) -> CurveHyperparameters:
        """Fitted to the first so many results, the same for a warm and a cold start."""
        if history is not self._history:
            self._history, self._fit = history, None
        inside = ~np.isnan(self.units(history)[:, 0])
        count = _scheduled(sum(1 for trial_id, _ in history.results if inside[trial_id]))
        if self._fit is None or self._fit[0] != count:
            points = self.points(history, count)
            rows = points.selected(_MOST_FITTED)
            features = self.features.of(self.units(history)[points.trial_ids[rows]])
            targets = curve_targets(points.losses)[rows]
            self._fit = count, fit_curves(features, points.places[rows], targets, self.features.groups)
        return self._fit[1]


def place_of(budgets: npt.ArrayLike, horizon: int) -> Floats:
    """Where budgets stand on a curve: 1 at the full one, 0 at about a 55th of it (logarithmic, four e-folds)."""
    return np.asarray(1.0 + np.log(np.asarray(budgets, np.float64) / horizon) / _DECADES)


def curve_targets(losses: Floats) -> Floats:
    """Losses with mean 0 and variance 1. What is worse than the median by more than the best is better counts less.

    The first measurements of a curve, and diverging ones, lie far above all that a search is about: beyond one distance
    between best and median, above the best, distances grow as half their logarithm.

    Args:
        losses: shape [n], finite, n >= 1.
    """
    best = float(np.min(losses))
    scale = float(np.median(losses)) - best or float(np.max(losses)) - best or 1.0
    away = (losses - best) / scale
    bent = np.where(away > 1.0, 1.0 + _TAIL * np.log1p(np.maximum(away - 1.0, 0.0)), away)
    spread = float(np.std(bent))
    return np.asarray((bent - np.mean(bent)) / (spread if spread > 1e-9 else 1.0))


def _scheduled(count: int) -> int:
    """How many of the first `count` results hyperparameters are fitted to."""
    if count <= _EVERY:
        return count
    size = float(_EVERY)
    while int(size * _GROWTH) <= count:
        size *= _GROWTH
    return int(size)
