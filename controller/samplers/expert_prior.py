"""Expert priors: PriorBand (Mallik et al. 2023, arXiv:2306.12370)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from controller.history import History
from controller.observations import Observations, RungData
from controller.strategy import Proposal, Scheduler, StartNew
from controller.surrogates.parzen import ParzenEstimator, Points, presence
from search_spaces.space import Params, ParamValue, Space

_MUTATION_RATE: Final = 0.5  # of each parameter of the incumbent
_MOST_TOP: Final = 50  # results that prior and incumbent are judged by
_MUTATION_STEP: Final = 0.25  # standard deviation of the normal around its place


@final
@dataclass(frozen=True, slots=True)
class Shares:
    """The probabilities of the three ways to a proposal; they add up to 1."""

    uniform: float
    prior: float
    incumbent: float


@final
class PriorBandSampler:
    """Draws from the uniform distribution, from the space's priors, or around the best trial so far.

    The ensemble of PriorBand (Alg. 1 and 2 of the paper), for any scheduler that uses rungs. A trial that starts at
    rung r, counted from 0, is a uniform draw with probability 1 / (1 + eta^r): the longer the first training, the
    more the prior is trusted. The rest goes to the prior until the search has cost as much as one bracket of
    successive halving and a trial has reached the full budget. From then on prior and incumbent share the rest by
    how well each explains the top 1/eta of the highest rung with at least eta results: by their densities there,
    the best result weighing most.

    Around the incumbent each parameter changes with probability 1/2: a number by a normal step of 0.25 in the unit
    interval, cut off at its bounds, a choice without order to another value.

    Deviations from the paper:

    - The incumbent is the best trial of the highest rung that holds one, not the least loss over all rungs, because
      losses at different budgets are never compared.
    - The cost of the first bracket follows from the lowest and the full budget of the history, (1 + s (1 - 1/eta))
      full trainings for s + 1 rungs, which is what the paper's table comes to.
    - No more than the best 50 of the top 1/eta are looked at.
    - At least one parameter of the incumbent changes.
    - No trial 0: the study enqueues the default configuration, the mode of the priors.

    Args:
        space: where proposals live, with priors; without them, the prior is uniform too.
        rung: r, where new trials start; a function of the history if that varies, see `starting_rung`.
        reduction_factor: eta of the scheduler.
    """

    def __init__(self, space: Space, *, rung: int | Callable[[History], int] = 0, reduction_factor: int = 3) -> None:
        if (isinstance(rung, int) and rung < 0) or reduction_factor < 2:
            raise ValueError(
                f"expected rung >= 0 and reduction_factor >= 2, got {rung} and {reduction_factor}; "
                "take those of the scheduler"
            )
        self.space = space
        self.rung = rung
        self.reduction_factor = reduction_factor
        self._uniform = space.without_priors()
        self._observations = Observations(space)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        shares = self.shares(history)
        unit = rng.random()
        if unit < shares.uniform:
            return Proposal(self._uniform.sample(rng), {"origin": "uniform"})
        best = self._incumbent(history) if unit >= shares.uniform + shares.prior else None
        if best is None:
            return Proposal(self.space.sample(rng), {"origin": "prior"})
        params = self._perturbed(history.trials[best].params, rng)
        return Proposal(params, {"origin": "incumbent", "parent": best})

    def shares(self, history: History) -> Shares:
        """The probabilities of the three ways to the proposal that is due."""
        rung = self.rung if isinstance(self.rung, int) else self.rung(history)
        uniform = 1.0 / (1.0 + float(self.reduction_factor) ** rung)
        data = self._observations.highest(history, self.reduction_factor)
        if data is None or not self._is_active(history):
            return Shares(uniform, 1.0 - uniform, 0.0)
        trusted = self._trust_in_prior(history, data)
        return Shares(uniform, (1.0 - uniform) * trusted, (1.0 - uniform) * (1.0 - trusted))

    def _is_active(self, history: History) -> bool:
        """Whether the incumbent is worth following."""
        if not history.rung(history.horizon).arrivals:
            return False
        rungs = 1 + round(math.log(history.horizon / history.budgets[0], self.reduction_factor))
        cost = history.horizon * (1.0 + (rungs - 1) * (1.0 - 1.0 / self.reduction_factor))
        return history.examples >= cost

    def _trust_in_prior(self, history: History, data: RungData) -> float:
        """The share of the prior against the incumbent."""
        best = self._incumbent(history)
        assert best is not None  # there are results
        count = min(len(data.losses) // self.reduction_factor, _MOST_TOP)
        order = np.argsort(data.losses[:, 0], kind="stable")[:count]
        top = [history.trials[trial_id].params for trial_id in data.trial_ids[order].tolist()]
        points = Points.of(self.space, top)
        priors = points.log_priors.sum(axis=1)
        incumbents = _around(self.space, history.trials[best].params, stay=0.5).log_density(points)
        weights = np.arange(len(top), 0, -1)
        highest = max(priors.max(), incumbents.max())
        prior, incumbent = (float(weights @ np.exp(logs - highest)) for logs in (priors, incumbents))
        return prior / (prior + incumbent)

    def _incumbent(self, history: History) -> int | None:
        """The best trial of the highest rung that holds one."""
        data = self._observations.highest(history, 1)
        return None if data is None else int(data.trial_ids[data.losses[:, 0].argmin()])

    def _perturbed(self, params: Params, rng: np.random.Generator) -> dict[str, ParamValue]:
        """A configuration near another one. What comes into being is drawn from its prior."""
        here = self.space.encode(params)
        moved = _around(self.space, params, stay=0.0).draw_near(rng, np.zeros(1, np.intp))[0]
        changes = rng.random(len(here)) < _MUTATION_RATE
        present = presence(self.space, [params])[0]
        varying = np.flatnonzero(present & np.array([domain.size > 1 for domain in self.space.domains.values()]))
        if len(varying) and not changes[varying].any():
            changes[varying[rng.integers(len(varying))]] = True
        return self.space.decode(np.where(changes | ~present, moved, here))


def starting_rung(scheduler: Scheduler, budgets: Sequence[int]) -> Callable[[History], int]:
    """The rung, counted from 0, at which the trial starts that a scheduler wants next; 0 where it wants none.

    For schedulers whose trials start at several rungs, as those of Hyperband do. They are functions of the history,
    so asking once more is allowed.

    Args:
        budgets: the rungs of the scheduler, lowest first.
    """

    def rung(history: History) -> int:
        wish = scheduler.next(history)
        return list(budgets).index(wish.budget) if isinstance(wish, StartNew) else 0

    return rung


def _around(space: Space, params: Params, stay: float) -> ParzenEstimator:
    """The density around one configuration."""
    width = len(space.domains)
    return ParzenEstimator(
        space,
        space.encode_many([params]),
        presence(space, [params]),
        weights=np.ones(1),
        prior_weight=0.0,
        bandwidths=np.full(width, _MUTATION_STEP),
        stay=np.full(width, stay),
    )
