"""Bayesian optimisation with Gaussian processes over the rungs of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np

from controller.history import History
from controller.observations import Floats, Indices, Observations, RungData
from controller.pareto import crowded_order, non_dominated_ranks
from controller.samplers.sobol import SobolSampler
from controller.strategy import Proposal, Sampler
from controller.surrogates.features import Features
from controller.surrogates.gaussian_process import GaussianProcess, Hyperparameters
from controller.surrogates.merit import Improvement, Limit, Merit, OneObjective, SeveralObjectives
from controller.surrogates.outputs import Outputs
from controller.surrogates.search import ScoreSearch
from controller.surrogates.training_set import Refits, scheduled, selected
from controller.trial import MetricError
from search_spaces.space import Space

_SAMPLES: Final = 128  # draws of several objectives
_CENTRES: Final = 8  # places that the search looks around
_CAUTION: Final = 3.0  # with failures
_EVEN: Final = math.log(0.5)


@final
@dataclass(frozen=True, slots=True)
class Constraint:
    """A metric of the reports that must be at most, or at least, a number.

    Raises ValueError unless exactly one of the two bounds is given.
    """

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(
                f"expected at_most or at_least for the constraint on {self.metric!r}, got "
                f"{'neither' if self.at_most is None else 'both'}; write a second constraint for the other bound"
            )

    @property
    def bound(self) -> float:
        """What `excess` may at most be."""
        if self.at_most is not None:
            return self.at_most
        assert self.at_least is not None  # one of the two is given
        return -self.at_least

    def excess(self, metrics: Mapping[str, float]) -> float:
        """The metric, with the sign for which small is good. Raises MetricError if it was not measured."""
        if self.metric not in metrics:
            raise MetricError(
                f"expected the metric {self.metric!r} of a constraint in the report, got {sorted(metrics)}; "
                "name a metric that the task measures"
            )
        return metrics[self.metric] if self.at_most is not None else -metrics[self.metric]


@final
@dataclass(frozen=True, slots=True)
class Outlook:
    """What one more trial is expected to bring, in the unit of the first objective.

    Attributes:
        budget: the rung whose losses are modelled.
        improvement: the expected improvement of the most promising configuration over the best one so far.
        noise: the standard deviation of the loss of one configuration.
        repeats: from how many repeated measurements the noise was estimated; 0 if it is the model's.
    """

    budget: int
    improvement: float
    noise: float
    repeats: int


@final
class GaussianProcessSampler:
    """The configuration with the highest expected improvement under a Gaussian process.

    The surrogate models the losses of the highest rung with enough results (losses of different rungs never mix, as in
    Falkner et al. 2018), transformed by Outputs, on Features, with the kernel and the priors of GaussianProcess. It
    proposes what maximises the product, as logarithms, of

    - the expected improvement (Ament et al. 2023, arXiv:2310.20708) of the process without noise over its own mean at
      the best point, so that a lucky measurement is no incumbent. Running trials are imagined to end as the model
      expects, noise included, `fantasies` times over (Snoek et al. 2012), and the improvement is averaged;
    - the probability that each constraint holds (Gardner et al. 2014), a process of its own; where no measured
      configuration is likely to satisfy all, these probabilities alone count;
    - the probability p that the trial does not fail, once one has, and where p < 1/2 also (2 p)^3: a process over 1 for
      those that failed at any rung and 0 for those that were measured, P(f < 1/2) (least-squares classification,
      Rasmussen and Williams 2006, sec. 6.5);
    - where the space has priors, prior density ^ (prior_weight / number of results) (Hvarfner et al. 2022, piBO,
      arXiv:2204.11051), with respect to the unit cube.

    Several objectives have a process each. What is expected is the growth of the dominated hypervolume, or the
    improvement of a Chebyshev scalarisation with random weights (Knowles 2006, ParEGO; here the posteriors are
    scalarised, not the data), by sampling; running trials are believed to end exactly as predicted.

    Proposals come from `startup` until a rung has enough results. Hyperparameters are refitted on a schedule of
    numbers of results, and from no more than these results, so that a cold start finds the same.

    Args:
        space: where the proposals live.
        num_startup: how many results a rung needs before it is modelled, at least 2; by default one more than there
            are parameters, from 4 to 10.
        constraints: on metrics of the reports.
        max_points: the model holds at most this many results: the best half, and others evenly over time.
        fantasies: how often the results of running trials are imagined.
        prior_weight: see above; a tenth of the number of trials in the paper, 0 to leave the priors to the startup.
        several: what is expected of several objectives.
        startup: proposes what comes before there is a model; Sobol's sequence by default.
    """

    def __init__(
        self,
        space: Space,
        *,
        num_startup: int | None = None,
        constraints: Sequence[Constraint] = (),
        max_points: int = 300,
        fantasies: int = 8,
        prior_weight: float = 3.0,
        several: Literal["hypervolume", "scalarised"] = "hypervolume",
        startup: Sampler | None = None,
    ) -> None:
        self.space = space
        self.startup = SobolSampler(space) if startup is None else startup
        self.features = Features(space)
        self.num_startup = min(max(4, 1 + len(self.features.names)), 10) if num_startup is None else num_startup
        if self.num_startup < 2 or max_points < 10 or fantasies < 1 or prior_weight < 0:
            raise ValueError(
                "expected num_startup >= 2, max_points >= 10, fantasies >= 1 and prior_weight >= 0, got "
                f"{self.num_startup}, {max_points}, {fantasies} and {prior_weight}; leave them at their defaults"
            )
        if several not in ("hypervolume", "scalarised"):
            raise ValueError(f"expected 'hypervolume' or 'scalarised' for several objectives, got {several!r}")
        self.constraints = tuple(constraints)
        self.max_points = max_points
        self.fantasies = fantasies
        self.prior_weight = prior_weight
        self.several = several
        self._search = ScoreSearch(space)
        self._observations = Observations(space)
        self._refits: dict[str, Refits] = {}

    def propose(self, history: History, rng: np.random.Generator) -> Proposal:
        """See Sampler."""
        data = self._data(history)
        if data is None:
            return self.startup.propose(history, rng)
        scene = self._scene(history, data, rng)
        merit = Merit(self.space, self.features, scene.improvement, scene.limits, self.prior_weight / len(data.losses))
        for unit in self._search.best(merit.score, scene.centres, rng).units:
            params = self.space.decode(unit)
            if not history.was_tried(params):
                return Proposal(params, {"origin": "gaussian process", "modelled_budget": data.budget})
        return Proposal(self.space.sample(rng), {"origin": "random"})

    def outlook(self, history: History) -> Outlook | None:
        """What one more trial is expected to bring. The priors of the space do not count here.

        None before there is a model, while no measured configuration satisfies the constraints, and with several
        objectives.
        """
        data = self._data(history)
        if data is None or len(history.objectives) > 1:
            return None
        rng = np.random.default_rng(np.random.SeedSequence(history.seed, spawn_key=(3, len(history.jobs))))
        scene = self._scene(history, data, rng)
        if scene.improvement is None:
            return None
        merit = Merit(self.space, self.features, scene.improvement, scene.limits, 0.0)
        found = self._search.best(merit.score, scene.centres, rng)
        expected = float(np.exp(scene.improvement.log(self.features.of(found.units[:1]))[0]))
        noise, repeats = _repeated(history, data)
        if not repeats:
            noise = math.sqrt(scene.processes[0].hyperparameters.noise) * scene.scale
        return Outlook(data.budget, expected * scene.scale, noise, repeats)

    def _data(self, history: History) -> RungData | None:
        """The results to be modelled, if there are enough anywhere."""
        return self._observations.highest(history, self.num_startup) if self.features.width else None

    def _scene(self, history: History, data: RungData, rng: np.random.Generator) -> _Scene:
        """All surrogates for the state of a study."""
        rows = selected(data.losses, self.max_points)
        points = self.features.of(data.units[rows])
        pending = self.features.of(data.pending_units[-self.max_points :])
        tried = np.concatenate([points, pending])
        limits = [self._constrained(history, data, rows, points, constraint) for constraint in self.constraints]
        likely = np.ones(len(tried), np.bool_)
        for limit in limits:
            likely &= limit.log(tried) >= _EVEN
        if len(data.failed_ids):
            limits.append(self._failing(history, data))
        processes, outputs = [], []
        for column, losses in enumerate(data.losses.T):
            outputs.append(Outputs.of(losses[rows]))
            hyperparameters = self._refitted(f"objective {column}", data.units, losses)
            targets = outputs[-1].targets(losses[rows])
            processes.append(GaussianProcess(points, targets, self.features.groups, hyperparameters))
        means = np.stack([process.predict(points)[0] for process in processes], axis=1)
        order = np.lexsort((_places(crowded_order(means)), ~likely[: len(points)]))
        improvement = self._improvement(processes, tried[likely], pending, rng) if likely.any() else None
        return _Scene(
            tuple(processes), improvement, tuple(limits), data.units[rows[order[:_CENTRES]]], outputs[0].scale
        )

    def _improvement(
        self, processes: Sequence[GaussianProcess], tried: Floats, pending: Floats, rng: np.random.Generator
    ) -> Improvement:
        """What is expected beyond the points that were tried and are likely to satisfy the constraints."""
        if len(processes) == 1:
            normal = rng.standard_normal((len(pending), self.fantasies))
            process = processes[0].imagining(pending, normal)
            return OneObjective(process, process.predict(tried)[0].reshape(len(tried), -1).min(axis=0))
        believing = tuple(process.believing(pending) for process in processes)
        means = np.stack([process.predict(tried)[0] for process in believing], axis=1)
        front = means[non_dominated_ranks(means) == 0]
        normal = rng.standard_normal((_SAMPLES, len(processes)))
        weights = rng.dirichlet(np.ones(len(processes))) if self.several == "scalarised" else None
        return SeveralObjectives(believing, front, normal, weights, means.min(axis=0), _reference(means))

    def _constrained(
        self, history: History, data: RungData, rows: Indices, points: Floats, constraint: Constraint
    ) -> Limit:
        """The surrogate of a constraint. A metric that is not finite counts as a violation."""
        reports = (history.trials[trial_id].reports[data.budget] for trial_id in data.trial_ids)
        values = np.array([constraint.excess(report.metrics) for report in reports])
        known = np.isfinite(values)
        worst = max(constraint.bound, float(np.max(values[known], initial=constraint.bound)))
        spread = float(np.std(values[known])) if known.any() else 0.0
        values = np.where(known, values, worst + (spread or 1.0))
        outputs = Outputs.of(values[rows], least_cap=constraint.bound)
        hyperparameters = self._refitted(f"constraint on {constraint.metric}", data.units, values)
        process = GaussianProcess(points, outputs.targets(values[rows]), self.features.groups, hyperparameters)
        return Limit(process, float(outputs.targets(np.array(constraint.bound))))

    def _failing(self, history: History, data: RungData) -> Limit:
        """The surrogate of failures: of 1 for those that failed at any rung, 0 for those that were measured."""
        everywhere = [self._observations.at(history, budget).trial_ids for budget in history.budgets]
        measured = np.setdiff1d(np.concatenate(everywhere), data.failed_ids)
        half = self.max_points // 2
        spread = np.linspace(0, len(measured) - 1, min(half, len(measured))).round().astype(np.int64)
        ids = np.sort(np.concatenate([measured[spread], data.failed_ids[-half:]]))
        units, failed = self._observations.units(history)[ids], np.isin(ids, data.failed_ids).astype(np.float64)
        outputs = Outputs.of(failed)
        hyperparameters = self._refits_of("failures").of(self.features, units, failed)
        process = GaussianProcess(
            self.features.of(units), outputs.targets(failed), self.features.groups, hyperparameters
        )
        return Limit(process, float(outputs.targets(np.array(0.5))), _CAUTION)

    def _refitted(self, name: str, units: Floats, values: Floats) -> Hyperparameters:
        """Hyperparameters for results in the order of their arrival, on schedule."""
        count = scheduled(len(values))
        return self._refits_of(name).of(self.features, units[:count], values[:count])

    def _refits_of(self, name: str) -> Refits:
        return self._refits.setdefault(name, Refits())


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """The surrogates for one state of a study.

    Attributes:
        processes: one an objective, without imagined results.
        improvement: None where no tried configuration is likely to satisfy the constraints.
        limits: the constraints, and failures where there are some.
        centres: shape [c, d], the most promising of the measured configurations, best first.
        scale: how much loss one unit of the first target is.
    """

    processes: tuple[GaussianProcess, ...]
    improvement: Improvement | None
    limits: tuple[Limit, ...]
    centres: Floats
    scale: float


def _repeated(history: History, data: RungData) -> tuple[float, int]:
    """Standard deviation of losses of the same configuration at a rung, and from how many repeats it is."""
    losses: dict[bytes, list[float]] = {}
    place = {trial_id: index for index, trial_id in enumerate(data.trial_ids.tolist())}
    for unit, loss in zip(data.units, data.losses[:, 0].tolist(), strict=True):
        losses.setdefault(unit.tobytes(), []).append(loss)
    for trial in history.repeats:
        if trial.repeat_of in place and data.budget in trial.reports:
            loss = history.loss(trial.trial_id, data.budget)
            losses[data.units[place[trial.repeat_of]].tobytes()].append(loss)
    groups = [np.array(group) for group in losses.values() if len(group) > 1]
    repeats = sum(len(group) - 1 for group in groups)
    if not repeats:
        return 0.0, 0
    return math.sqrt(sum(float(np.sum((group - group.mean()) ** 2)) for group in groups) / repeats), repeats


def _reference(means: Floats) -> Floats:
    """The corner of the hypervolume: a little beyond the worst, so that the ends of the front count."""
    worst, best = means.max(axis=0), means.min(axis=0)
    corner: Floats = worst + 0.1 * np.maximum(worst - best, 1e-6)
    return corner


def _places(order: Indices) -> Indices:
    """For each row, its place in an order."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places
