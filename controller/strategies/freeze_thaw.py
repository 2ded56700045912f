"""Freeze-thaw Bayesian optimisation: a model of learning curves tells which trial goes on or whether one starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final, final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from controller.history import History
from controller.samplers.sobol import SobolSampler
from controller.schedulers.brackets import checked_ladder
from controller.schedulers.last_resort import last_resort
from controller.schedulers.rungs import coarse_rungs
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.strategy import Decision, Done, Resume, Sampler, Start, StartNew, Wait
from controller.surrogates.acquisition import log_expected_improvement
from controller.surrogates.candidates import around, spread
from controller.surrogates.curve_data import CurveData, curve_targets, place_of
from controller.surrogates.curves import CurveProcess
from controller.surrogates.novelty import log_novelty
from search_spaces.space import Space

Floats = npt.NDArray[np.float64]

_CENTRES: Final = 5
_SHORTLIST: Final = 20
_SELECTED: Final = 5
_REDRAWS: Final = 20


@final
class FreezeThaw:
    """Trains the trial a little further that promises the largest improvement for what it still costs.

    The first `num_startup` trials are a bracket of synchronous successive halving on rungs three times apart: a
    surrogate that never saw the end of a curve cannot tell which beginnings promise one.

    After that, every decision compares all paused trials with many configurations that were never tried. A surrogate of
    learning curves (CurveProcess) predicts what each would reach at the full budget; the one with the highest expected
    improvement over the best loss so far, per budget that is left to train, gets the next rung. So a study begins with
    many short trainings, and goes on with the few whose curves promise most; a trial is never given up for good.
    In the spirit of Swersky et al. 2014 (arXiv:1406.3896), DyHPO (Wistuba et al. 2022, arXiv:2202.09774) and ifBO
    (Rakotoarison et al. 2024, arXiv:2404.16795). Deviations: a closed-form kernel; a first bracket; the improvement is
    that at the full budget, divided by the cost to get there.

    - Jobs at work count as if they had come out as expected.
    - A failed trial counts as the worst loss that was measured, at the rung where it failed.
    - A trial whose latest loss equals that of an older one, or of one that is further, in every digit, repeats it and
      does not go on. How near such repetitions were proposed tells how far away something new is to be looked for
      (`log_novelty`).
    - Where the space has priors, they weigh among new configurations, less with every trial (Hvarfner et al. 2022).

    With `max_trials` started, trials go on as long as one of them improves on the best with `min_probability`.

    Args:
        space: where the trials live.
        budgets: the rungs, strictly increasing; the last is the full budget. Fine ladders do well: see `fine_rungs`.
        max_trials: how many trials are started.
        num_startup: how many trials the first bracket starts.
        switch_cost: what resuming a trial costs, in budget.
        max_points: how many measurements the surrogate holds.
        novelty_weight: see above; 0 ignores repetitions.
        prior_weight: see above; 0 ignores the priors.
        min_probability: see above.
        keep: how many of the best trials at the full budget keep their checkpoints.
        startup: proposes the first trials; Sobol's sequence by default.

    Raises ValueError for rungs that do not increase, or numbers out of range.
    """

    def __init__(
        self,
        space: Space,
        budgets: Sequence[int],
        *,
        max_trials: int,
        num_startup: int = 18,
        switch_cost: float = 0.0,
        max_points: int = 350,
        novelty_weight: float = 6.0,
        prior_weight: float = 10.0,
        min_probability: float = 0.05,
        keep: int = 1,
        startup: Sampler | None = None,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, keep=keep)
        if num_startup < 1 or max_points < 10 or min(switch_cost, novelty_weight, prior_weight) < 0:
            raise ValueError(
                "expected num_startup >= 1, max_points >= 10, and switch_cost, novelty_weight and prior_weight >= 0, "
                f"got {num_startup}, {max_points}, {switch_cost}, {novelty_weight} and {prior_weight}; leave them at "
                "their defaults"
            )
        if not 0.0 < min_probability < 1.0:
            raise ValueError(f"expected 0 < min_probability < 1, got {min_probability}; the default is 0.05")
        self.space = space
        self.max_trials = max_trials
        self.num_startup = num_startup
        self.switch_cost = switch_cost
        self.max_points = max_points
        self.novelty_weight = novelty_weight
        self.prior_weight = prior_weight
        self.min_probability = min_probability
        self.keep = keep
        self.startup = SobolSampler(space) if startup is None else startup
        self._halving = SuccessiveHalving(coarse_rungs(self.budgets), max_trials=min(num_startup, max_trials))
        self._data = CurveData(space)
        self._repetitions = _Repetitions()
        self._seen: tuple[History, tuple[int, ...], _View | None] | None = None

    def next(self, history: History) -> Decision:
        """See Strategy."""
        startable = history.num_started() < self.max_trials
        queued = history.next_queued() if startable else None
        if queued is not None:
            return Start(queued, self.budgets[0], labels={"origin": "enqueued"}, enqueued=True)
        if history.num_started() <= self._halving.max_trials:
            first = self._halving.next(history)
            if isinstance(first, StartNew):
                return self._startup(history)
            if isinstance(first, Resume) and first.trial_id in self._paused(history):
                return first
        view = self._view(history)
        if startable and view is None:
            return self._startup(history)
        if view is None:
            return self._end(history)
        new = self._newcomer(history, view) if startable else None
        scores = self._score(view, view.features, view.costs)
        if len(scores) and (new is None or np.max(scores) >= new[1]):
            row = int(np.argmax(scores))
            if new is not None or not view.complete or self._promises(view, row):
                return self._resume(history, int(view.paused[row]))
        elif new is not None:
            return new[0]
        return self._end(history)

    def retain(self, history: History) -> set[int]:
        """See Strategy: the best at the full budget, and until the end every paused trial that may go on.

        While none is at the full budget these are all, also repetitions: what they repeat may fail.
        """
        top = history.rung(self.budgets[-1])
        kept = {trial_id for _, trial_id in top.waiting[: self.keep]}
        if not top.arrivals:
            return {trial_id for budget in self.budgets[:-1] for _, trial_id in history.rung(budget).waiting}
        over = history.num_started() >= self.max_trials and not history.searching
        ended = over and isinstance(self.next(history), Done)
        return kept if ended else kept | set(self._paused(history))

    def _view(self, history: History) -> _View | None:
        """See _view_of. A cache: it stays the same until a job begins or ends."""
        state = len(history.jobs), len(history.results), len(history.failures)
        if self._seen is None or self._seen[0] is not history or self._seen[1] != state:
            self._seen = history, state, self._view_of(history)
        return self._seen[2]

    def _view_of(self, history: History) -> _View | None:
        """The state of a study as the surrogate sees it; None before there is a result."""
        points = self._data.points(history)
        if not len(points.losses) or not self._data.features.width:
            return None
        units = self._data.units(history)
        rows = points.selected(self.max_points)
        targets = curve_targets(points.losses)
        ids, places = points.trial_ids[rows], points.places[rows]
        failed = [job for job in _failed(history) if not np.isnan(units[job[0], 0])][-self.max_points // 4 :]
        features = self._data.features
        process = CurveProcess(
            features.of(units[[*ids.tolist(), *(trial_id for trial_id, _ in failed)]]),
            np.concatenate([places, place_of([budget for _, budget in failed], history.horizon)]),
            np.concatenate([targets[rows], np.full(len(failed), np.max(targets))]),
            features.groups,
            self._data.hyperparameters(history),
        )
        running = [job for job in history.searching if not np.isnan(units[job.trial_id, 0])]
        process = process.believing(
            features.of(units[[job.trial_id for job in running]]),
            place_of([job.to_budget for job in running], history.horizon),
        )
        seen = dict.fromkeys(points.trial_ids[np.argsort(points.losses, kind="stable")].tolist())  # best loss first
        held = set(ids.tolist())
        paused = np.array([one for one in self._paused(history) if one in held], np.int64)
        at_work = self.budgets[-1] - np.array([history.trials[one].budget for one in paused], np.float64)
        return _View(
            process,
            float(np.min(targets)),
            paused,
            features.of(units[paused]),
            at_work + self.switch_cost,
            units[list(seen)[:_CENTRES]],
            bool(history.rung(self.budgets[-1]).arrivals),
        )

    def _score(self, view: _View, features: Floats, costs: Floats) -> Floats:
        """Log of the expected improvement at the full budget, per budget to get there."""
        if not len(features):
            return np.empty(0)
        means, deviations = view.process.predict(features, np.ones(len(features)))
        return log_expected_improvement(means, deviations, view.best) - np.log(costs)

    def _newcomer(self, history: History, view: _View) -> tuple[Start, float]:
        """The trial to start next, and its score. Only what is likely to be new, and what the priors favour,
        competes."""
        rng = history.generator()
        units = np.concatenate([spread(self.space, rng), around(self.space, view.centres, rng)])
        features = self._data.features.of(units)
        scores = self._score(view, features, np.full(len(units), float(self.budgets[-1])))
        weighed = scores + self.novelty_weight * self._repetitions.log_novelty(features, history, self._data)
        shortlist = np.argsort(-weighed, kind="stable")[:_SHORTLIST]
        params = self.space.decode_many(units[shortlist])
        scores, weighed = scores[shortlist], weighed[shortlist]
        if self.space.priors and self.prior_weight:
            strength = self.prior_weight / history.num_started()
            weighed = weighed + strength * np.array([self.space.log_prior(one) for one in params])
            best = np.argsort(-weighed, kind="stable")[:_SELECTED]
            params, scores = [params[place] for place in best], scores[best]
        for place in np.argsort(-scores, kind="stable"):
            if not history.was_tried(params[place]):
                return Start(params[place], self.budgets[0], labels={"origin": "curves"}), float(scores[place])
        return self._startup(history), float(scores[0])

    def _startup(self, history: History) -> Start:
        """What the startup proposes, with its labels: by them Sobol's sequence knows which point is due."""
        for attempt in range(1 + _REDRAWS):
            proposal = self.startup.propose(history, history.generator(attempt))
            if not history.was_tried(proposal.params):
                break
        return Start(proposal.params, self.budgets[0], labels={**proposal.labels, "origin": "startup"})

    def _resume(self, history: History, trial_id: int) -> Resume:
        reached = history.trials[trial_id].budget
        return Resume(trial_id, next(budget for budget in self.budgets if budget > reached))

    def _promises(self, view: _View, row: int) -> bool:
        """Whether a paused trial improves on the best loss with the least probability."""
        means, deviations = view.process.predict(view.features[row : row + 1], np.ones(1))
        return bool(ndtr((view.best - means[0]) / deviations[0]) >= self.min_probability)

    def _paused(self, history: History) -> list[int]:
        """The trials that may go on: measured, idle, below the full budget, and no repetition of another."""
        found = []
        for budget in self.budgets[:-1]:
            ranking = history.rung(budget).ranking
            for _, equal in groupby(ranking, key=itemgetter(0)):  # the older ones first
                oldest, *others = (history.trials[trial_id] for _, trial_id in equal)
                idle = oldest.running is None and oldest.failure is None and oldest.budget == budget
                if idle and not any(other.budget > budget for other in others):
                    found.append(oldest.trial_id)
        return found

    def _end(self, history: History) -> Decision:
        """What to do when nothing is worth its cost: see that one trial at least gets the full budget."""
        if history.searching:
            return Wait()
        reason = f"{history.num_started()} trials started, none that goes on is likely to improve on the best"
        return last_resort(history, self.budgets) or Done(reason)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What decisions are made from.

    Attributes:
        best: target of the best loss so far.
        paused: shape [p], the trials that may go on.
        features: shape [p, k]; costs: shape [p], budget that they need to be complete.
        centres: shape [c, d], the most promising configurations.
        complete: whether a trial has the full budget.
    """

    process: CurveProcess
    best: float
    paused: npt.NDArray[np.int64]
    features: Floats
    costs: Floats
    centres: Floats
    complete: bool


@final
class _Repetitions:
    """How far from those before it each trial was proposed, and whether it only repeated one. Grows with a history."""

    def __init__(self) -> None:
        self._history: History | None = None
        self._distances: list[float] = []

    def log_novelty(self, candidates: Floats, history: History, data: CurveData) -> Floats:
        """See novelty.log_novelty."""
        if history is not self._history:
            self._history, self._distances = history, []
        units = data.units(history)
        features = data.features.of(np.nan_to_num(units, nan=0.5))
        features[np.isnan(units[:, 0])] = np.inf  # a trial outside the space is near to nothing
        for row in range(len(self._distances), len(features)):
            inside = np.isfinite(features[row]).all()
            self._distances.append(float(_nearest(features[row : row + 1], features[:row])[0]) if inside else np.inf)
        first: dict[tuple[int, float], int] = {}
        known, repeated = [], []
        for trial in history.trials:
            if trial.repeat_of is None and trial.reports and np.isfinite(self._distances[trial.trial_id]):
                rung = next(iter(trial.reports))
                loss = (rung, history.loss(trial.trial_id, rung))
                repeated.append(loss in first)
                known.append(self._distances[trial.trial_id])
                first.setdefault(loss, trial.trial_id)
            elif trial.repeat_of is None and trial.reports:
                rung = next(iter(trial.reports))
                first.setdefault((rung, history.loss(trial.trial_id, rung)), trial.trial_id)
        return log_novelty(_nearest(candidates, features), np.array(known), np.array(repeated, np.bool_))


def _nearest(points: Floats, known: Floats) -> Floats:
    """Distance of each of m points to the nearest of n known ones, shape [m]; infinite for n = 0."""
    finite = known[np.isfinite(known[:, :1]).all(axis=1)]
    if not len(finite):
        return np.full(len(points), np.inf)
    squares = np.sum(points**2, axis=1)[:, None] + np.sum(finite**2, axis=1) - 2.0 * points @ finite.T
    return np.asarray(np.sqrt(np.maximum(np.min(squares, axis=1), 0.0)))


def _failed(history: History) -> list[tuple[int, int]]:
    """(trial id, rung it was heading for) of the failed trials of the search, in the order of their failures."""
    jobs = [history.jobs[failure.job_id] for failure in history.failures]
    return [(job.trial_id, job.to_budget) for job in jobs if history.stage_of(job) == "search"]
