"""Losses as a Gaussian process likes them: without outliers, with mean 0 and variance 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FENCE: Final = 10.0
"""Losses count as at most the lower quartile plus this many times what the best is below it."""


@final
@dataclass(frozen=True, slots=True)
class Outputs:
    """An increasing map from losses to targets, fitted to the losses of a rung.

    A bad loss is pulled in to the fence (a diverged run says "bad", not how bad); then all are standardised. The fence
    is measured from the good quarter, so that it holds also where most runs diverged. A bend on top of it, as that of
    Yeo and Johnson (2000), was tried and brought nothing on learning-curve tables.

    Attributes:
        cap: losses above it count as it.
        centre: what becomes 0.
        scale: what becomes 1, above 0.
    """

    cap: float
    centre: float
    scale: float

    @classmethod
    def of(cls, losses: Floats, least_cap: float = -np.inf) -> Outputs:
        """The map for these losses, shape [n], finite, n >= 1.

        Args:
            least_cap: up to here, losses are told apart in any case.
        """
        best, worst = float(np.min(losses)), float(np.max(losses))
        fences = (
            quantile + FENCE * (quantile - best) for quantile in np.quantile(losses, (0.25, 0.5)) if quantile > best
        )
        cap = max(float(next(fences, worst)), least_cap)
        kept = np.minimum(losses, cap)
        spread = float(np.std(kept))
        constant = spread <= 1e-12 * max(abs(best), abs(min(worst, cap)))
        return cls(cap, float(np.mean(kept)), 1.0 if constant else spread)

    def targets(self, losses: Floats) -> Floats:
        """The targets of losses, of the same shape."""
        return (np.minimum(losses, self.cap) - self.centre) / self.scale
