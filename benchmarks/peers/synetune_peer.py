"""Syne Tune: its schedulers, asked and told in turn as its Tuner does, without its backends.

Its ASHA and BOHB are of the stopping type: a trial that is stopped does not go on later.
"""

from __future__ import annotations

import datetime
import logging
from typing import Any

import numpy as np
from syne_tune import config_space as cs
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import ASHA, BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision

from peers import MIN_EPOCHS, REDUCTION_FACTOR, Setting, Stretch
from search_spaces.domains import Choice, Float, Int

_KINDS = {"synetune-asha": ASHA, "synetune-bohb": BOHB}
_EPOCH = datetime.datetime(1970, 1, 1)


class SyneTunePeer:
    """A scheduler at work."""

    def __init__(self, scheduler: Any, epochs: int) -> None:
        self._scheduler = scheduler
        self._epochs = epochs
        self._count = 0

    def start(self) -> Stretch:
        """See Peer."""
        suggestion = self._scheduler.suggest()
        trial = Trial(self._count, suggestion.config, _EPOCH)
        self._count += 1
        self._scheduler.on_trial_add(trial)
        return Stretch(trial, suggestion.config, 0, self._epochs)

    def goes_on(self, stretch: Stretch, epoch: int, loss: float) -> bool:
        """See Peer."""
        decision = self._scheduler.on_trial_result(stretch.handle, {"loss": loss, "epoch": epoch})
        return bool(decision == SchedulerDecision.CONTINUE)

    def end(self, stretch: Stretch, epoch: int, loss: float) -> None:
        """See Peer."""
        self._scheduler.on_trial_remove(stretch.handle)


def make(system: str, setting: Setting) -> SyneTunePeer:
    """A scheduler of Syne Tune as it comes."""
    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    np.random.seed(setting.seed)  # some of what it draws comes from the global generator
    scheduler = _KINDS[system](
        {name: _domain(domain) for name, domain in setting.space.domains.items()},
        metric="loss",
        time_attr="epoch",
        max_t=setting.epochs,
        do_minimize=True,
        random_seed=setting.seed,
        grace_period=MIN_EPOCHS,
        reduction_factor=REDUCTION_FACTOR,
    )
    return SyneTunePeer(scheduler, setting.epochs)


def _domain(domain: Float | Int | Choice) -> Any:
    match domain:
        case Float(low, high, log):
            return cs.loguniform(low, high) if log else cs.uniform(low, high)
        case Int(low, high, log):
            return cs.lograndint(low, high) if log else cs.randint(low, high)
        case Choice(values):
            return cs.choice(list(values))
