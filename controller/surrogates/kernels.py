"""The Matern 5/2 kernel with one lengthscale a parameter (Rasmussen and Williams 2006, eq. 4.17), and its gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_ROOT5 = np.sqrt(5.0)


def matern(first: Floats, second: Floats, scales: Floats) -> Floats:
    """Correlations (1 + √5 r + 5/3 r²) exp(-√5 r), where r² = sum over columns of (difference / scale)².

    Args:
        first: shape [n, k].
        second: shape [m, k].
        scales: shape [k], a lengthscale for each column, above 0.

    Returns shape [n, m], 1 where the points are the same.
    """
    scaled = _ROOT5 * cdist(first / scales, second / scales)
    correlations: Floats = (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
    return correlations


def matern_weighted_gradient(points: Floats, scales: Floats, groups: Indices, weights: Floats) -> Floats:
    """Gradient of sum_ij weights_ij matern(points)_ij with respect to the log lengthscales.

    With dk/d(log l) = 5/3 (1 + √5 r) exp(-√5 r) d²/l² for the difference d of a column, summed over the columns that
    share l. The sums over i, j are matrix products, so that no array of [groups, n, n] is needed.

    Args:
        points: shape [n, k].
        scales: shape [k].
        groups: shape [k], the lengthscale that each column belongs to: 0 to g - 1, each at least once.
        weights: shape [n, n], symmetric.

    Returns shape [g].
    """
    scaled_points = points / scales
    scaled = _ROOT5 * cdist(scaled_points, scaled_points)
    outer = weights * (5.0 / 3.0) * (1.0 + scaled) * np.exp(-scaled)
    squares = outer.sum(axis=1) @ (scaled_points * scaled_points)
    crossed = np.einsum("ik,ik->k", scaled_points, outer @ scaled_points)
    return np.bincount(groups, 2.0 * (squares - crossed)).astype(np.float64)
