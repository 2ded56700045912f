"""The learning rate as a closed function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from llm_tuning.recipe import Recipe, ScheduleKind


def total_steps(horizon: int, batch_size: int) -> int:
    """The optimizer steps that `horizon` training examples make; the last batch reaches or passes the horizon."""
    return -(-horizon // batch_size)


def learning_rate_factor(
    kind: ScheduleKind, step: int, total_steps: int, warmup_steps: int, decay_steps: int = 0
) -> float:
    """What the peak learning rate is multiplied with in one optimizer step, in [0, 1].

    Equal to the schedules of transformers (`linear`, `cosine`, `constant_with_warmup`, and
    `warmup_stable_decay` with its default cosine decay), which count the same way: the first step is
    step 0, so with a warmup its learning rate is 0.

    Args:
        step: the number of optimizer steps taken before this one.
        total_steps: the steps of the whole horizon.
        warmup_steps: the steps in which the factor rises linearly from 0 to 1.
        decay_steps: with `wsd` (warmup, stable, decay), the last steps, in which it falls.
    """
    if step < warmup_steps:
        return step / warmup_steps
    match kind:
        case "constant":
            return 1.0
        case "linear":
            return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
        case "cosine":
            return _half_cosine((step - warmup_steps) / max(1, total_steps - warmup_steps))
        case "wsd":
            into_decay = step - (total_steps - decay_steps)
            if into_decay < 0:
                return 1.0
            return _half_cosine(into_decay / decay_steps) if into_decay < decay_steps else 0.0


def _half_cosine(progress: float) -> float:
    """From 1 at progress 0 to 0 at progress 1."""
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def learning_rate(recipe: Recipe, step: int, horizon: int) -> float:
    """The learning rate of one optimizer step of a run that is laid out for `horizon` training examples.

    Fractions of the steps are rounded up, as in transformers; where warmup and decay together would
    then take more than all steps, the decay gives way.
    """
    total = total_steps(horizon, recipe.batch_size)
    warmup = math.ceil(recipe.warmup * total)
    decay = min(math.ceil(recipe.decay * total), total - warmup)
    return recipe.learning_rate * learning_rate_factor(recipe.schedule, step, total, warmup, decay)
