"""How much each parameter matters: functional ANOVA over a random forest.

Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance" (ICML). A forest is
fitted to the results of one rung. Each of its trees is a function on the unit cube, and that function's variance is
the sum of what each parameter explains alone, what each pair explains beyond that, and so on. The shares are computed
exactly from the volumes of the leaves (Algorithm 2 there), for each tree; reported are mean and standard deviation
over the trees.

Deviations from the paper:
- The forest is scikit-learn's. It splits a choice of words one value at a time.
- A tree has at most MOST_LEAVES leaves, which shortens the work for studies of more than about 400 trials.
- Parameters that exist only under conditions count where they exist, see controller.leaf_boxes.
- A tree that is constant has no variance to divide, and is left out.

The cube weighs all values of a domain alike on its scale: neither priors nor rules count, and where a rule forbids a
combination, the forest extrapolates. Importance is about the whole space; what matters near the optimum may be
something else. `best_share` narrows the view.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np

from controller.history import History
from controller.leaf_boxes import Boxes, Floats, SpaceColumns
from controller.trial import Direction, Objective, Trial
from search_spaces.space import Params, Space, SpaceError

MOST_LEAVES: Final = 256
FEWEST: Final = 4
"""A forest on fewer trials has nothing to leave out and nothing to split."""

Failures = Literal["omit", "worst"]


class ImportanceError(ValueError):
    """There is too little to tell importances from."""


@dataclass(frozen=True, slots=True)
class Importance:
    """What a parameter explains alone, or what a pair explains beyond the two alone.

    Attributes:
        names: the parameter, or both.
        share: of the variance over the space, from 0 to 1: the mean over the trees.
        std: standard deviation of that over the trees, which knows nothing of noise that all trees have learnt.
    """

    names: tuple[str, ...]
    share: float
    std: float


@dataclass(frozen=True, slots=True)
class Importances:
    """The importances of the parameters of a study.

    Attributes:
        metric: whose variance is divided.
        budget: the rung that the results are of.
        trials: how many results.
        failed: how many failed trials count among them as the worst.
        explained: the share of the variance between trials that the forest predicts for those that a tree has not
            seen (R² out of the bag). Near 0 or below, the forest has learnt nothing, and the shares mean nothing.
        parts: the largest first. The shares of all parts come to at most 1; what is missing is between three or more.
    """

    metric: str
    budget: int
    trials: int
    failed: int
    explained: float
    parts: tuple[Importance, ...]


def importances(
    history: History,
    space: Space,
    *,
    metric: str | None = None,
    budget: int | None = None,
    failures: Failures = "omit",
    best_share: float = 1.0,
    interactions: bool = True,
    min_trials: int = 10,
    trees: int = 64,
    seed: int = 0,
) -> Importances:
    """How much each parameter matters, from the results at one rung; repeats are left out.

    Args:
        space: what was searched. Trials outside it are left out, and so are parameters of one value.
        metric: any that the trials report; default: the first objective.
        budget: the rung; default: the highest with at least `min_trials` results.
        failures: whether trials that failed, at whatever rung, are left out, or count as the worst result.
        best_share: results beyond this quantile count as if they were at it, so that only differences among the
            better ones matter. 0.5: all of the worse half is alike.
        interactions: whether pairs are computed too.
        min_trials: fewer results are refused.
        trees: of the forest.
        seed: of the forest; the same results with the same seed give the same importances.

    Raises:
        ImportanceError: too few results, none at the rung, no such metric, or nothing varies.
        ValueError: an option makes no sense.
    """
    _check_options(failures, best_share, min_trials, trees)
    objective = _objective(history, metric)
    varying = [name for name, domain in space.domains.items() if domain.size > 1]
    if not varying:
        raise ImportanceError(
            f"expected a space with a parameter that varies, got {', '.join(space.names)} with one value each"
        )
    rungs = {
        rung: _measured(history, space, objective, rung) for rung in (history.budgets if budget is None else [budget])
    }
    rung = _enough(rungs, min_trials, objective.metric, budget)
    trials, losses = rungs[rung]
    losses = np.minimum(losses, np.quantile(losses, best_share))
    failed: list[Trial] = []
    if failures == "worst":
        seen = {trial.trial_id for trial in trials}
        failed = [trial for trial in _inside(space, history.trials) if trial.failure and trial.trial_id not in seen]
        losses = np.append(losses, np.full(len(failed), losses.max()))
    explained, shares = decompose(
        space, [trial.params for trial in (*trials, *failed)], losses, pairs=interactions, trees=trees, seed=seed
    )
    parts = [part for part in shares if set(part.names) <= set(varying)]
    parts.sort(key=lambda part: -part.share)
    return Importances(objective.metric, rung, len(trials) + len(failed), len(failed), explained, tuple(parts))


def decompose(
    space: Space, assignments: Sequence[Params], losses: Floats, *, pairs: bool = True, trees: int = 64, seed: int = 0
) -> tuple[float, list[Importance]]:
    """The variance of a random forest on the space, divided among parameters and pairs of them.

    Args:
        assignments: n of them.
        losses: shape [n], finite.

    Returns R² out of the bag, and the importances in the order of the space's names, pairs last. All are 0 if the
    losses are all the same.
    """
    from sklearn.ensemble import RandomForestRegressor

    columns = SpaceColumns(space)
    leaves = MOST_LEAVES if len(losses) > MOST_LEAVES else None
    forest: Any = RandomForestRegressor(trees, max_leaf_nodes=leaves, random_state=seed, oob_score=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some inputs do not have OOB scores")  # one in thousands, with few trees
        forest.fit(columns.rows(assignments), losses)
    subsets = [(place,) for place in range(len(space.domains))]
    chosen = [*subsets, *combinations(range(len(space.domains)), 2)] if pairs else subsets
    found = [shares for one in forest.estimators_ if (shares := _shares(columns.boxes(one.tree_), chosen)) is not None]
    table = np.array(found) if found else np.zeros((1, len(chosen)))
    means, stds = table.mean(axis=0).tolist(), table.std(axis=0).tolist()
    parts = [
        Importance(tuple(space.names[place] for place in subset), mean, std)
        for subset, mean, std in zip(chosen, means, stds, strict=True)
    ]
    return float(forest.oob_score_), parts


def _shares(boxes: Boxes, subsets: Sequence[tuple[int, ...]]) -> list[float] | None:
    """The share of each axis or pair of axes in the variance of a function of boxes; None if it is constant."""
    volumes = [cells @ widths for cells, widths in zip(boxes.cells, boxes.widths, strict=True)]
    volume = np.prod(volumes, axis=0)
    centred = boxes.values - volume @ boxes.values
    variance = float(volume @ centred**2)
    if variance <= 1e-24 * float(np.max(boxes.values**2, initial=0.0)):  # rounding
        return None
    used = [not cells.all() for cells in boxes.cells]
    alone = [
        (centred * volume / along) @ cells  # the mean of the function over all other axes, for each cell of this one
        for cells, along in zip(boxes.cells, volumes, strict=True)
    ]
    shares = []
    for subset in subsets:
        if not all(used[place] for place in subset):
            shares.append(0.0)
        elif len(subset) == 1:
            (place,) = subset
            shares.append(float(boxes.widths[place] @ alone[place] ** 2) / variance)
        else:
            first, second = subset
            weights = centred * volume / (volumes[first] * volumes[second])
            together = (boxes.cells[first] * weights[:, None]).T @ boxes.cells[second]
            beyond = together - alone[first][:, None] - alone[second][None, :]
            shares.append(float(boxes.widths[first] @ beyond**2 @ boxes.widths[second]) / variance)
    return shares


def _check_options(failures: str, best_share: float, min_trials: int, trees: int) -> None:
    if failures not in ("omit", "worst"):
        raise ValueError(f"expected failures 'omit' or 'worst', got {failures!r}")
    if not 0 < best_share <= 1:
        raise ValueError(f"expected a best_share above 0 and at most 1, got {best_share!r}; 0.5 is the better half")
    if min_trials < FEWEST:
        raise ValueError(f"expected min_trials of at least {FEWEST}, got {min_trials}; a forest needs some to split")
    if trees < 16:
        raise ValueError(f"expected at least 16 trees, got {trees}; 64 is usual")


def _objective(history: History, metric: str | None) -> Objective:
    """The metric with its direction, which only the objectives have; others are minimized."""
    if metric is None:
        return history.objectives[0]
    directions: dict[str, Direction] = {one.metric: one.direction for one in history.objectives}
    return Objective(metric, directions.get(metric, "minimize"))


def _measured(history: History, space: Space, objective: Objective, rung: int) -> tuple[list[Trial], Floats]:
    """The trials in the space with a finite result at a rung, and their losses."""
    arrived = [history.trials[trial_id] for trial_id in history.rung(rung).arrivals]
    losses = {
        trial.trial_id: objective.loss(trial.reports[rung].metrics)
        for trial in arrived
        if objective.metric in trial.reports[rung].metrics
    }
    kept = [trial for trial in _inside(space, arrived) if math.isfinite(losses.get(trial.trial_id, math.nan))]
    return kept, np.array([losses[trial.trial_id] for trial in kept])


def _inside(space: Space, trials: Sequence[Trial]) -> list[Trial]:
    """The trials of the search that lie in the space."""
    found = []
    for trial in trials:
        try:
            space.validate(trial.params)
        except SpaceError:
            continue
        if trial.repeat_of is None:
            found.append(trial)
    return found


def _enough(rungs: dict[int, tuple[list[Trial], Floats]], min_trials: int, metric: str, budget: int | None) -> int:
    """The highest rung with enough results. Raises ImportanceError."""
    for rung in sorted(rungs, reverse=True):
        if len(rungs[rung][0]) >= min_trials:
            return rung
    counts = ", ".join(f"{len(trials)} at {rung}" for rung, (trials, _) in sorted(rungs.items())) or "none"
    where = "at one budget" if budget is None else f"at {budget}"
    raise ImportanceError(
        f"expected at least {min_trials} trials with the metric {metric!r} {where}, got {counts}; let the study run "
        f"on, or ask for fewer (at least {FEWEST}): what so few tell is little"
    )
