"""Tree-structured Parzen estimator (Bergstra et al. 2011; multivariate as Falkner et al. 2018, arXiv:1807.01774)."""

from __future__ import annotations

import math
from typing import Final, final

import numpy as np
import numpy.typing as npt

from controller.history import History
from controller.observations import Observations, RungData
from controller.pareto import crowding_distances, non_dominated_ranks
from controller.strategy import Proposal
from controller.surrogates.parzen import Floats, ParzenEstimator, Points, presence
from search_spaces.domains import Choice, Int
from search_spaces.space import Space

Indices = npt.NDArray[np.int64]

_MOST_GOOD: Final = 25  # as in all implementations since Bergstra et al. 2013
_MOST_BAD: Final = 400  # kernels of the bad group: more of them are evenly thinned out
_WIDEST: Final = 0.4  # standard deviation of the kernels for a single observation
_WIDE_UNTIL: Final = 20  # results, from when on the kernels shrink
_NARROWEST: Final = 0.03  # Watanabe 2023, Sec. 4.3


@final
class TPESampler:
    """The most promising of some draws from the density of the good trials, relative to that of the others.

    The results of the highest rung that holds at least `num_startup` (the rule of BOHB, Falkner et al. 2018) are
    split: the best share `gamma`, at most 25, are good, the others bad. A Parzen estimator of each, l and g, is a
    mixture of product kernels around the trials and of the space's prior; of `num_candidates` draws from l the one
    with the largest log l - log g is proposed that was not tried before. Before any rung holds enough results,
    proposals are draws from the space, whose priors they follow.

    - Failed trials are always bad, and so are those at work (a constant liar), whatever they report in the end.
    - With several objectives the good trials are the first in the order of Deb et al. 2002: by non-dominated front,
      within a front those with more room first.

    Settings after Watanabe 2023 (arXiv:2304.11127): a linear share of 0.15, good kernels weighted by their gain over
    the best bad trial (one objective only), multivariate, the prior weighing as much as an average kernel. Where
    this differs:

    - All kernels of a group have one bandwidth, 0.4 sqrt(min(1, 20 / N)) n^(-1 / (d + 4)) for n kernels, N results
      and d parameters that vary, at least 0.03; Watanabe takes the distances of neighbours. On tuning problems with
      10 to 50 trials, which is where language models are tuned, narrower kernels did worse than random search.
    - A choice without order keeps its value with probability (n + 1) / (n + c) for c values, the rule of Optuna.
    - Crowding distance orders the last front, where Ozaki et al. 2020 (MOTPE) take contributions to the hypervolume.
    - At most 400 bad trials have a kernel, evenly spread over the order of their arrival.

    Args:
        space: where proposals live.
        num_startup: results at a rung before it is learnt from.
        gamma: the share of good trials.
        num_candidates: draws from l for a proposal.
        prior_weight: of the space's prior in l and in g, in average kernels.
        random_probability: chance of a draw from the space instead (BOHB: 1/3).
    """

    def __init__(
        self,
        space: Space,
        *,
        num_startup: int = 8,
        gamma: float = 0.15,
        num_candidates: int = 24,
        prior_weight: float = 1.0,
        random_probability: float = 0.0,
    ) -> None:
        if num_startup < 2 or num_candidates < 1:
            raise ValueError(
                f"expected num_startup >= 2 and num_candidates >= 1, got {num_startup} and {num_candidates}; "
                "the defaults are 8 and 24"
            )
        if not 0.0 < gamma < 1.0 or not 0.0 < prior_weight < math.inf:
            raise ValueError(
                f"expected a gamma between 0 and 1 and a prior_weight above 0, got {gamma} and {prior_weight}; "
                "the defaults are 0.15 and 1"
            )
        if not 0.0 <= random_probability <= 1.0:
            raise ValueError(
                f"expected a random_probability from 0 to 1, got {random_probability}; the default is 0, BOHB takes 1/3"
            )
        self.space = space
        self.num_startup = num_startup
        self.gamma = gamma
        self.num_candidates = num_candidates
        self.prior_weight = prior_weight
        self.random_probability = random_probability
        self._observations = Observations(space)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        data = self._observations.highest(history, self.num_startup)
        if data is None:
            return Proposal(self.space.sample(rng), {"origin": "startup"})
        if rng.random() < self.random_probability:
            return Proposal(self.space.sample(rng), {"origin": "random"})
        better, worse = self.densities(history, data)
        candidates = better.draw(rng, self.num_candidates)
        points = Points.of(self.space, candidates)
        ranking = np.argsort(worse.log_density(points) - better.log_density(points), kind="stable").tolist()
        chosen = next((place for place in ranking if not history.was_tried(candidates[place])), ranking[0])
        return Proposal(candidates[chosen], {"origin": "tpe", "rung": data.budget})

    def densities(self, history: History, data: RungData) -> tuple[ParzenEstimator, ParzenEstimator]:
        """l and g: where the good trials of a rung are, and where all others are."""
        good, bad = self._split(data)
        others = np.concatenate([data.trial_ids[bad], data.failed_ids, data.pending_ids])
        if len(others) > _MOST_BAD:
            others = others[np.linspace(0, len(others) - 1, _MOST_BAD).round().astype(np.int64)]
        better = self._density(history, data, data.trial_ids[good], _gains(data, good, bad))
        return better, self._density(history, data, others, np.ones(len(others)))

    def _split(self, data: RungData) -> tuple[Indices, Indices]:
        """The rows of the good trials, best first, and of the bad ones in the order of their arrival."""
        taken = np.isin(data.trial_ids, data.failed_ids)  # those are bad anyway
        rows = np.flatnonzero(~taken)
        count = min(math.ceil(self.gamma * len(data.trial_ids)), _MOST_GOOD, len(rows))
        good = rows[_best(data.losses[rows], count)]
        taken[good] = True
        return good, np.flatnonzero(~taken)

    def _density(self, history: History, data: RungData, ids: Indices, weights: Floats) -> ParzenEstimator:
        domains = self.space.domains.values()
        sizes = np.array([domain.size for domain in domains])
        count, varying = len(ids), int((sizes > 1).sum())
        shrunk = math.sqrt(min(1.0, _WIDE_UNTIL / len(data.trial_ids)))
        bandwidth = max(_NARROWEST, _WIDEST * shrunk * max(count, 1) ** (-1.0 / (varying + 4)))
        has_steps = np.array([isinstance(domain, Int | Choice) for domain in domains])
        bandwidths = np.where(has_steps, np.maximum(bandwidth, 0.25 / sizes), bandwidth)  # or no value would be left
        return ParzenEstimator(
            self.space,
            self._observations.units(history)[ids],
            presence(self.space, [history.trials[trial_id].params for trial_id in ids.tolist()]),
            weights,
            self.prior_weight * (float(weights.mean()) if count else 1.0),
            bandwidths,
            stay=(count + 1) / (count + np.maximum(sizes, 2)),
        )


def _best(losses: Floats, count: int) -> Indices:
    """The rows of the `count` best, best first; among equals the earlier one."""
    if count == 0:
        return np.empty(0, np.int64)
    if losses.shape[1] == 1:
        single = losses[:, 0]
        among = np.flatnonzero(single <= np.partition(single, count - 1)[count - 1])  # they need not all be sorted
        return among[np.argsort(single[among], kind="stable")[:count]]
    ranks = non_dominated_ranks(losses)
    last = np.flatnonzero(ranks == np.partition(ranks, count - 1)[count - 1])
    room = np.zeros(len(losses))
    room[last] = crowding_distances(losses[last])
    return np.lexsort((-room, ranks))[:count].astype(np.int64)


def _gains(data: RungData, good: Indices, bad: Indices) -> Floats:
    """The weights of the good trials: by how much each beats the best bad one, all alike where that says nothing."""
    if data.losses.shape[1] > 1 or not len(bad):
        return np.ones(len(good))
    gains: Floats = data.losses[bad, 0].min() - data.losses[good, 0]
    return gains if gains.sum() > 0.0 and np.isfinite(gains).all() else np.ones(len(good))
