"""Warm start: what earlier studies found good is tried first, then serves as a prior that must prove itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, final

import numpy as np
from scipy.special import betaln

from controller.history import History
from controller.strategy import Proposal, Sampler
from controller.surrogates.parzen import ParzenEstimator, presence
from controller.trial import Trial, is_measured
from search_spaces.domains import Choice, Domain, ParamValue, is_number
from search_spaces.space import Params, Space

_GOOD_SHARE: Final = 0.2  # of an earlier study's trials are what its prior is made of,
_MOST_GOOD: Final = 10  # but no more than these
_BANDWIDTH: Final = 0.1  # of the prior around them, in the unit interval
_STAY: Final = 0.8  # chance that a choice keeps its value there
_TOP: Final = 3  # a success is a result in the best third of its rung
_WINDOW: Final = 200  # the youngest trials, which tell how well each source does now


@dataclass(frozen=True, slots=True)
class EarlierTrial:
    """A configuration of an earlier study with its loss at the highest budget it reached.

    Losses are compared at one budget of one study only, so neither unit nor scale matter.
    """

    params: Params
    loss: float
    budget: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """How proposals of one source did: results in the best third of their rung, and all others, failures included."""

    successes: int = 0
    misses: int = 0


def earlier_trials(history: History) -> list[EarlierTrial]:
    """The measured trials of a study, best first: those at its highest rung by loss, then those of the next, and so on.

    A trial counts once, at the highest rung that it reached; one that failed later counts with what it reached.
    """
    trials = []
    for trial in history.trials:
        if trial.repeat_of is None and trial.reports:
            budget = max(trial.reports)
            trials.append(EarlierTrial(trial.params, history.loss(trial.trial_id, budget), budget))
    return _best_first(trials)


@final
class WarmStartSampler:
    """The best configurations of earlier studies first, then draws around their good ones or the inner sampler's.

    The first `num_first` proposals are the best trials of the studies, one of each study in turn, moved to the
    nearest configuration of this space: what the space does not know is dropped, what it adds gets its likeliest
    value. After that a proposal is drawn around the good trials of an earlier study (the best fifth, at most ten, and
    those tried first; the best weighing most) with probability

        strength / (strength + trials started so far)  *  P(earlier > inner)

    and is the inner sampler's otherwise. The first factor lets the past fade as the study learns for itself, as
    priors do. The second is the probability that a proposal from the past is at least as likely to succeed as one
    of the inner sampler: of two Beta distributions, with a prior of one success and one miss, over the last 200
    trials, where a success is a result in the best third of the rung that a trial was first measured at. It is what
    Thompson sampling draws. Studies that mislead lose their weight within a few trials, and one misleading study
    does not take others along: which study is drawn from is decided by Thompson sampling among them.

    All of this is read from the trials' labels, `warm` and `study`. The inner sampler learns from all trials.

    Args:
        space: where proposals live.
        inner: proposes the rest.
        earlier: the trials of each earlier study, see `earlier_trials`; in any order, losses not finite are left out.
        num_first: how many of the best configurations are tried first.
        strength: after how many trials of this study the past counts half at most.
    """

    def __init__(
        self,
        space: Space,
        inner: Sampler,
        earlier: Sequence[Sequence[EarlierTrial]],
        *,
        num_first: int = 3,
        strength: float = 5.0,
    ) -> None:
        if num_first < 0 or not 0.0 <= strength < math.inf:
            raise ValueError(
                f"expected num_first >= 0 and a finite strength >= 0, got {num_first} and {strength}; "
                "the defaults are 3 and 5, 0 is none"
            )
        self.space = space
        self.inner = inner
        self.num_first = num_first
        self.strength = strength
        studies = [_translated(space, _best_first(study), num_first) for study in earlier]
        self._studies = {number: params for number, params in enumerate(studies) if params}
        self._first = list(_in_turn(self._studies))[:num_first]
        self._priors = {number: _around(space, params) for number, params in self._studies.items()}

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        for study, params in self._first:
            if not history.was_tried(params):
                return Proposal(params, {"origin": "earlier best", "warm": "earlier", "study": study})
        if self._priors and rng.random() < self.weight(history):
            study = self._promising(history, rng)
            (params,) = self._priors[study].draw(rng, 1)
            return Proposal(params, {"origin": "earlier prior", "warm": "earlier", "study": study})
        proposal = self.inner.propose(history, rng)
        return Proposal(proposal.params, {**proposal.labels, "warm": "inner"})

    def weight(self, history: History) -> float:
        """The probability that a proposal is drawn around earlier trials, once the best were tried."""
        if not self._priors:
            return 0.0
        found = self.evidence(history)
        past = [evidence for study, evidence in found.items() if study is not None]
        pooled = Evidence(sum(one.successes for one in past), sum(one.misses for one in past))
        fading = self.strength / (self.strength + history.num_started()) if self.strength else 0.0
        return fading * _beats(pooled, found.get(None, Evidence()))

    def evidence(self, history: History) -> dict[int | None, Evidence]:
        """How the proposals of each earlier study did lately, and under None those of the inner sampler."""
        found: dict[int | None, Evidence] = {}
        for trial in history.trials[-_WINDOW:]:
            source = trial.labels.get("warm")
            success = _is_success(history, trial)
            if source is None or success is None:
                continue
            study = trial.labels["study"] if source == "earlier" else None
            assert study is None or isinstance(study, int)
            so_far = found.get(study, Evidence())
            found[study] = Evidence(so_far.successes + success, so_far.misses + (not success))
        return found

    def _promising(self, history: History, rng: np.random.Generator) -> int:
        """The study to draw from, by Thompson sampling."""
        found = self.evidence(history)
        chances = {}
        for study in self._priors:
            evidence = found.get(study, Evidence())
            chances[study] = rng.beta(1 + evidence.successes, 1 + evidence.misses)
        return max(chances, key=chances.__getitem__)


def _is_success(history: History, trial: Trial) -> bool | None:
    """Whether a trial is in the best third of the rung it was first measured at; None if that is not known yet."""
    if trial.repeat_of is not None:
        return None
    if not trial.reports:
        return None if trial.failure is None else False
    budget = min(trial.reports)
    rung = history.rung(budget)
    return rung.rank((history.loss(trial.trial_id, budget), trial.trial_id)) * _TOP < len(rung.ranking)


def _beats(one: Evidence, other: Evidence) -> float:
    """The probability that a Beta(1 + successes, 1 + misses) variable exceeds another such one, in closed form."""
    first, second = (1 + one.successes, 1 + one.misses), (1 + other.successes, 1 + other.misses)
    steps = np.arange(first[0])
    logs = (
        betaln(second[0] + steps, first[1] + second[1])
        - np.log(first[1] + steps)
        - betaln(1 + steps, first[1])
        - betaln(*second)
    )
    return float(np.exp(logs).sum())


def _best_first(trials: Sequence[EarlierTrial]) -> list[EarlierTrial]:
    """By budget, the highest first, then by loss: losses at different budgets are never compared."""
    measured = [trial for trial in trials if is_measured(trial.loss)]
    return sorted(measured, key=lambda trial: (-trial.budget, trial.loss))


def _translated(space: Space, trials: Sequence[EarlierTrial], at_least: int) -> list[dict[str, ParamValue]]:
    """The good ones of a study's trials as configurations of this space, best first, each once."""
    found: list[dict[str, ParamValue]] = []
    count = max(at_least, min(math.ceil(_GOOD_SHARE * len(trials)), _MOST_GOOD))
    for trial in trials[:count]:
        known = {
            name: value
            for name, value in trial.params.items()
            if name in space.domains and _fits(space.domains[name], value)
        }
        params = space.repair(known) if known else None
        if params is not None and params not in found:
            found.append(params)
    return found


def _fits(domain: Domain, value: ParamValue) -> bool:
    """Whether a value is in a domain or can be moved into it."""
    if isinstance(domain, Choice) and not any(map(is_number, domain.values)):
        return domain.contains(value)
    return domain.contains(value) or (is_number(value) and math.isfinite(value))


def _in_turn(studies: Mapping[int, Sequence[Params]]) -> Iterator[tuple[int, Params]]:
    """Study and configuration: the best of each study, then the second best of each, none twice."""
    seen: list[Params] = []
    for row in zip_longest(*studies.values()):
        for study, params in zip(studies, row, strict=True):
            if params is not None and params not in seen:
                seen.append(params)
                yield study, params


def _around(space: Space, good: Sequence[Params]) -> ParzenEstimator:
    """The prior that good configurations make, best first: the weight falls linearly with the rank."""
    sizes = np.array([domain.size for domain in space.domains.values()])
    return ParzenEstimator(
        space,
        space.encode_many(good),
        presence(space, good),
        weights=np.arange(len(good), 0.0, -1.0),
        prior_weight=0.0,
        bandwidths=np.where(np.isfinite(sizes), np.maximum(_BANDWIDTH, 0.25 / sizes), _BANDWIDTH),
        stay=np.full(len(sizes), _STAY),
    )
