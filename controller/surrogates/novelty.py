"""Whether a configuration that lies close to a known one will only repeat it.

Some objectives are flat in places: a parameter without effect, values that are rounded, a table that answers with its
nearest row. There a search that goes by a smooth surrogate comes back to what it knows. Results that are equal in every
digit give it away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_CENTRES = np.array([0.0, 3.0])
_SPREADS = np.array([2.0, 5.0])


def log_novelty(distances: Floats, known_distances: Floats, repeated: Flags) -> Floats:
    """Log-probability that a configuration at each distance from the nearest known one is no repetition, shape [m].

    Logistic regression on the distance with normal priors, 0 ± 2 for the constant and 3 ± 5 for the slope, which is
    not negative. All 0 where nothing was ever repeated: then every result is new, however close.

    Args:
        distances: shape [m], from the nearest known configuration.
        known_distances: shape [n], what these were for configurations that have a result, when they were proposed.
        repeated: shape [n], which of them gave exactly the result of an earlier one.
    """
    if not repeated.any():
        return np.zeros(len(distances))
    fresh = 1.0 - repeated

    def objective(weights: Floats) -> tuple[float, Floats]:
        scores = weights[0] + weights[1] * known_distances
        away = (weights - _CENTRES) / _SPREADS
        value = np.sum(np.logaddexp(0.0, scores) - fresh * scores) + 0.5 * away @ away
        errors = 0.5 * (1.0 + np.tanh(0.5 * scores)) - fresh
        return float(value), np.array([errors.sum(), errors @ known_distances]) + away / _SPREADS

    bounds = [(-20.0, 20.0), (0.0, 60.0)]
    constant, slope = minimize(objective, _CENTRES, jac=True, method="L-BFGS-B", bounds=bounds).x
    return np.asarray(-np.logaddexp(0.0, -(constant + slope * distances)))
