"""Differential evolution and Hyperband in one (DEHB: Awad et al. 2021, arXiv:2105.09821)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import numpy as np

from controller.history import History
from controller.observations import Floats, Observations
from controller.samplers.differential_evolution import binomial_crossover, bounded, mutant
from controller.schedulers.brackets import checked_ladder, hyperband_brackets
from controller.schedulers.last_resort import last_resort
from controller.strategy import Decision, Done, Resume, Start, Wait
from controller.trial import Label
from search_spaces.space import Params, Space

_Entry = tuple[float, int]  # (loss, trial id)


@final
class DEHB:
    """Brackets of Hyperband whose trials come from differential evolution, with a subpopulation at every rung.

    The subpopulation of a rung has as many slots as Hyperband ever trains trials at that budget. They are
    challenged in turn: a challenger takes its slot if its loss is no higher than the owner's. The very first bracket
    is plain successive halving of random trials. In all later ones every trial is new, at every rung (DE/rand/1/bin):
    at the lowest rung of its bracket its three parents come from the subpopulation of that rung; above, they are among
    the best of the rung below, as many as Hyperband would promote. Where these are fewer than three, others from all
    rungs join them; where there are fewer than three in all, the trial is random. A rung of a bracket begins when the
    rung below is complete; a worker that would have to wait for that begins the next bracket, as in the paper.

    A trial that challenges a slot starts from scratch and is trained to its rung; one that is promoted is resumed.

    Deviations from the paper:

    - Members of a subpopulation stand where their parameters do, at the centre of the cell of a discrete value, since
      the history knows parameters. The paper keeps the vectors that they were decoded from.
    - At the lowest rung of a bracket the target is no parent of its own challenger, as in Storn and Price 1997.
    - A challenger that equals an earlier trial is drawn again, up to `max_redraws` times, the second half of them at
      random.
    - A bracket that `max_trials` cuts short is finished by promoting its best, so that no trial was started in vain;
      if the first one is cut, its rungs keep the proportions that they would have had.
    - If in the end no trial reached the full budget, the best that waits in the highest rung goes on.

    A trial that failed takes no slot; it counts in the rung it was heading for.

    Args:
        space: where the trials live.
        budgets: the rungs, strictly increasing, at least two; the last is the full budget.
        max_trials: how many trials are started. With eta = 3 and four rungs, the first round of all brackets starts 52.
        reduction_factor: eta of Hyperband. Brackets have the sizes of its paper's Table 1, as in the authors' program.
        scale: F, by which the difference of two parents is multiplied.
        crossover_probability: the chance of each coordinate to come from the mutant instead of the target.
        promoting_brackets: how many brackets promote above their lowest rung, where the others evolve. 1 is the paper;
            the authors' program does it in all brackets of the first round, as many as there are rungs.
        max_redraws: see above.
        keep: how many of the best trials at the full budget keep their checkpoints.
    """

    def __init__(
        self,
        space: Space,
        budgets: Sequence[int],
        *,
        max_trials: int,
        reduction_factor: int = 3,
        scale: float = 0.5,
        crossover_probability: float = 0.5,
        promoting_brackets: int = 1,
        max_redraws: int = 20,
        keep: int = 1,
    ) -> None:
        self.budgets = checked_ladder(budgets, max_trials=max_trials, reduction_factor=reduction_factor)
        if len(budgets) < 2:
            raise ValueError(f"expected at least two rungs, got {list(budgets)}; for one, take differential evolution")
        if not (0.0 < scale <= 2.0 and 0.0 <= crossover_probability <= 1.0):
            raise ValueError(
                f"expected scale in (0, 2] and crossover_probability in [0, 1], got {scale} and "
                f"{crossover_probability}; the defaults are 0.5 and 0.5"
            )
        if promoting_brackets < 1 or max_redraws < 0:
            raise ValueError(
                f"expected promoting_brackets >= 1 and max_redraws >= 0, got {promoting_brackets} and {max_redraws}; "
                "the defaults are 1 and 20"
            )
        self.space = space
        self.max_trials = max_trials
        self.scale = scale
        self.crossover_probability = crossover_probability
        self.promoting_brackets = promoting_brackets
        self.max_redraws = max_redraws
        self.keep = keep
        self.brackets = hyperband_brackets(budgets, reduction_factor, sizes="table")
        slots = [max(self._size(start, level) for start in range(level + 1)) for level in self._levels]
        self._past = _Past(space, self.budgets, slots)

    @property
    def _levels(self) -> range:
        return range(len(self.budgets))

    def next(self, history: History) -> Decision:
        """See Strategy."""
        past = self._past
        past.read(history)
        may_start = past.num_started < self.max_trials
        for bracket in list(past.open):
            level = self._level_due(history, bracket, may_start)
            if level == "complete":
                past.open.remove(bracket)
            elif level != "waiting":
                if self._is_promoted(bracket, level, may_start):
                    return Resume(past.waiting(history, bracket, level - 1)[0][1], self.budgets[level])
                return self._start(history, bracket, level)
        if may_start:
            return self._start(history, past.num_brackets, past.num_brackets % len(self.budgets))
        if history.searching:
            return Wait()
        return last_resort(history, self.budgets) or Done(f"{self.max_trials} trials started, none left to promote")

    def retain(self, history: History) -> set[int]:
        """See Strategy: what may still be promoted, the best that waits while no trial is at the top, and its best."""
        past = self._past
        past.read(history)
        may_start = past.num_started < self.max_trials
        kept = {trial_id for _, trial_id in history.rung(self.budgets[-1]).waiting[: self.keep]}
        for bracket in past.open:
            for level in range(bracket % len(self.budgets) + 1, len(self.budgets)):
                wanted = self._wanted(bracket, level, may_start) - past.begun(bracket, level)
                if wanted > 0:
                    kept.update(trial_id for _, trial_id in past.waiting(history, bracket, level - 1)[:wanted])
        resort = last_resort(history, self.budgets)
        return kept if resort is None else kept | {resort.trial_id}

    def subpopulation(self, history: History, level: int) -> list[int]:
        """The trials that own the slots of a rung, best first."""
        self._past.read(history)
        return [trial_id for _, trial_id in self._past.ranking(level)]

    def _size(self, bracket: int, level: int) -> int:
        """How many trials Hyperband trains to a rung in a bracket."""
        start = bracket % len(self.budgets)
        return self.brackets[start].sizes[level - start]

    def _level_due(self, history: History, bracket: int, may_start: bool) -> int | Literal["waiting", "complete"]:
        """The rung for which a bracket has a job; none if it waits for running jobs or is complete."""
        start = bracket % len(self.budgets)
        for level in range(start, len(self.budgets)):
            begun = self._past.begun(bracket, level)
            if begun < self._wanted(bracket, level, may_start):
                if not self._is_promoted(bracket, level, may_start):
                    if may_start:
                        return level
                elif self._past.waiting(history, bracket, level - 1):
                    return level
            if self._past.ended(bracket, level) < begun:
                return "waiting"
        return "complete"

    def _is_promoted(self, bracket: int, level: int, may_start: bool) -> bool:
        """Whether what comes to a rung of a bracket was trained in the rung below."""
        return level > bracket % len(self.budgets) and (bracket < self.promoting_brackets or not may_start)

    def _wanted(self, bracket: int, level: int, may_start: bool) -> int:
        """How many trials a rung of a bracket is to have."""
        start = bracket % len(self.budgets)
        size, lowest = self._size(bracket, level), self._size(bracket, start)
        begun = self._past.begun(bracket, start)
        return size if may_start or begun >= lowest else max(1, begun * size // lowest)

    def _start(self, history: History, bracket: int, level: int) -> Start:
        slot = self._past.next_slot(level)
        labels: dict[str, Label] = {"bracket": bracket, "rung": level, "slot": slot}
        queued = history.next_queued()
        if queued is not None:
            return Start(queued, self.budgets[level], labels={"origin": "enqueued", **labels}, enqueued=True)
        for attempt in range(1 + self.max_redraws):
            params, origin = self._challenger(history, bracket, level, slot, history.generator(attempt))
            if attempt > self.max_redraws // 2:
                params, origin = self.space.sample(history.generator(attempt)), {"origin": "random"}
            if not history.was_tried(params):
                break
        return Start(params, self.budgets[level], labels={**origin, **labels})

    def _challenger(
        self, history: History, bracket: int, level: int, slot: int, rng: np.random.Generator
    ) -> tuple[Params, dict[str, Label]]:
        """A trial vector for a slot (Awad et al. 2021, section 4), and how it came about."""
        owner = self._past.owners[level][slot]
        parents = [] if bracket == 0 else self._parents(bracket, level, None if owner is None else owner[1], rng)
        if len(parents) < 3:
            return self.space.sample(rng), {"origin": "random"}
        units = self._past.units(history)
        first, second, third = (parents[index] for index in rng.choice(len(parents), 3, replace=False))
        target: Floats = self.space.encode(self.space.sample(rng)) if owner is None else units[owner[1]]
        mutated = mutant(units[first], units[second], units[third], self.scale)
        vector = bounded(binomial_crossover(target, mutated, self.crossover_probability, rng), rng)
        origin: dict[str, Label] = {"origin": "differential-evolution", "parent": first}
        return self.space.decode(vector), origin if owner is None else {**origin, "target": owner[1]}

    def _parents(self, bracket: int, level: int, target: int | None, rng: np.random.Generator) -> list[int]:
        """The trials that the three parents are drawn from."""
        start = bracket % len(self.budgets)
        if level == start:
            pool = [trial_id for _, trial_id in self._past.ranking(level) if trial_id != target]
        else:
            best = self._past.ranking(level - 1)[: self._size(bracket, level)]
            pool = [trial_id for _, trial_id in best]
        if len(pool) < 3:
            owners = {trial_id for each in self._levels for _, trial_id in self._past.ranking(each)}
            others = sorted(owners - {target, *pool})
            drawn = rng.choice(len(others), min(3 - len(pool), len(others)), replace=False) if others else ()
            pool += [others[index] for index in drawn]
        return pool


@final
class _Past:
    """What has happened to the brackets and subpopulations: a cache that grows with a history.

    The n-th job that heads for a rung challenges slot n modulo their number there, so nothing but the history is
    needed to know who owns which slot.

    Attributes:
        num_started: trials, promotions not counted.
        num_brackets: the number of the next bracket.
        open: brackets that are not known to be complete, oldest first.
        owners: (loss, trial id) of the owner of each slot of each rung, if it has one.
    """

    def __init__(self, space: Space, budgets: Sequence[int], slots: Sequence[int]) -> None:
        self._budgets = budgets
        self._levels = {budget: level for level, budget in enumerate(budgets)}
        self._num_slots = slots
        self._observations = Observations(space)
        self._forget(None)

    def _forget(self, history: History | None) -> None:
        self._history = history
        self._jobs_read = 0
        self._read = [(0, 0) for _ in self._num_slots]  # arrivals and failures taken in at each rung
        self._slots: list[dict[int, int]] = [{} for _ in self._num_slots]
        self._begun: dict[tuple[int, int], int] = {}
        self._ended: dict[tuple[int, int], int] = {}
        self.num_started = 0
        self.num_brackets = 0
        self.open: list[int] = []
        self.owners: list[list[_Entry | None]] = [[None] * count for count in self._num_slots]

    def read(self, history: History) -> None:
        """Take in what is new."""
        if history is not self._history or len(history.jobs) < self._jobs_read:
            self._forget(history)
        for job in history.jobs[self._jobs_read :]:
            trial, level = history.trials[job.trial_id], self._levels.get(job.to_budget)
            if level is None or job.split == "test" or trial.repeat_of is not None or "rung" not in trial.labels:
                continue
            bracket = int(trial.labels["bracket"])
            self._slots[level][trial.trial_id] = self.next_slot(level)
            self._begun[bracket, level] = self.begun(bracket, level) + 1
            self.num_started += job.source is None
            if bracket == self.num_brackets:
                self.open.append(bracket)
                self.num_brackets += 1
        self._jobs_read = len(history.jobs)
        for level, budget in enumerate(self._budgets):
            self._read_results(history, budget, level)

    def _read_results(self, history: History, budget: int, level: int) -> None:
        rung = history.rung(budget)
        arrived, failed = self._read[level]
        slots = self._slots[level]
        for trial_id in (*rung.arrivals[arrived:], *rung.failed[failed:]):
            if trial_id in slots:
                bracket = int(history.trials[trial_id].labels["bracket"])
                self._ended[bracket, level] = self.ended(bracket, level) + 1
        for trial_id in rung.arrivals[arrived:]:
            if trial_id in slots and not np.isnan(self.units(history)[trial_id]).any():
                owner, loss = self.owners[level][slots[trial_id]], history.loss(trial_id, budget)
                if owner is None or loss <= owner[0]:
                    self.owners[level][slots[trial_id]] = (loss, trial_id)
        self._read[level] = len(rung.arrivals), len(rung.failed)

    def units(self, history: History) -> Floats:
        """Where all trials stand in the unit cube, shape [trials, d]."""
        return self._observations.units(history)

    def begun(self, bracket: int, level: int) -> int:
        """How many jobs of a bracket headed for a rung."""
        return self._begun.get((bracket, level), 0)

    def ended(self, bracket: int, level: int) -> int:
        """How many of them gave a result or failed."""
        return self._ended.get((bracket, level), 0)

    def next_slot(self, level: int) -> int:
        """The slot of the next job that heads for a rung."""
        return len(self._slots[level]) % self._num_slots[level]

    def ranking(self, level: int) -> list[_Entry]:
        """The owners of the slots of a rung, best first; ties go to the older trial."""
        return sorted(owner for owner in self.owners[level] if owner is not None)

    def waiting(self, history: History, bracket: int, level: int) -> list[_Entry]:
        """The trials of a bracket that have a result at a rung and went no further, best first."""
        entries = history.rung(self._budgets[level], bracket).waiting
        return [entry for entry in entries if entry[1] in self._slots[level]]
