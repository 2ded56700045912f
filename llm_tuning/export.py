"""A trained adapter in the form in which the rest of the world takes it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class ExportError(ValueError):
    """There is nothing to export, or no place for it."""


def export_adapter(checkpoint: Path, destination: Path, *, base_model: str, details: Mapping[str, Any]) -> None:
    """Write a checkpoint's adapter to a new or empty directory, whole or not at all, for `PeftModel.from_pretrained`.

    Args:
        checkpoint: a directory of the CheckpointStore.
        base_model: what the adapter was trained on; goes into its config.
        details: how it was found, written to `thresher.json` beside it.

    Raises ExportError if the checkpoint is not there, or the destination holds something else or cannot be written.
    """
    missing = [name for name in ADAPTER_FILES if not (checkpoint / name).is_file()]
    if missing:
        raise ExportError(
            f"expected a checkpoint with {', '.join(missing)} in {checkpoint}, got none; run the study again: "
            "it trains again what is missing"
        )
    with whole_directory(destination) as unfinished:
        config = json.loads((checkpoint / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base_model
        (unfinished / ADAPTER_FILES[0]).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(checkpoint / ADAPTER_FILES[1], unfinished / ADAPTER_FILES[1])
        (unfinished / "thresher.json").write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")


@contextmanager
def whole_directory(destination: Path) -> Iterator[Path]:
    """A directory to write to, whose files are in the new or empty destination after the block, or not at all.

    Raises ExportError if the destination holds something, before the block, or if the disk refuses.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ExportError(
            f"expected an empty or new directory to export to, got {destination}, which holds something; "
            "choose another, or remove it"
        )
    # Beside the destination, or inside if it is there already: it may be a disk of its own, or where a shell stands.
    unfinished = (destination if destination.exists() else destination.absolute().parent) / f".{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if destination.exists():
            for file in unfinished.iterdir():
                file.replace(destination / file.name)
        else:
            unfinished.replace(destination)
    except OSError as error:
        raise ExportError(
            f"expected to write to {destination}, got: {error.strerror or error}; choose another place"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
