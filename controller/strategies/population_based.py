"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): hyperparameters that change while training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import numpy as np

from controller.history import History
from controller.schedulers.last_resort import last_resort
from controller.strategy import Decision, Done, Resume, Start, Wait
from controller.trial import Continue, Label, Trial
from search_spaces.domains import Choice, Domain, Int
from search_spaces.space import Params, ParamValue, Space
from search_spaces.suggestion import suggest

_REDRAWS = 20


@final
class PopulationBasedTraining:
    """Members of a population train side by side; at every rung weak ones go on from strong ones.

    A member that reaches a rung is ready. If it is among the worst `quantile` of the results at this rung, it takes
    over everything of a member drawn from the best `quantile` (weights, optimizer, place in the schedule and in the
    data) and trains on with explored hyperparameters, as a new trial (Continue); else it goes on as it is (Resume).
    Both shares are rounded up, to at most half of the results. Trials are labelled with their `member`;
    `schedule_of` tells which hyperparameters the weights of one have seen.

    To explore is to perturb each hyperparameter by one of `factors` (see `perturbed`), or with `resample_probability`
    to draw it anew from the priors. Learning rates stay laid out for the full budget: a trial with another peak enters
    its schedule where the one that it continues has got to.

    Deviations from the paper:

    - Losses of different budgets are never compared: a member is ranked among the results that there are at its rung,
      also those of members who have gone on since. The paper takes the latest result of every member. So the first at a
      rung would have nobody to learn from, and who is fast would never be selected: therefore a rung ranks nobody
      before a `quorum` of the members is there.
    - The member that is furthest behind goes first. With few workers nearly all are ranked before the first goes on.
    - A failure ranks last in the rung it was heading for. The member takes over from one of the best there, as soon as
      there is one.
    - If in the end nobody reached the full budget, the best that waits in the highest rung goes on.

    Args:
        space: where hyperparameters live.
        budgets: the rungs, strictly increasing; the last is the full budget. See `every`.
        population_size: how many members. A study costs this many full trainings, in at most
            `population_size * len(budgets)` trials.
        quantile: the share at either end, above 0 and up to 0.5.
        factors: what a number may be multiplied by.
        resample_probability: the chance of each hyperparameter to be drawn anew.
        frozen: names that cannot change half-way, since weights, optimizer or data order depend on them. An explored
            trial has those of the trial that it continues. `architecture.*` is all names that begin like that.
        quorum: the share of the members that must have reached a rung before it ranks anybody. 0 never waits, as in the
            paper; 1 is synchronous, and then nothing depends on the number of workers.
        keep: how many of the best trials at the full budget keep their checkpoints.
    """

    def __init__(
        self,
        space: Space,
        budgets: Sequence[int],
        *,
        population_size: int,
        quantile: float = 0.2,
        factors: Sequence[float] = (0.8, 1.2),
        resample_probability: float = 0.25,
        frozen: Sequence[str] = (),
        quorum: float = 0.5,
        keep: int = 1,
    ) -> None:
        if not budgets or any(low >= high for low, high in pairwise(budgets)):
            raise ValueError(f"expected strictly increasing rungs, got {list(budgets)}; see every")
        if population_size < 1:
            raise ValueError(f"expected population_size >= 1, got {population_size}; the paper has 10 to 80 members")
        if not (0.0 < quantile <= 0.5 and 0.0 <= resample_probability <= 1.0 and 0.0 <= quorum <= 1.0):
            raise ValueError(
                "expected a quantile above 0 and up to 0.5, a resample_probability and a quorum from 0 to 1, got "
                f"{quantile}, {resample_probability} and {quorum}; the defaults are 0.2, 0.25 and 0.5"
            )
        if not factors or not all(math.isfinite(factor) and factor > 0.0 for factor in factors):
            raise ValueError(f"expected one factor above 0 or more, got {list(factors)}; the default is 0.8 and 1.2")
        self.space = space
        self.budgets = tuple(budgets)
        self.population_size = population_size
        self.quantile = quantile
        self.factors = tuple(factors)
        self.resample_probability = resample_probability
        self.frozen = _frozen_names(frozen, space)
        self.quorum = quorum
        self.keep = keep
        self._history: History | None = None
        self._trials_read = 0
        self._youngest: dict[int, int] = {}

    def next(self, history: History) -> Decision:
        """See Strategy."""
        members = self.members(history)
        if len(members) < self.population_size:
            return self._newcomer(history, len(members))
        places = [self._place(history, trial) for trial in members]
        reached = sorted(level - (trial.running is not None) for level, trial in zip(places, members, strict=True))
        settled = reached[-max(1, math.ceil(self.quorum * self.population_size))]  # the highest rung with a quorum
        idle = [(level, member) for member, level in enumerate(places) if members[member].running is None]
        for level, member in sorted(idle):
            if level < len(self.budgets) - 1 and level <= settled:
                decision = self._ready(history, members[member], level)
                if decision is not None:
                    return decision
        if history.searching:
            return Wait()
        return last_resort(history, self.budgets) or Done("the population is trained")

    def retain(self, history: History) -> set[int]:
        """See Strategy: members on their way, and whom one that has yet to be ranked may continue."""
        kept = {trial_id for _, trial_id in history.rung(self.budgets[-1]).waiting[: self.keep]}
        top = len(self.budgets) - 1
        lowest = 0 if len(self.members(history)) < self.population_size else top
        for trial in self.members(history):
            level = self._place(history, trial)
            lowest = min(lowest, level)
            if trial.failure is None and level < top:
                kept.add(trial.trial_id)
        best = max(1, self._share(self.population_size))
        for level in range(lowest, top):
            ranking = history.rung(self.budgets[level]).ranking
            kept.update(trial_id for loss, trial_id in ranking[:best] if math.isfinite(loss))
        return kept

    def members(self, history: History) -> list[Trial]:
        """The youngest trial of each member."""
        if history is not self._history or len(history.trials) < self._trials_read:
            self._history, self._trials_read, self._youngest = history, 0, {}
        for trial in history.trials[self._trials_read :]:
            member = trial.labels.get("member")
            if isinstance(member, int) and trial.repeat_of is None:
                self._youngest[member] = trial.trial_id
        self._trials_read = len(history.trials)
        return [history.trials[self._youngest[member]] for member in range(len(self._youngest))]

    def explore(self, params: Params, rng: np.random.Generator) -> dict[str, ParamValue]:
        """Hyperparameters near `params`, frozen ones unchanged; `params` themselves if rules allow no others."""
        for _ in range(_REDRAWS):
            drawn = self.space.sample(rng)
            explored = dict(drawn)
            for name, value in params.items():
                if name in self.frozen:
                    explored[name] = value
                elif rng.random() >= self.resample_probability or name not in drawn:
                    factor = self.factors[rng.integers(len(self.factors))]
                    explored[name] = perturbed(self.space.domains[name], value, factor)
            explored = self.space.repair(explored)
            if all(explored.get(name) == params.get(name) for name in self.frozen):
                return explored
        return dict(params)

    def _newcomer(self, history: History, member: int) -> Start:
        queued = history.next_queued()
        if queued is not None:
            return Start(queued, self.budgets[0], labels={"origin": "enqueued", "member": member}, enqueued=True)
        for attempt in range(1 + _REDRAWS):
            params = self.space.sample(history.generator(attempt))
            if not history.was_tried(params):
                break
        return Start(params, self.budgets[0], labels={"origin": "random", "member": member})

    def _place(self, history: History, trial: Trial) -> int:
        """The number of the rung that a trial is heading for, or was when it failed, or else has reached."""
        if trial.failure is not None:
            return self.budgets.index(history.jobs[trial.failure.job_id].to_budget)
        if trial.running is not None and trial.running.split == "validation":
            return self.budgets.index(trial.running.to_budget)
        return self.budgets.index(trial.budget)

    def _ready(self, history: History, trial: Trial, level: int) -> Start | Resume | None:
        """What a member does that has reached a rung. None: its trial failed, and there is none to continue yet."""
        budget, rung = self.budgets[level], history.rung(self.budgets[level])
        count = len(rung.ranking)
        share = self._share(count)
        if trial.failure is None and rung.rank((history.loss(trial.trial_id, budget), trial.trial_id)) < count - share:
            return Resume(trial.trial_id, self.budgets[level + 1])
        strong = [trial_id for loss, trial_id in rung.ranking[: max(1, share)] if math.isfinite(loss)]
        if not strong:
            return None
        rng = history.generator()
        parent = history.trials[strong[rng.integers(len(strong))]]
        labels: dict[str, Label] = {"origin": "explored", "member": trial.labels["member"], "parent": parent.trial_id}
        source = Continue(parent.trial_id, budget)
        return Start(self.explore(parent.params, rng), self.budgets[level + 1], source, labels)

    def _share(self, count: int) -> int:
        """How many of so many results are at either end."""
        return min(math.ceil(self.quantile * count - 1e-9), count // 2)


def every(interval: int, max_budget: int) -> tuple[int, ...]:
    """The rungs `interval` apart, the last exactly `max_budget`: (100, 350) gives 100, 200, 350.

    What the division leaves over makes the last stretch longer, not one more.

    Raises ValueError unless 1 <= interval <= max_budget.
    """
    if not 1 <= interval <= max_budget:
        raise ValueError(
            f"expected 1 <= interval <= max_budget, got {interval} and {max_budget}; "
            "a tenth of the full budget makes ten rungs"
        )
    return (*range(interval, max_budget - interval + 1, interval), max_budget)


def perturbed(domain: Domain, value: ParamValue, factor: float) -> ParamValue:
    """A value multiplied by a factor, within the bounds of its domain.

    A 0 moves by the same share of the domain's range, an Int by at least 1. A Choice of increasing numbers goes to the
    next value, up if the factor is above 1; any other Choice stays as it is.
    """
    if factor == 1.0:
        return value
    if isinstance(domain, Choice):
        if not domain.is_ordered:
            return value
        index = domain.values.index(value) + (1 if factor > 1.0 else -1)
        return domain.values[min(max(index, 0), len(domain.values) - 1)]
    number = float(value)
    moved = number * factor if number else (domain.high - domain.low) * (factor - 1.0)
    if isinstance(domain, Int):
        whole = round(moved)
        whole += 0 if whole != value else 1 if moved > number else -1
        return min(max(whole, domain.low), domain.high)
    return min(max(moved, domain.low), domain.high)


def schedule_of(history: History, trial_id: int) -> list[tuple[int, Params]]:
    """The hyperparameters that a trial's weights have been trained with: (from which budget on, which), in order.

    Follows what was continued; weights that were inherited began a training of their own.
    """
    trial = history.trials[trial_id]
    if not isinstance(trial.source, Continue):
        return [(0, trial.params)]
    return [*schedule_of(history, trial.source.trial_id), (trial.source.budget, trial.params)]


def _frozen_names(patterns: Sequence[str], space: Space) -> frozenset[str]:
    """The names of the space that are meant. Raises ValueError if a pattern means none of them."""
    frozen: set[str] = set()
    for pattern in patterns:
        start = pattern.removesuffix("*") if pattern.endswith(".*") else None
        names = {name for name in space.names if name == pattern or (start is not None and name.startswith(start))}
        if not names:
            raise ValueError(f"expected names of the space in frozen, got {pattern!r}; {suggest(pattern, space.names)}")
        frozen |= names
    return frozenset(frozen)
