"""What `kind: auto` stands for: the kind of search that suits a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from search_spaces.space import Space, SpaceError

MOST_TRIALS_FOR_CURVES: Final = 2_000
MOST_WORKERS_FOR_CURVES: Final = 64
MOST_TRIALS_FOR_A_PROCESS: Final = 200
MOST_PARAMETERS_FOR_A_PROCESS: Final = 20
MOST_TRIALS_FOR_DENSITIES: Final = 20_000


@dataclass(frozen=True, slots=True)
class Chosen:
    """A kind of search, and why it is that one, in a sentence."""

    kind: str
    reason: str


def choose(
    space: Space,
    budgets: Sequence[int],
    max_trials: int,
    *,
    workers: int = 1,
    composed: bool = False,
) -> Chosen:
    """The kind of search for a space, rungs and a number of trials; the first rule that holds.

    | rungs   | when                                                         | kind             |
    | ------- | ------------------------------------------------------------ | ---------------- |
    | one     | the space is finite and has at most `max_trials` assignments | `grid`           |
    | several | the same                                                     | `grid-asha`      |
    | several | at most 2,000 trials and 64 workers                          | `freeze-thaw`    |
    | several | at most 20,000 trials                                        | `tpe-asha`       |
    | several | more                                                         | `evolution-asha` |
    | one     | at most 200 trials and 20 parameters                         | `gp`             |
    | one     | at most 20,000 trials                                        | `tpe`            |
    | one     | more                                                         | `evolution`      |

    There are several rungs where training can be paused. With several objectives the same rules hold; where there are
    rungs the first objective decides who goes on.

    Args:
        budgets: the rungs, lowest first.
        max_trials: how many trials are started.
        workers: how many train at the same time.
        composed: whether it must be a sampler and a scheduler, so that the sampler can be wrapped.
    """
    has_rungs = len(budgets) > 1
    count = num_assignments(space, max_trials)
    if count is not None:
        reason = f"the space has {count} assignment{'s' if count > 1 else ''}, no more than there are trials"
        return Chosen("grid-asha" if has_rungs else "grid", reason)
    if has_rungs:
        if not composed and max_trials <= MOST_TRIALS_FOR_CURVES and workers <= MOST_WORKERS_FOR_CURVES:
            return Chosen("freeze-thaw", f"training can be paused, and {max_trials} trials are few enough for a model")
        few = max_trials <= MOST_TRIALS_FOR_DENSITIES
        asked = "earlier studies come first" if composed else f"{max_trials} trials on {workers} workers are many"
        return Chosen("tpe-asha" if few else "evolution-asha", f"training can be paused, and {asked}")
    parameters = len(space.domains)
    if max_trials <= MOST_TRIALS_FOR_A_PROCESS and parameters <= MOST_PARAMETERS_FOR_A_PROCESS:
        return Chosen("gp", f"every trial is trained in full, with {max_trials} trials of {parameters} parameters")
    if max_trials <= MOST_TRIALS_FOR_DENSITIES:
        return Chosen("tpe", f"every trial is trained in full, with {max_trials} trials of {parameters} parameters")
    return Chosen("evolution", f"every trial is trained in full, and {max_trials} trials are many")


def num_assignments(space: Space, limit: int) -> int | None:
    """How many assignments a finite space has; None if it is not finite, or there are more than `limit`."""
    if space.size == float("inf"):
        return None
    try:
        return sum(1 for _ in space.grid({}, limit))
    except SpaceError:
        return None
