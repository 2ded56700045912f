"""Quasi-random search: a scrambled Sobol sequence, placed by the priors."""

from __future__ import annotations

from typing import Final, final

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from controller.history import History
from controller.strategy import Proposal
from search_spaces.space import Space

_BLOCK: Final = 256
_BITS: Final = 30  # of a point, of which 2**30 can be had
_TRIES: Final = 64


@final
class SobolSampler:
    """Points that fill the space more evenly than random ones, whatever their number.

    The sequence of Sobol 1967, scrambled with the study's seed as scipy does it (a random matrix and a digital
    shift, Matousek 1998). A point gives the quantiles of the priors, so that likely values are tried more often. The
    label `point` counts on from the last one in the history. Left out are points where rules break and assignments
    that were tried; when many in a row are, a random proposal takes their place. Digits beyond the 30th are drawn for
    each proposal.

    Args:
        space: where the points lie, at most 21,201 parameters.
    """

    def __init__(self, space: Space) -> None:
        if len(space.domains) > qmc.Sobol.MAXDIM:
            raise ValueError(
                f"expected at most {qmc.Sobol.MAXDIM} parameters, got {len(space.domains)}; use random search"
            )
        self.space = space
        self._block: tuple[int, int, npt.NDArray[np.float64]] | None = None  # seed, number, points

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        start = self._due(history)
        for number in range(start, start + _TRIES):
            unit = self._point(history.seed, number) + rng.random(len(self.space.domains)) / 2**_BITS
            params = self.space.from_quantiles(unit)
            if params is not None and not history.was_tried(params):
                return Proposal(params, {"origin": "sobol", "point": number})
        return Proposal(self.space.sample(rng), {"origin": "random", "point": number})

    def _due(self, history: History) -> int:
        """The number of the point that is due, from 0."""
        for trial in reversed(history.trials):
            point = trial.labels.get("point")
            if isinstance(point, int):
                return point + 1
        return 0

    def _point(self, seed: int, number: int) -> npt.NDArray[np.float64]:
        """The point of a number, shape [d], each coordinate a multiple of 2**-30 in [0, 1)."""
        block, row = divmod(number, _BLOCK)
        if self._block is None or self._block[:2] != (seed, block):
            sequence = qmc.Sobol(len(self.space.domains), bits=_BITS, rng=_generator(seed))
            if block:
                sequence.fast_forward(block * _BLOCK)
            self._block = seed, block, sequence.random(_BLOCK)
        point: npt.NDArray[np.float64] = self._block[2][row]
        return point


def _generator(seed: int) -> np.random.Generator:
    """The generator of the scrambling."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
