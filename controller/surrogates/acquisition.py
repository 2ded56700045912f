"""How promising a point is, as the logarithm of what is expected of it. Losses: lower is better."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, log_ndtr, ndtr

Floats = npt.NDArray[np.float64]

_FAR: Final = -1.0 / np.sqrt(np.finfo(np.float64).eps)  # beyond it, the two terms of the tail cancel
_SMOOTH: Final = 1e-3  # width of the softplus that stands for max(0, .), where objectives are scaled to about 1
_AUGMENTED: Final = 0.05  # weight of the sum in Chebyshev's scalarisation (Knowles 2006, eq. 2)


def log_expected_improvement(means: Floats, deviations: Floats, best: npt.ArrayLike) -> Floats:
    """log E[max(0, best - f)] for normal f, also where the expectation underflows (LogEI, Ament et al. 2023,
    arXiv:2310.20708).

    The arguments broadcast; deviations are above 0.
    """
    improvement: Floats = log_h((np.asarray(best) - means) / deviations) + np.log(deviations)
    return improvement


def log_h(z: Floats) -> Floats:
    """log(φ(z) + z Φ(z)) for the standard normal density φ and distribution Φ (ibid., appendix A)."""
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-0.5 * near * near) / np.sqrt(2.0 * np.pi) + near * ndtr(near))
    tail = np.clip(z, _FAR, -1.0)  # φ(z) (1 - |z| Φ(z) / φ(z)); the quotient is Mills' ratio, from erfcx
    middle = _log1mexp(np.log(erfcx(-tail / np.sqrt(2.0)) * -tail) + 0.5 * np.log(0.5 * np.pi))
    far = -2.0 * np.log(-np.minimum(z, _FAR))
    outside = -0.5 * z * z - 0.5 * np.log(2.0 * np.pi)
    return np.asarray(np.where(z > -1.0, direct, outside + np.where(z > _FAR, middle, far)), np.float64)


def log_mean(logs: Floats) -> Floats:
    """Logarithm of the mean along the last axis of numbers that are given by their logarithms."""
    highest = np.max(logs, axis=-1, keepdims=True)
    mean: Floats = np.log(np.mean(np.exp(logs - highest), axis=-1)) + highest[..., 0]
    return mean


def log_probability_below(means: Floats, deviations: Floats, bound: float) -> Floats:
    """log P(f <= bound) for normal f, exact in the far tail too (Gardner et al. 2014)."""
    return np.asarray(log_ndtr((bound - means) / deviations), np.float64)


def chebyshev(losses: Floats, weights: Floats) -> Floats:
    """The augmented scalarisation of ParEGO (Knowles 2006, eq. 2): max_j w_j y_j + 0.05 sum_j w_j y_j.

    Args:
        losses: shape [..., objectives], on comparable scales, 0 for the best known of each.
        weights: shape [..., objectives], from 0 to 1, with sum 1.
    """
    weighted = losses * weights
    scalar: Floats = np.max(weighted, axis=-1) + _AUGMENTED * np.sum(weighted, axis=-1)
    return scalar


def log_scalarised_improvement(samples: Floats, front: Floats, weights: Floats) -> Floats:
    """log E[max(0, best - c)] for the scalarisation c of several objectives, by sampling (as in Daulton et al. 2020).

    Args:
        samples: shape [points, samples, objectives], draws of the objectives of each point.
        front: shape [n, objectives], what is known: the best of it is improved on.
        weights: shape [objectives], see chebyshev.
    """
    best = np.min(chebyshev(front, weights))
    return _log_mean_softplus(best - chebyshev(samples, weights))


def log_hypervolume_improvement(samples: Floats, front: Floats, reference: Floats, directions: Floats) -> Floats:
    """Log of the expected growth of the dominated hypervolume, but for a constant, by sampling.

    A hypervolume is, but for a constant, the mean over directions λ of the positive unit sphere of the largest
    min_j max(0, (reference_j - y_j) / λ_j)^m (Zhang and Golovin 2020, arXiv:2006.04655, lemma 5). So every sample of
    the objectives is compared with the front along a direction of its own.

    Args:
        samples: shape [points, samples, objectives].
        front: shape [n, objectives].
        reference: shape [objectives], the corner of the hypervolume.
        directions: shape [samples, objectives], uniform on the positive unit sphere.
    """
    count = len(reference)
    known = np.max(_along(front[:, None, :], reference, directions), axis=0)
    reached = _along(samples, reference, directions)
    grown = reached**count - known**count
    return _log_mean_softplus(grown)


def _along(losses: Floats, reference: Floats, directions: Floats) -> Floats:
    """How far the box below the reference reaches along each direction."""
    reach: Floats = np.min(np.maximum(reference - losses, 0.0) / np.maximum(directions, 1e-9), axis=-1)
    return reach


def _log_mean_softplus(values: Floats) -> Floats:
    """log of the mean of max(0, value), smoothed so that it tells points apart where no sample improves."""
    scaled = values / _SMOOTH
    softplus = np.logaddexp(0.0, scaled)
    logs = np.where(scaled < -30.0, scaled, np.log(np.maximum(softplus, 1e-300)))
    mean: Floats = log_mean(logs) + np.log(_SMOOTH)
    return mean


def _log1mexp(logs: Floats) -> Floats:
    """log(1 - exp(logs)) for logs below 0, exact at both ends."""
    safe = np.minimum(logs, -1e-300)
    near_zero = np.log(-np.expm1(np.maximum(safe, -0.7)))
    return np.asarray(np.where(safe > -0.7, near_zero, np.log1p(-np.exp(np.minimum(safe, -0.69)))), np.float64)
