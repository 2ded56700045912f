"""Tiny studies: one that was run to its end, one that was interrupted, and the means to make others."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.events import Enqueued, SessionStarted
from controller.store import Store
from search_spaces.space import Space
from tests.thresher.journal import BUDGETS, DEFAULTS, Journal
from tests.thresher.tiny_study import (
    SLOWER,
    FinishedStudy,
    InterruptedStudy,
    StudyPlace,
    all_checkpoints,
    descendants,
    finish,
    flip_a_byte,
    is_alive,
    make_model,
    paused,
    place_study,
    start_command,
    study_data,
    wait_until,
    write_jsonl,
)
from thresher.config import parse_config
from thresher.manifest import describe_study, settle_manifest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer with random weights and a tokenizer of bytes that has a chat template."""
    directory = tmp_path_factory.mktemp("tiny")
    make_model(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl, validation.jsonl and test.jsonl with 40, 8 and 8 examples: a word, to be repeated."""
    directory = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, rows in {"train": 40, "validation": 8, "test": 8}.items():
        words = ["".join(rng.choice(list("abcdef"), size=6)) for _ in range(rows)]
        write_jsonl(directory / f"{split}.jsonl", [(word, f"{word} {word}") for word in words])
    return directory


@pytest.fixture
def config_data(tmp_path: Path) -> dict[str, Any]:
    """A valid config whose files do not exist, for tests that read no files."""
    return study_data(tmp_path / "model", tmp_path, tmp_path / "study")


@pytest.fixture
def make_study(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> Callable[..., StudyPlace]:
    """Makes the config of a tiny study; keyword arguments change its sections."""
    return functools.partial(place_study, tmp_path, tiny_model, tiny_data)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> FinishedStudy:
    """A tiny study that `python -m thresher run` has finished."""
    place = place_study(tmp_path_factory.mktemp("finished"), tiny_model, tiny_data)
    return FinishedStudy(place, place.run())


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> InterruptedStudy:
    """A study that was started by `python scripts/tune.py` and interrupted after its first report."""
    place = place_study(tmp_path_factory.mktemp("interrupted"), tiny_model, tiny_data, **SLOWER)
    process = start_command(sys.executable, "scripts/tune.py", place.config)
    try:
        wait_until(lambda: place.journal("JobCreated") or process.poll() is not None, "a first job")
        with paused(process):
            second = place.run()
            status = place.thresher("status", place.directory)
        wait_until(lambda: place.journal("Reported") or process.poll() is not None, "a first report")
        # A trial's checkpoints on the way to a rung go when it gets there, so this one belongs to the second.
        saved = (place.directory / "checkpoints").glob
        wait_until(lambda: list(saved("*/partial-*")) or process.poll() is not None, "a second trial at work")
        children = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        ran = finish(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    left = frozenset(filter(is_alive, children))
    checkpoints = [str(path.relative_to(place.directory / "checkpoints")) for path in all_checkpoints(place)]
    return InterruptedStudy(place, ran, place.journal(), checkpoints, second, status, left)


@pytest.fixture(scope="session")
def resumed(interrupted: InterruptedStudy) -> FinishedStudy:
    """The interrupted study, ended under `accelerate launch`, with a byte of trial 0's checkpoints flipped before."""
    for checkpoint in all_checkpoints(interrupted.place):
        if checkpoint.parent.name == "trial-0000":
            flip_a_byte(checkpoint / "optimizer.safetensors")
    launcher = Path(sys.executable).with_name("accelerate")
    process = start_command(launcher, "launch", "scripts/tune.py", interrupted.place.config)
    return FinishedStudy(interrupted.place, finish(process))


@pytest.fixture
def journal(config_data: dict[str, Any]) -> Iterator[Journal]:
    """A study that has just been started, with its writer still at work."""
    config = parse_config(config_data)
    space = Space.from_dict({name: entry for name, entry in config_data["space"].items() if name != "only"})
    plan = {"defaults": DEFAULTS, "budgets": list(BUDGETS), "space": space.to_dict()}
    with Store.open(config.output.directory) as store:
        settle_manifest(store, describe_study(config, plan, {"model": "abc"}), "data")
        store.append([SessionStarted(), Enqueued({"optimizer.learning_rate": 3e-3, "lora.rank": 4})])
        yield Journal(store)
