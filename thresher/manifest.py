"""What a study was started with: written once, compared at every further start."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from controller.events import JobCreated, TrialCreated
from controller.store import Store
from thresher import __version__
from thresher.config import StudyConfig

RESULT_SETTINGS = (
    "model",
    "data",
    "hyperparameters",
    "space",
    "search",
    "objective",
    "finalists",
    "resources.mixed_precision",
)
"""Sections and settings that make a study what it is."""
LIMITS = ("search.trials", "search.max_examples", "search.max_hours", "search.max_gpu_hours")
"""Settings that say when the search ends, and may change until its finalists are repeated or tested."""
EXACT_SETTINGS = ("resources.gpus_per_trial", "resources.micro_batch_size", "resources.evaluation_batch_size")
"""Settings that change in which order numbers are added up, and what is drawn for dropout, but nothing else."""
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy")
SAMPLE_BYTES = 1 << 16
LONGEST_VALUE = 100


class ManifestError(ValueError):
    """The directory holds another study than the one that was asked for."""


def describe_study(
    config: StudyConfig, plan: Mapping[str, Any], surroundings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What a manifest says of a study, all but its data.

    Args:
        plan: what follows from the config and the model, as the commands that only read need it.
        surroundings: what else results depend on, such as threads and the model's files (under `model`).
    """
    return {
        "config": config.model_dump(mode="json"),
        "plan": dict(plan),
        "versions": versions(),
        "surroundings": dict(surroundings),
    }


def check_manifest(store: Store, now: Mapping[str, Any]) -> tuple[str, ...]:
    """Compare what a study was started with, if it was, with what is asked for now.

    Returns:
        Notes about what changed but does not make it another study: limits of a search that is not over, versions,
        threads, batches in one pass.

    Raises ManifestError naming each setting that makes it another study.
    """
    before = store.manifest()
    if not before:
        return ()
    changes = [
        change for path in RESULT_SETTINGS for change in _differences(_setting(before, path), _setting(now, path), path)
    ]
    limits = [change for change in changes if change[0] in LIMITS] if _is_searching(store) else []
    changes = [change for change in changes if change not in limits]
    if not changes:  # what follows from a setting need not be told beside it
        changes = list(_differences(before["plan"], now["plan"], "by the model family and this version, "))
    model = before["surroundings"].get("model"), now["surroundings"].get("model")
    if model[0] != model[1]:
        changes.append(("hash of the base model's files", *model))
    if changes:
        raise _another_study(store, changes)
    drift = [
        *((path, _setting(before, path), _setting(now, path)) for path in EXACT_SETTINGS),
        *_differences(before["versions"], now["versions"], "version of "),
        *_differences(before["surroundings"], now["surroundings"], ""),
    ]
    moved = (f"{path}: {_shown(old)} before, {_shown(new)} from now on" for path, old, new in limits)
    drifted = (
        f"{path}: {_shown(old)} before, {_shown(new)} now; results stay comparable, but not equal bit for bit"
        for path, old, new in drift
        if old != new
    )
    return (*moved, *drifted)


def settle_manifest(store: Store, now: Mapping[str, Any], data: str) -> None:
    """Write the manifest of a new study; of an old one, compare its data's hash with `data`, and note new limits.

    What else `check_manifest` let pass stays as the study was started with.

    Raises ManifestError if the study was started with other data.
    """
    before = store.manifest()
    if not before:
        store.write_manifest({**now, "data": data})
        return
    if before["data"] != data:
        raise _another_study(store, [("hash of the tokenised data", before["data"][:12], data[:12])])
    search = {path.removeprefix("search."): _setting(now, path) for path in LIMITS}
    extended = {**before["config"], "search": {**before["config"]["search"], **search}}
    if extended != before["config"]:
        store.write_manifest({"config": extended})


def _is_searching(store: Store) -> bool:
    """Whether no finalist was repeated and nothing tested yet: nobody has seen a result that is not to be chosen by."""
    return not any(
        (isinstance(event, TrialCreated) and event.repeat_of is not None)
        or (isinstance(event, JobCreated) and event.split == "test")
        for _, _, event in store.events()
    )


def versions() -> dict[str, str]:
    """Versions of everything that results depend on."""
    installed = {name: metadata.version(name) for name in LIBRARIES}
    return {"thresher": __version__, "python": platform.python_version(), **installed}


def model_fingerprint(directory: Path) -> str:
    """Hash of a model's configuration, and of the names, sizes and samples of its weight files.

    Not all weights are read, which would take longer than loading them: of each file the start, the middle and
    the end, of which every training changes something.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            size = path.stat().st_size
            digest.update(f"{path.name}:{size};".encode())
            with path.open("rb") as stream:
                for start in (0, size // 2, max(0, size - SAMPLE_BYTES)):
                    stream.seek(start)
                    digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _setting(manifest: Mapping[str, Any], path: str) -> Any:
    value: Any = manifest["config"]
    for key in path.split("."):
        value = value.get(key)
    return value


def _another_study(store: Store, changes: Iterable[tuple[str, Any, Any]]) -> ManifestError:
    lines = [
        f"{path}: expected {_shown(old)}, as the study was started with, got {_shown(new)}"
        for path, old, new in changes
    ]
    return ManifestError(
        "\n  ".join([f"{store.path.parent} holds another study:", *lines])
        + "\nrestore these settings to go on with it, or choose another output.directory"
    )


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) of each value that differs. A path that ends in a space is a prefix, not a parent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        parent = path if not path or path.endswith(" ") else f"{path}."
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{parent}{key}")
    elif old != new:
        yield path, old, new


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
