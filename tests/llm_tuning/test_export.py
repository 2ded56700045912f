from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_tuning.export import ADAPTER_FILES, ExportError, export_adapter

WEIGHTS = b"these bytes are copied, not read"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": None}))
    (directory / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (directory / "optimizer.safetensors").write_bytes(b"not for export")
    return directory


def export(checkpoint: Path, destination: Path) -> None:
    export_adapter(checkpoint, destination, base_model="some/model", details={"trial": 3})


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("exists", [False, True])
def test_writes_the_adapter_and_how_it_was_found(checkpoint: Path, tmp_path: Path, exists: bool) -> None:
    destination = tmp_path / "a" / "b"
    if exists:
        destination.mkdir(parents=True)
    export(checkpoint, destination)
    written = contents(destination)
    assert written.keys() == {*ADAPTER_FILES, "thresher.json"}
    assert written["adapter_model.safetensors"] == WEIGHTS
    assert json.loads(written["adapter_config.json"]) == {"r": 4, "base_model_name_or_path": "some/model"}
    assert json.loads(written["thresher.json"]) == {"trial": 3}
    assert [path.name for path in destination.parent.iterdir()] == ["b"]


def test_into_the_current_directory(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(checkpoint, Path())
    assert len(list(Path().iterdir())) == 3
    assert Path.cwd() == tmp_path / "here"


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_no_checkpoint(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(ExportError, match=rf"expected a checkpoint with {name} in .*, got none; run the study again"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_place_that_is_taken_stays_as_it_is(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    taken = tmp_path / "out"
    if kind == "directory":
        taken.mkdir()
    (taken if kind == "file" else taken / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"expected an empty or new directory to export to, got .*; choose another"):
        export(checkpoint, taken)
    assert (taken if kind == "file" else taken / "file").read_text() == "mine"


def test_a_full_disk_leaves_nothing_behind(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(ExportError, match=r"expected to write to .*out, got: No space left on device; choose another"):
        export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_file_in_the_way(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="got: Not a directory"):
        export(checkpoint, tmp_path / "file" / "out")
