"""The budgets at which trials are compared."""

from __future__ import annotations

from collections.abc import Sequence


def geometric_rungs(min_budget: int, max_budget: int, reduction_factor: int) -> tuple[int, ...]:
    """Budgets from about `min_budget` up to exactly `max_budget`, each `reduction_factor` times the one below.

    Counted downwards from the full budget in integers (rounded up), so that no rung is lost to a rounded
    logarithm: (1, 27, 3) gives 1, 3, 9, 27 and (100, 1000, 3) gives 112, 334, 1000.

    Raises ValueError unless 1 <= min_budget <= max_budget and reduction_factor >= 2.
    """
    if reduction_factor < 2:
        raise ValueError(f"expected reduction_factor >= 2, got {reduction_factor}; the usual choices are 3 and 4")
    if not 1 <= min_budget <= max_budget:
        raise ValueError(
            f"expected 1 <= min_budget <= max_budget, got {min_budget} and {max_budget}; "
            "the smallest rung cannot exceed the full budget"
        )
    rungs = [max_budget]
    divisor = reduction_factor
    while max_budget >= min_budget * divisor:
        rungs.append(-(-max_budget // divisor))
        divisor *= reduction_factor
    return tuple(reversed(rungs))


def fine_rungs(budgets: Sequence[int]) -> tuple[int, ...]:
    """A fine ladder in place of a coarse one: from its lowest rung to its highest, each 1.5 times the one below.

    For strategies that decide after every rung which trial goes on, as freeze-thaw does. The last rung but one is
    left out if it is no fifth below the full budget: (2, 6, 18, 52) gives 2, 3, 4, 6, 9, 14, 21, 32, 52. A ladder
    that was made like this stays as it is.

    Raises ValueError unless there are budgets, all at least 1, and the last is no lower than the first.
    """
    if not budgets or not 1 <= budgets[0] <= budgets[-1]:
        raise ValueError(f"expected rungs from 1 on, lowest first, got {list(budgets)}; see geometric_rungs")
    full = budgets[-1]
    rungs = [budgets[0]]
    while rungs[-1] < full:
        rungs.append(min(full, max(rungs[-1] + 1, round(rungs[-1] * 1.5))))
    if len(rungs) > 2 and rungs[-1] - rungs[-2] < 0.2 * rungs[-2]:
        del rungs[-2]
    return tuple(rungs)


def coarse_rungs(budgets: Sequence[int], reduction_factor: int = 3) -> tuple[int, ...]:
    """Of increasing rungs the first, those at least `reduction_factor` times the one taken before, and the last.

    A rung above half of the full budget is left out: nothing is gained by a stop so close to the end.
    """
    taken = [budgets[0]]
    for budget in budgets[1:-1]:
        if budget >= reduction_factor * taken[-1] and budgets[-1] >= 2 * budget:
            taken.append(budget)
    return (*taken, budgets[-1]) if len(budgets) > 1 else tuple(taken)
