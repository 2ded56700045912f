"""DEHB: ask and tell on vectors of the unit cube.

Fidelities, which it spaces geometrically below the full training, are rounded to whole epochs. DEHB itself trains
every evaluation from the beginning. Here, in its favour, an evaluation takes up what was trained before and pays for
the new epochs alone, also where another vector has the same nearest row in the table.
"""

from __future__ import annotations

import tempfile

from dehb import DEHB
from loguru import logger

from peers import MIN_EPOCHS, REDUCTION_FACTOR, Setting, Stretch


class DEHBPeer:
    """An optimiser at work."""

    def __init__(self, optimiser: DEHB, setting: Setting) -> None:
        self._optimiser = optimiser
        self._setting = setting
        self._trained: dict[object, int] = {}

    def start(self) -> Stretch:
        """See Peer."""
        info = self._optimiser.ask()
        params = self._setting.space.decode(info["config"])
        to_epoch = min(max(1, round(float(info["fidelity"]))), self._setting.epochs)
        return Stretch(info, params, min(to_epoch, self._trained.get(self._setting.same(params), 0)), to_epoch)

    def goes_on(self, stretch: Stretch, epoch: int, loss: float) -> bool:
        """See Peer."""
        return True

    def end(self, stretch: Stretch, epoch: int, loss: float) -> None:
        """See Peer."""
        key = self._setting.same(stretch.params)
        self._trained[key] = max(epoch, self._trained.get(key, 0))
        self._optimiser.tell(stretch.handle, {"fitness": loss, "cost": float(epoch)})


def make(system: str, setting: Setting) -> DEHBPeer:
    """DEHB as it comes; its log and state go to a directory that is deleted at once."""
    with tempfile.TemporaryDirectory() as directory:
        optimiser = DEHB(
            dimensions=len(setting.space.names),
            min_fidelity=MIN_EPOCHS,
            max_fidelity=setting.epochs,
            eta=REDUCTION_FACTOR,
            seed=setting.seed,
            n_workers=1,
            save_freq="end",
            output_path=directory,
        )
        logger.remove()  # it logs into that directory, by a thread of its own
    return DEHBPeer(optimiser, setting)
