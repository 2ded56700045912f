"""What a study was started with: written once, compared at every further start."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from controller.store import Store
from thresher import __version__
from thresher.config import StudyConfig

RESULT_SECTIONS = ("model", "data", "hyperparameters", "space", "search", "objective", "finalists")
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "numpy")


class ManifestError(ValueError):
    """The directory holds another study than the one that was asked for."""


def check_manifest(
    store: Store, config: StudyConfig, plan: Mapping[str, Any], surroundings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Write the manifest of a new study, or compare an old one's with what is asked for now.

    Args:
        plan: what follows from the config and the model, as the commands that only read need it.
        surroundings: what else results depend on, such as threads and the model's files.

    Returns:
        Notes about what changed but does not make it another study: versions, threads.

    Raises ManifestError naming each setting that makes it another study.
    """
    now = {
        "config": config.model_dump(mode="json"),
        "plan": dict(plan),
        "versions": versions(),
        "surroundings": dict(surroundings),
    }
    before = store.manifest()
    if not before:
        store.write_manifest(now)
        return ()
    changes = [
        f"{path}: expected {old!r}, as the study was started with, got {new!r}"
        for section in RESULT_SECTIONS
        for path, old, new in _differences(before["config"].get(section), now["config"].get(section), section)
    ]
    changes += [
        f"{path}: expected {old!r}, as the study was started with, got {new!r}"
        for path, old, new in _differences(before["plan"], now["plan"], "plan")
    ]
    model = before["surroundings"].get("model")
    if model != surroundings.get("model"):
        changes.append(f"the files of the base model: expected {model}, got {surroundings.get('model')}")
    if changes:
        raise ManifestError(
            f"{store.path.parent} holds another study:\n  "
            + "\n  ".join(changes)
            + "\nrestore these settings to go on with it, or choose another output.directory"
        )
    drift = _differences(before["versions"], now["versions"], "version of")
    drift = [*drift, *_differences(before["surroundings"], now["surroundings"], "run with")]
    return tuple(
        f"{path} was {old!r}, is {new!r}: results stay comparable, but not equal bit for bit"
        for path, old, new in drift
    )


def versions() -> dict[str, str]:
    """Versions of everything that results depend on."""
    installed = {name: metadata.version(name) for name in LIBRARIES}
    return {"thresher": __version__, "python": platform.python_version(), **installed}


def model_fingerprint(directory: Path) -> str:
    """Hash of a model's configuration and of the names and sizes of its weight files.

    The weights themselves are not read: that would take longer than loading them.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            digest.update(f"{path.name}:{path.stat().st_size};".encode())
    return digest.hexdigest()[:16]


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}")
    elif old != new:
        yield path, old, new
