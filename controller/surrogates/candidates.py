"""Points of a space for an acquisition function to choose from."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from search_spaces.space import Space

Floats = npt.NDArray[np.float64]

_PLAIN: Final = (1000, 400)
_OTHER: Final = (200, 80)  # every point of a space with conditions or rules is repaired one by one
_STEP: Final = 0.2
_JITTER: Final = 0.08


def spread(space: Space, rng: np.random.Generator) -> Floats:
    """Points from all over a space, shape [n, d]: uniform, or half of them from its priors if there are any."""
    count = _counts(space)[0]
    drawn = []
    if space.priors:
        drawn = [space.sample(rng) for _ in range(min(count // 2, _OTHER[0] // 2))]
    uniform = on_space(space, rng.random((count - len(drawn), len(space.domains))))
    return np.concatenate([space.encode_many(drawn), uniform]) if drawn else uniform


def around(space: Space, centres: Floats, rng: np.random.Generator) -> Floats:
    """Points that share much with one or two of the centres, shape [n, d].

    Half of them are children of two centres with about two coordinates redrawn and all others shaken a little; the
    others are steps of several sizes along some coordinates of one centre.

    Args:
        centres: shape [c, d], c >= 1.
    """
    count, width = _counts(space)[1], centres.shape[1]
    first, second, third = (centres[rng.integers(len(centres), size=count)] for _ in range(3))
    children = np.where(rng.random(first.shape) < 0.3, second, first)
    children = np.where(rng.random(first.shape) < 2.0 / width, rng.random(first.shape), children)
    children = children + _JITTER * rng.normal(size=first.shape)
    moved = rng.random(third.shape) < max(1.5 / width, 0.3)
    sizes = _STEP * rng.choice([0.25, 1.0, 2.0], size=(count, 1))
    steps = third + moved * sizes * rng.normal(size=third.shape)
    return on_space(space, np.clip(np.concatenate([children, steps]), 0.0, 1.0))


def on_space(space: Space, units: Floats) -> Floats:
    """The points as the space takes them: integers and choices rounded, rules repaired, what is absent at 0.5."""
    return space.encode_many(space.decode_many(units))


def _counts(space: Space) -> tuple[int, int]:
    return _OTHER if space.conditions or space.rules else _PLAIN
