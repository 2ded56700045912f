"""The budgets at which trials are compared."""

from __future__ import annotations


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
