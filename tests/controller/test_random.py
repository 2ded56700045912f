from __future__ import annotations

import numpy as np

from controller.history import History
from controller.samplers.random import RandomSampler
from controller.trial import Objective
from search_spaces.domains import Choice, Float
from search_spaces.space import Space


def test_draws_are_independent_of_the_history_and_cover_the_space() -> None:
    space = Space({"x": Float(0.0, 1.0), "y": Choice(("a", "b"))})
    history = History(seed=0, objectives=[Objective("loss")], horizon=9)
    sampler = RandomSampler(space)
    proposals = [sampler.propose(history, np.random.default_rng(seed)) for seed in range(400)]
    values = np.array([proposal.params["x"] for proposal in proposals], dtype=float)
    assert np.histogram(values, bins=4, range=(0, 1))[0].min() > 70
    assert 150 < sum(proposal.params["y"] == "a" for proposal in proposals) < 250
    assert {tuple(proposal.labels.items()) for proposal in proposals} == {(("origin", "random"),)}
