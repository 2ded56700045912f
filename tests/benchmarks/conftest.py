"""The benchmarks are scripts beside their packages, so their folder has to be on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small problem whose best configurations are not its fastest ones."""
    from quality.synthetic import write_table

    path = tmp_path_factory.mktemp("tables") / "synthetic-0.npz"
    write_table(path, 0)
    return path
