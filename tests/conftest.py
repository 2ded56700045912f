"""What holds for every test: no network, no writing to the home directory, one thread, no chance."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# A shell that starts the tests in the background makes them ignore SIGINT, and so does every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports torch or huggingface_hub, which read these once. Child processes inherit them.
# One thread each: tests start several workers on few cores, and results do not depend on the core count.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

# Examples are the same in every run, so that a red build is about the change and not about luck. No deadline per
# example: the first one often pays for an import.
settings.register_profile("thresher", deadline=None, derandomize=True, database=None)
settings.load_profile("thresher")

HOME_OF_CACHES = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Point every cache at a directory of this run: the home may be missing, and is nobody's to fill.

    It also keeps a developer's own `accelerate config` (under HF_HOME) out of the tests.
    """
    directory = Path(tempfile.mkdtemp(prefix="thresher-tests-"))
    config.stash[HOME_OF_CACHES] = directory
    os.environ["XDG_CACHE_HOME"] = str(directory)
    os.environ["HF_HOME"] = str(directory / "huggingface")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(directory / "inductor")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[HOME_OF_CACHES], ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch  # here, because most test files do not need it and it takes seconds

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch.cuda.is_available() is False")
