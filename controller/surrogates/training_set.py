"""Which results a Gaussian process holds, and when its hyperparameters are fitted again: cost that stays bounded."""

from __future__ import annotations

from typing import Final, final

import numpy as np
import numpy.typing as npt

from controller.pareto import crowded_order
from controller.surrogates.features import Features
from controller.surrogates.gaussian_process import Hyperparameters, fit
from controller.surrogates.outputs import Outputs

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_EVERY: Final = 30  # up to this many results, every one of them leads to a fit
_GROWTH: Final = 1.1  # from then on, that many times more
_MOST_FITTED: Final = 120


def selected(losses: Floats, count: int) -> Indices:
    """At most `count` rows: the best half, and others evenly over the rest, in their order.

    Args:
        losses: shape [n] or [n, objectives]; the best of several objectives are those of the first fronts.
    """
    total = len(losses)
    if total <= count:
        return np.arange(total)
    single = losses.ndim == 1 or losses.shape[1] == 1
    best = (np.argsort(losses.reshape(-1), kind="stable") if single else crowded_order(losses))[: count // 2]
    rest = np.setdiff1d(np.arange(total), best)
    spread = rest[np.linspace(0, len(rest) - 1, count - len(best)).round().astype(np.int64)]
    return np.sort(np.concatenate([best, spread]))


def scheduled(count: int) -> int:
    """How many of the first `count` results hyperparameters are fitted to: all of a few, later steps of a tenth.

    A fit that depends on these results alone is the same for a warm and a cold start.
    """
    if count <= _EVERY:
        return count
    size = float(_EVERY)
    while int(size * _GROWTH) <= count:
        size *= _GROWTH
    return int(size)


@final
class Refits:
    """Fits hyperparameters, and keeps the last for as long as it is asked for the same.

    It is found again by what it was fitted to: keeping it saves time and changes nothing.
    """

    def __init__(self) -> None:
        self._kept: tuple[Floats, Floats, Hyperparameters] | None = None

    def of(self, features: Features, units: Floats, losses: Floats) -> Hyperparameters:
        """The hyperparameters for n results, fitted to some of them if they are many.

        Args:
            units: shape [n, d].
            losses: shape [n].
        """
        rows = selected(losses, _MOST_FITTED)
        points, targets = features.of(units[rows]), losses[rows]
        if self._kept is not None:
            old_points, old_targets, hyperparameters = self._kept
            if np.array_equal(points, old_points) and np.array_equal(targets, old_targets):
                return hyperparameters
        hyperparameters = fit(points, Outputs.of(targets).targets(targets), features.groups)
        self._kept = points, targets, hyperparameters
        return hyperparameters
