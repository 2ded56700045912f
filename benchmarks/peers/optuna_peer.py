"""Optuna: ask, report after every epoch, prune, tell."""

from __future__ import annotations

import warnings
from typing import Any

import optuna

from peers import MIN_EPOCHS, REDUCTION_FACTOR, Setting, Stretch
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space


class OptunaPeer:
    """A study in memory. Pruned trials cannot be resumed in Optuna, so a stretch always starts at 0."""

    def __init__(self, study: optuna.Study, space: Space, epochs: int) -> None:
        self._study = study
        self._space = space
        self._epochs = epochs

    def start(self) -> Stretch:
        """See Peer."""
        trial = self._study.ask()
        params = {name: suggest(trial, name, domain) for name, domain in self._space.domains.items()}
        return Stretch(trial, params, 0, self._epochs)

    def goes_on(self, stretch: Stretch, epoch: int, loss: float) -> bool:
        """See Peer."""
        stretch.handle.report(loss, epoch)
        return not stretch.handle.should_prune()

    def end(self, stretch: Stretch, epoch: int, loss: float) -> None:
        """See Peer."""
        if epoch < self._epochs:
            self._study.tell(stretch.handle, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(stretch.handle, loss)


def make(system: str, setting: Setting) -> OptunaPeer:
    """Samplers and pruners as they come; with several workers TPE is told to expect them."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=setting.seed)
    if "tpe" in system:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=setting.seed, constant_liar=setting.workers > 1)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if system.endswith("hyperband"):
        pruner = optuna.pruners.HyperbandPruner(
            min_resource=MIN_EPOCHS, max_resource=setting.epochs, reduction_factor=REDUCTION_FACTOR
        )
    # The bracket of a trial is a hash of the study's name and its number: a random name would not repeat.
    study = optuna.create_study(sampler=sampler, pruner=pruner, study_name=f"{system}-{setting.seed}")
    return OptunaPeer(study, setting.space, setting.epochs)


def suggest(trial: optuna.Trial, name: str, domain: Float | Int | Choice) -> Any:
    """The value of a parameter in a trial."""
    match domain:
        case Float(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case Int(low, high, log):
            return trial.suggest_int(name, low, high, log=log)
        case Choice(values):
            return trial.suggest_categorical(name, values)
