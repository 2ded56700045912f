"""Random search (Bergstra and Bengio 2012)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.history import History
from controller.strategy import Proposal
from search_spaces.space import Space


@dataclass(frozen=True, slots=True)
class RandomSampler:
    """Independent draws from the space."""

    space: Space

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        return Proposal(self.space.sample(rng), {"origin": "random"})
