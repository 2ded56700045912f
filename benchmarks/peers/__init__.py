"""Other libraries behind one small interface, so that all of them train on the same tables in the same way.

A peer starts a stretch of training, hears the validation loss after every epoch of it, may end it early, and hears
that it is over. Nothing here imports a library before a peer is made: one that is missing leaves out its own rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from search_spaces.space import Params, Space


@dataclass(frozen=True, slots=True)
class Stretch:
    """Epochs `from_epoch` + 1 to `to_epoch` of a configuration; none if these are equal: it was trained before."""

    handle: Any  # what the peer knows it by
    params: Params
    from_epoch: int
    to_epoch: int


class Peer(Protocol):
    """A library at work on one problem."""

    def start(self) -> Stretch:
        """What a free worker trains next."""
        ...

    def goes_on(self, stretch: Stretch, epoch: int, loss: float) -> bool:
        """Whether it is to be trained beyond an epoch, after which the loss was measured."""
        ...

    def end(self, stretch: Stretch, epoch: int, loss: float) -> None:
        """It is over: trained to its end, or as far as the peer wanted."""
        ...


REDUCTION_FACTOR: Final = 3
MIN_EPOCHS: Final = 1

PEERS: Final[Mapping[str, tuple[str, str]]] = {
    "random": ("optuna_peer", "optuna"),
    "optuna-tpe": ("optuna_peer", "optuna"),
    "optuna-random-hyperband": ("optuna_peer", "optuna"),
    "optuna-tpe-hyperband": ("optuna_peer", "optuna"),
    "synetune-asha": ("synetune_peer", "syne_tune"),
    "synetune-bohb": ("synetune_peer", "syne_tune"),
    "dehb": ("dehb_peer", "dehb"),
}
"""System -> (module here, the package that it needs)."""

DISTRIBUTIONS: Final = {"optuna": "optuna", "syne_tune": "syne-tune", "dehb": "dehb"}
"""Package -> what it is installed as."""


def why_missing(system: str) -> str | None:
    """Why a peer cannot run here, or None if it can."""
    package = PEERS[system][1]
    try:
        importlib.import_module(package)
        importlib.import_module(f"peers.{PEERS[system][0]}")
    except ImportError as error:
        return f"{system} needs {DISTRIBUTIONS[package]} ({error}); benchmarks/README.md says how to install it"
    return None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer is made for.

    Attributes:
        epochs: of a full training.
        same: equal for configurations that train alike: those with the same nearest row in a table.
        workers: how many stretches are trained at the same time.
    """

    space: Space
    epochs: int
    same: Callable[[Params], object]
    seed: int
    workers: int


def make_peer(system: str, setting: Setting) -> Peer:
    """A peer of PEERS. Raises ImportError if its package is missing."""
    peer: Peer = importlib.import_module(f"peers.{PEERS[system][0]}").make(system, setting)
    return peer
