from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import torch

from llm_tuning.adapters import adapter_config, adapter_weights, load_adapter_weights, lora_attached
from llm_tuning.checkpoint import (
    Checkpoint,
    CheckpointState,
    CheckpointStore,
    CorruptCheckpoint,
    Measurement,
    StorageError,
)
from llm_tuning.recipe import Recipe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

FILES = ("adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "state.json", "manifest.json")

STATE = CheckpointState(
    trial_id=7,
    kind="rung",
    budget=300,
    examples=304,
    steps=19,
    params=MappingProxyType({"lora.rank": 4, "optimizer.learning_rate": 1e-4, "schedule.kind": "linear"}),
    seed=2**63 + 1,
    horizon=900,
    data="fingerprint",
    stretch_from=100,
    stretch_nats=0.1 + 0.2,
    stretch_tokens=123,
    stretch_seconds=1.5,
    loss_scale={"scale": 65536.0, "_growth_tracker": 3},
)
ADAPTER = {"layer.lora_A.weight": torch.arange(6.0).reshape(2, 3), "layer.lora_B.weight": torch.zeros(3, 2)}
OPTIMIZER = {"layer.lora_A.weight.exp_avg": torch.full((2, 3), 0.1), "layer.lora_A.weight.step": torch.tensor(19.0)}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def write(store: CheckpointStore, budget: int, kind: Any = "rung", trial_id: int = 7, marker: float = 0.0) -> Path:
    state = replace(STATE, trial_id=trial_id, kind=kind, budget=budget, examples=budget, stretch_nats=marker)
    return store.write(state, ADAPTER, {"peft_type": "LORA"}, OPTIMIZER)


def newest(store: CheckpointStore, at_most: int = 10**9, trial_id: int = 7) -> Checkpoint:
    found = store.newest(trial_id, at_most)
    assert found.checkpoint is not None
    return found.checkpoint


def test_what_is_written_is_read_back(store: CheckpointStore) -> None:
    path = store.write(STATE, ADAPTER, {"peft_type": "LORA"}, OPTIMIZER)
    assert path == store.path(7, "rung", 300)
    assert str(path).endswith("checkpoints/trial-0007/rung-000000300")
    assert {file.name for file in path.iterdir()} == set(FILES)
    checkpoint = store.read(path)
    assert checkpoint.state == STATE
    assert isinstance(checkpoint.state.params["lora.rank"], int)
    assert set(checkpoint.state.versions) == {"torch", "transformers", "peft", "numpy"}
    assert checkpoint.measurement is None
    for written, read in ((ADAPTER, checkpoint.adapter), (OPTIMIZER, checkpoint.optimizer)):
        assert written.keys() == read.keys()
        assert all(torch.equal(written[name], read[name]) for name in written)


def test_the_directory_is_an_adapter_that_peft_loads(store: CheckpointStore, base: LlamaForCausalLM) -> None:
    from peft import PeftModel

    tokens = torch.arange(2, 12)[None]
    with lora_attached(base, Recipe.from_params({"lora.rank": 4}), 0, {}) as model:
        weights = {name: torch.randn_like(weight) for name, weight in adapter_weights(model).items()}
        path = store.write(STATE, weights, adapter_config(model), OPTIMIZER)
        load_adapter_weights(model, weights)
        with torch.no_grad():
            expected = model(tokens).logits
    loaded = PeftModel.from_pretrained(base, path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, expected)


def test_the_newest_within_the_budget_is_found(store: CheckpointStore) -> None:
    for kind, budget in (("rung", 100), ("rung", 300), ("partial", 300), ("partial", 640), ("rung", 900)):
        write(store, budget, kind)
    write(store, 800, trial_id=8)
    found = {at_most: newest(store, at_most).path.name for at_most in (100, 299, 300, 899, 900)}
    assert found == {
        100: "rung-000000100",
        299: "rung-000000100",
        300: "rung-000000300",
        899: "partial-000000640",
        900: "rung-000000900",
    }
    assert store.newest(7, 99).checkpoint is None
    assert store.newest(9, 900).checkpoint is None
    rung = store.rung(7, 300).checkpoint
    assert rung is not None
    assert rung.state.kind == "rung"
    assert store.rung(7, 640).checkpoint is None


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    store: CheckpointStore, file: str, damage: str
) -> None:
    write(store, 100)
    path = write(store, 300)
    content = bytearray((path / file).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        (path / file).write_bytes(content)
    elif damage == "truncate":
        (path / file).write_bytes(content[:-1])
    else:
        (path / file).unlink()
    with pytest.raises(CorruptCheckpoint, match=None if damage == "flip" else file.replace(".", r"\.")):
        store.read(path)
    found = store.newest(7, 900)
    assert found.checkpoint is not None
    assert found.checkpoint.state.budget == 100
    (note,) = found.notes
    assert note.startswith("checkpoint of trial 7 at 300 is damaged (")
    assert note.endswith("set aside as rung-000000300.corrupt")
    assert path.with_name("rung-000000300.corrupt").is_dir()
    assert not path.exists()
    assert store.newest(7, 900).notes == ()  # told once


def test_a_damaged_rung_is_set_aside_when_it_is_asked_for(store: CheckpointStore) -> None:
    for _ in range(2):  # a second one of the same name too
        path = write(store, 300)
        (path / "state.json").write_text("{}")
        found = store.rung(7, 300)
        assert found.checkpoint is None
        assert len(found.notes) == 1


def test_a_checkpoint_of_another_format_is_not_thrown_away(store: CheckpointStore, monkeypatch: Any) -> None:
    monkeypatch.setattr("llm_tuning.checkpoint._FORMAT", 99)
    path = write(store, 300)
    monkeypatch.undo()
    with pytest.raises(StorageError, match=r"expected a checkpoint of format 2 in .*, got format 99; go on with"):
        store.newest(7, 900)
    assert path.is_dir()


def test_a_measurement_is_added_to_a_rung(store: CheckpointStore) -> None:
    path = write(store, 300)
    measurement = Measurement({"validation_loss": 1 / 3, "learnt_tokens": 12.0}, seconds=4.5)
    store.record(path, measurement)
    assert newest(store).measurement == measurement
    store.record(path, replace(measurement, seconds=5.0))
    assert newest(store).measurement == replace(measurement, seconds=5.0)
    (path / "measurement.json").write_text('{"metrics":')
    assert newest(store).measurement is None  # then it is measured again; the weights are not in doubt


class Killed(BaseException):
    """What ends a process does not run its cleanup."""


def steps_of(monkeypatch: pytest.MonkeyPatch, stop_at: int, error: BaseException) -> list[str]:
    """Lets the filesystem calls of a writer happen, up to one of them that raises instead."""
    calls: list[str] = []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == stop_at:
                raise error
            return original(*args, **kwargs)

        return call

    for holder, name in ((os, "fsync"), (os, "replace"), (Path, "mkdir"), (Path, "rename"), (Path, "open")):
        monkeypatch.setattr(holder, name, counted(name, getattr(holder, name)))
    return calls


def test_killed_at_any_moment_there_is_the_old_state_or_the_new(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for moment in itertools.count():
        store.discard(7)
        write(store, 100, marker=1.0)
        with monkeypatch.context() as patch:
            calls = steps_of(patch, moment, Killed())
            try:
                write(store, 300, marker=2.0)
            except Killed:
                pass
            else:
                break
        checkpoint = newest(store)
        found.append(checkpoint.state.stretch_nats)
        # The next reader has swept.
        assert {path.name[0] for path in checkpoint.path.parent.iterdir()} <= {"r"}
    assert calls.index("rename") == len(calls) - 2
    assert calls[:-2].count("fsync") == len(FILES) + 1
    # It is there from the moment when it has its name; all that remains is to bring the name to the disk.
    assert found == [1.0] * (len(calls) - 1) + [2.0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_an_unfit_directory_is_told_and_leaves_what_was_there(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write(store, 100)
    root = store.path(7, "rung", 0).parent
    files = sorted(root.rglob("*"))
    for moment in range(12):
        with monkeypatch.context() as patch:
            steps_of(patch, moment, OSError(number, os.strerror(number)))
            expected = rf"expected room for .* in .*checkpoints, got: {os.strerror(number)} \(.* MB left\); free disk"
            with pytest.raises(StorageError, match=expected):
                write(store, 300)
        assert sorted(root.rglob("*")) == files
    assert newest(store).state.budget == 100


def test_other_system_errors_are_not_hidden(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps_of(monkeypatch, 3, OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(OSError, match="Too many open files"):
        write(store, 100)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the command mount")
    if done.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = CheckpointStore(small_disk)
    write(store, 100)
    big = {"weight": torch.zeros(64 * 1024)}
    with pytest.raises(
        StorageError, match=r"expected room for 0.3 MB in .*, got: No space left on device \(0.0 MB left\)"
    ):
        store.write(replace(STATE, budget=300), big, {}, OPTIMIZER)
    assert newest(store).state.budget == 100
    write(store, 200)  # there is room again: nothing was left behind


def test_a_checkpoint_of_the_same_name_is_replaced(store: CheckpointStore) -> None:
    write(store, 300, marker=1.0)
    write(store, 300, marker=2.0)
    assert newest(store).state.stretch_nats == 2.0
    assert [path.name for path in store.path(7, "rung", 300).parent.iterdir()] == ["rung-000000300"]


def test_discarding(store: CheckpointStore) -> None:
    for kind, budget in (("rung", 100), ("partial", 200), ("partial", 250), ("rung", 300)):
        write(store, budget, kind)
    other = write(store, 100, trial_id=8)

    def names() -> set[str]:
        return {path.name for path in store.path(7, "rung", 0).parent.glob("*")}

    store.discard(7, "partial", below=250)
    assert names() == {"rung-000000100", "partial-000000250", "rung-000000300"}
    store.discard(7, "partial")
    assert names() == {"rung-000000100", "rung-000000300"}
    store.discard(7, below=300)
    assert names() == {"rung-000000300"}
    store.discard(7)
    assert not store.path(7, "rung", 0).parent.exists()
    store.discard(7)
    assert other.is_dir()
    assert store.trials() == {8}


def test_the_manifest_names_every_file_with_its_hash(store: CheckpointStore) -> None:
    path = write(store, 300)
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest) == set(FILES) - {"manifest.json"}
    for name, entry in manifest.items():
        content = (path / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
