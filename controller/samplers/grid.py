"""Grid search: every assignment of a few values for each parameter, once, in random order."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, final

import numpy as np

from controller.history import History
from controller.strategy import Proposal
from search_spaces.grid import grid_values
from search_spaces.space import Params, ParamValue, Space, SpaceError

_DRAWS: Final = 16  # before all points are looked through for those that are left


@final
class GridSampler:
    """Points of a grid, drawn among those that no trial has tried yet.

    The order is random, so that a study that ends early has seen some of every corner. When the grid is used
    up, points come again, labelled `grid-repeat`.

    Args:
        space: where the grid lies; its conditions and rules hold. Priors have no say.
        points: how many values for each Float or Int, for all or by name, as in `Space.grid`. None: as many as give
            a grid of at most `limit` points, so that `limit=50` is the finest grid for 50 trials.
        limit: how many points the grid may have.

    Raises SpaceError if the grid has more, or no point at all.
    """

    def __init__(self, space: Space, *, points: int | Mapping[str, int] | None = None, limit: int = 10_000) -> None:
        if limit < 1:
            raise ValueError(f"expected limit >= 1, got {limit}; it is how many points the grid may have")
        self.space = space
        self.points = points
        self.limit = limit
        self._grid = _finest(space, limit) if points is None else list(space.grid(points, limit))
        if not self._grid:
            raise SpaceError(f"expected a grid that meets the rules, got no point with points={points}; take more")
        self._used_up: History | None = None  # of which it is known that nothing is left

    def __len__(self) -> int:
        """How many points the grid has."""
        return len(self._grid)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        first = drawn = self._drawn(rng)
        if history is not self._used_up:
            for _ in range(_DRAWS):
                if not history.was_tried(drawn):
                    return Proposal(dict(drawn), {"origin": "grid"})
                drawn = self._drawn(rng)
            left = [params for params in self._grid if not history.was_tried(params)]
            if left:
                return Proposal(dict(left[rng.integers(len(left))]), {"origin": "grid"})
            self._used_up = history
        return Proposal(dict(first), {"origin": "grid-repeat"})

    def _drawn(self, rng: np.random.Generator) -> Params:
        return self._grid[rng.integers(len(self._grid))]


def _finest(space: Space, limit: int) -> list[dict[str, ParamValue]]:
    """The grid with the most values for each Float and Int that has at most `limit` points."""

    def fits(points: int) -> bool:
        sizes = [len(grid_values(name, domain, points)) for name, domain in space.domains.items()]
        if not (space.conditions or space.rules):
            return math.prod(sizes) <= limit
        try:
            space.grid(points, limit)
        except SpaceError:
            return False
        return True

    enough, too_many = 1, 2
    while too_many <= limit and fits(too_many):
        enough, too_many = too_many, 2 * too_many
    between = range(enough + 1, min(too_many, limit + 1))
    return list(space.grid(enough + bisect_left(between, True, key=lambda points: not fits(points)), limit))
