"""CMA-ES with margin (Hansen 2016, arXiv:1604.00772; Hamano et al. 2022, arXiv:2205.13482), asynchronous."""

from __future__ import annotations

import copy
import json
import math
import zlib
from collections.abc import Sequence
from typing import Final, final

import numpy as np
import numpy.typing as npt
from cmaes import CMAwM

from controller.history import History
from controller.strategy import Proposal
from controller.trial import Label, Trial
from search_spaces.domains import Choice, Domain, Int
from search_spaces.space import Params, Space

Floats = npt.NDArray[np.float64]

_TRIES: Final = 8  # draws before a random proposal takes the place of one that was tried
_MOST_STEPS: Final = 64  # an Int with more values counts as continuous
_EVENLY: Final = 0.29  # the standard deviation of uniform draws
_NARROWEST: Final = 0.02  # the least first standard deviation that a prior may ask for, in the unit cube


@final
class CMAESSampler:
    """Draws from a normal distribution that learns, generation by generation, where and how wide to search.

    The distribution is that of the library `cmaes`. It is a function of the journal: every trial carries its
    generation and the number that it was drawn with, and the first of a generation names the trials that were told
    at the end of the one before.

    Generations and parallel workers: a generation ends when as many trials have ended that were not told yet as the
    population has members. The oldest of them are told, whichever distribution they were drawn from, so that no
    result is lost and nobody waits; further ones are told at the end of the next generation. They are ranked by their
    losses at the first rung of each; where these rungs differ (brackets of Hyperband), by their place among those
    that began at the same. Failures rank last. Trials that were enqueued, or drawn in another space, teach nothing.

    The search is in the unit cube, with steps and margin for choices and integers (up to 64 values, not on a
    log scale), so that none of their values becomes impossible. Where a parameter does not exist or rules move a
    draw, the draw is told as it was. A distribution that has shrunk to a point or broken down is followed by
    another one that starts elsewhere, with twice the population (IPOP, Auger and Hansen 2005). A draw that was tried
    before is drawn again, and in the end random.

    Args:
        space: where to search. The first mean is where its priors have their centres, else the middle.
        population_size: how many are told at the end of a generation, at least 4; None is 4 + floor(3 ln d).
        sigma: the first standard deviation, in the unit cube; that of a prior where it is smaller, and 0.29 for choices
            without a prior, as if they were drawn evenly.
    """

    _trials_read: int

    def __init__(self, space: Space, *, population_size: int | None = None, sigma: float = 0.2) -> None:
        if population_size is not None and population_size < 4:
            raise ValueError(f"expected population_size >= 4, got {population_size}; None chooses one by dimension")
        if not 0.0 < sigma <= 1.0:
            raise ValueError(f"expected sigma in (0, 1], got {sigma}; the default is 0.2")
        self.space = space
        self.population_size = population_size
        self.sigma = sigma
        self._varied = [place for place, domain in enumerate(space.domains.values()) if domain.size > 1]
        domains = list(space.domains.values())
        self._steps = np.array([_step(domains[place]) for place in self._varied])
        self._bounds = np.stack([self._steps / 2.0, 1.0 - self._steps / 2.0], axis=1)
        self._mark = zlib.crc32(json.dumps(space.to_dict()).encode())
        self._forget(None)

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        if self._varied:
            distribution, labels = self._due(history)
            for _ in range(_TRIES):
                draw = int(rng.integers(2**32))
                params, _ = self._drawn(distribution, draw)
                if not history.was_tried(params):
                    return Proposal(params, {"origin": "cma-es", "space": self._mark, **labels, "draw": draw})
        return Proposal(self.space.sample(rng), {"origin": "random"})

    def _due(self, history: History) -> tuple[CMAwM, dict[str, Label]]:
        """The distribution that the next proposal is drawn from, with the labels that tell so."""
        self._read(history)
        ended = [one for one in self._untold if history.trials[one].reports or history.trials[one].failure]
        if len(ended) < self._distribution.population_size:
            return self._distribution, {"generation": self._generation}
        told = tuple(ended[: self._distribution.population_size])
        labels: dict[str, Label] = {"generation": self._generation + 1, "told": " ".join(map(str, told))}
        return self._following(history, told), labels

    def _read(self, history: History) -> None:
        """Take in the trials that are new."""
        if history is not self._history or len(history.trials) < self._trials_read:
            self._forget(history)
        for trial in history.trials[self._trials_read :]:
            whose = trial.labels.get("origin"), trial.labels.get("space")
            if trial.repeat_of is not None or whose != ("cma-es", self._mark):
                continue
            if trial.labels["generation"] == self._generation + 1:
                told = tuple(map(int, str(trial.labels["told"]).split()))
                self._distribution = self._following(history, told)
                self._generation += 1
                for one in told:
                    del self._untold[one]
            self._untold[trial.trial_id] = self._point(trial)
        self._trials_read = len(history.trials)

    def _forget(self, history: History | None) -> None:
        """Be at the start, for a history."""
        self._history = history
        self._trials_read = 0
        self._generation = 0
        self._untold: dict[int, Floats] = {}  # where trials were drawn that were not told yet, oldest first
        self._next: tuple[tuple[int, ...], CMAwM] | None = None  # the distribution after these are told
        if self._varied:
            self._distribution = self._first()

    def _following(self, history: History, told: tuple[int, ...]) -> CMAwM:
        """The distribution after these trials are told."""
        if self._next is None or self._next[0] != told:
            ranks = standings(history, [history.trials[one] for one in told])
            following = copy.deepcopy(self._distribution)
            with np.errstate(all="ignore"):  # what breaks down is not finite, and replaced
                following.tell([(self._untold[one], rank) for one, rank in zip(told, ranks, strict=True)])
                broken = not np.isfinite(following.mean).all() or following.should_stop()
            if broken:
                key = np.random.SeedSequence(history.seed, spawn_key=(2, self._generation))
                mean = self._bounds[:, 0] + np.random.default_rng(key).random(len(self._steps)) * (1.0 - self._steps)
                following = self._at(mean, np.full(len(mean), self.sigma), 2 * following.population_size)
            self._next = told, following
        return self._next[1]

    def _drawn(self, distribution: CMAwM, draw: int) -> tuple[Params, Floats]:
        """What a number draws, with the point to tell, shape [v]."""
        distribution.reseed_rng(draw)
        place, point = distribution.ask()
        unit = np.full(len(self.space.domains), 0.5)
        unit[self._varied] = place.clip(0.0, 1.0)
        return self.space.decode(unit), point

    def _point(self, trial: Trial) -> Floats:
        """The point that a trial was drawn at, shape [v].

        Where another machine's linear algebra does not draw it again, where its parameters stand.
        """
        params, point = self._drawn(self._distribution, int(trial.labels["draw"]))
        return point if params == trial.params else self.space.encode(trial.params)[self._varied]

    def _first(self) -> CMAwM:
        """The distribution of generation 0."""
        likely = self.space.encode(self.space.most_likely())
        names = [self.space.names[place] for place in self._varied]
        places = [likely[place] if self.space.names[place] in self.space.priors else 0.5 for place in self._varied]
        widths = np.array([_width(self.space, name, self.sigma) for name in names])
        return self._at(np.array(places).clip(*self._bounds.T), widths, self.population_size)

    def _at(self, mean: Floats, widths: Floats, population_size: int | None) -> CMAwM:
        """A distribution that knows nothing yet."""
        shape = np.diag((widths / self.sigma) ** 2)
        return CMAwM(mean, self.sigma, self._bounds, self._steps, 100, 0, population_size, shape)


def standings(history: History, trials: Sequence[Trial]) -> list[float]:
    """Where each trial stands among those that were first measured at the same rung, from 0 for the best to below 1.

    Ties stand equal; 2 for those without a finite loss.
    """
    losses: dict[int, list[float]] = {}
    first = [min(trial.reports, default=None) for trial in trials]
    for trial, budget in zip(trials, first, strict=True):
        if budget is not None and math.isfinite(loss := history.loss(trial.trial_id, budget)):
            losses.setdefault(budget, []).append(loss)
    found = []
    for trial, budget in zip(trials, first, strict=True):
        loss = math.inf if budget is None else history.loss(trial.trial_id, budget)
        among = losses.get(budget, []) if budget is not None else []
        found.append(sum(other < loss for other in among) / len(among) if math.isfinite(loss) else 2.0)
    return found


def _step(domain: Domain) -> float:
    """The distance of the values of a domain in the unit interval, 0 if it counts as continuous."""
    if isinstance(domain, Choice) or (isinstance(domain, Int) and not domain.log and domain.size <= _MOST_STEPS):
        return 1.0 / domain.size
    return 0.0


def _width(space: Space, name: str, sigma: float) -> float:
    """The first standard deviation of a parameter in the unit interval."""
    domain, prior = space.domains[name], space.priors.get(name)
    if prior is None:
        return _EVENLY if isinstance(domain, Choice) else sigma
    low, high = (prior.place(domain, quantile) for quantile in (0.1587, 0.8413))
    return min(sigma, max((high - low) / 2.0, _NARROWEST, _step(domain)))
