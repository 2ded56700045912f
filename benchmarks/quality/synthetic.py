"""Made-up tables, to see that everything works where the real ones are not at hand. No result is taken from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_table(path: Path, seed: int, *, rows: int = 200, epochs: int = 27) -> None:
    """Write a table of exponential curves whose end and speed depend smoothly on three hyperparameters."""
    rng = np.random.default_rng(seed)
    units = rng.random((rows, 3))
    best = rng.random(3)
    end = 0.1 + ((units - best) ** 2 @ np.array([1.0, 0.5, 0.2])) + rng.normal(0, 0.01, rows) ** 2
    speed = 0.1 + 0.4 * units[:, 0]
    steps = np.arange(1, epochs + 1)
    val = end[:, None] + np.exp(-speed[:, None] * steps)
    val[units[:, 0] > 0.95] = np.nan
    low, high, log = np.array([1e-4, 8.0, 0.0]), np.array([1e-1, 128.0, 0.9]), np.array([True, True, False])
    params = np.where(
        log, np.exp(np.log(np.maximum(low, 1e-9)) * (1 - units) + np.log(high) * units), low + (high - low) * units
    )
    params[:, 1] = np.round(params[:, 1])
    np.savez(
        path,
        names=np.array(["learning_rate", "batch_size", "momentum"]),
        kind=np.array(["float", "int", "float"]),
        log=log,
        low=low,
        high=high,
        params=params,
        val=val,
        test=val + 0.01,
        seconds=np.tile(steps.astype(float), (rows, 1)),
    )
