"""Ladders of rungs, and the brackets that Hyperband lays over one (Li et al. 2018, JMLR 18-185, Alg. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

Sizes = Literal["algorithm", "table"]


@dataclass(frozen=True, slots=True)
class Bracket:
    """One run of successive halving: `sizes[i]` trials are trained to `budgets[i]`."""

    budgets: tuple[int, ...]
    sizes: tuple[int, ...]


def checked_ladder(
    budgets: Sequence[int], *, max_trials: int, reduction_factor: int = 2, keep: int = 0
) -> tuple[int, ...]:
    """The rungs, if a scheduler can work with them and with the numbers.

    Raises ValueError unless the rungs are strictly increasing, max_trials >= 1, reduction_factor >= 2 and keep >= 0.
    """
    if not budgets or any(low >= high for low, high in pairwise(budgets)):
        raise ValueError(f"expected strictly increasing rungs, got {list(budgets)}; see geometric_rungs")
    if reduction_factor < 2:
        raise ValueError(f"expected reduction_factor >= 2, got {reduction_factor}; the usual choices are 3 and 4")
    if max_trials < 1:
        raise ValueError(f"expected max_trials >= 1, got {max_trials}; a study needs at least one trial")
    if keep < 0:
        raise ValueError(f"expected keep >= 0, got {keep}; 0 keeps no checkpoint at the top")
    return tuple(budgets)


def halved(trials: int, rungs: int, reduction_factor: int) -> tuple[int, ...]:
    """How many of `trials` successive halving trains to each rung: floor(trials / eta^k), at least one."""
    return tuple(max(1, trials // reduction_factor**level) for level in range(rungs))


def hyperband_brackets(
    budgets: Sequence[int], reduction_factor: int, *, sizes: Sizes = "algorithm"
) -> tuple[Bracket, ...]:
    """One round of Hyperband: for s = s_max down to 0 the bracket that halves s times.

    All of it is integer arithmetic. s_max is the number of rungs less one, and `geometric_rungs` counts rungs in
    integers: a rounded logarithm loses one of the six brackets of (1, 243, 3). The bracket uses the highest s + 1
    rungs, which are the paper's r_i = R eta^(i - s), rounded up.

    Args:
        budgets: the rungs, strictly increasing.
        reduction_factor: eta >= 2.
        sizes: how many trials a bracket starts with. The paper contradicts itself: its Algorithm 1 says
            ceil((s_max + 1) eta^s / (s + 1)), which is 81, 34, 15, 8, 5 for R = 81 and eta = 3; its Table 1 shows
            81, 27, 9, 6, 5, which is floor((s_max + 1) / (s + 1)) eta^s, as BOHB's and DEHB's own code has it.
    """
    ladder = checked_ladder(budgets, max_trials=1, reduction_factor=reduction_factor)
    if sizes not in get_args(Sizes):
        raise ValueError(f"expected sizes to be one of {get_args(Sizes)}, got {sizes!r}; 'algorithm' is the usual one")
    rungs = len(ladder)
    brackets = []
    for s in reversed(range(rungs)):
        share: int = reduction_factor**s
        trials = -(-rungs * share // (s + 1)) if sizes == "algorithm" else rungs // (s + 1) * share
        brackets.append(Bracket(ladder[rungs - 1 - s :], halved(trials, s + 1, reduction_factor)))
    return tuple(brackets)


def apportioned(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """`total` things shared out in proportion to the weights: each gets its floor, the largest remainders one more.

    Ties go to the earlier one.
    """
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
    for place in by_remainder[: total - sum(shares)]:
        shares[place] += 1
    return tuple(shares)
