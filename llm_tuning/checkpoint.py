"""Checkpoints of trials: written whole or not at all, verified when they are read.

    checkpoints/trial-0007/rung-000000900/       a finished rung; the number is its nominal budget
    checkpoints/trial-0007/partial-000000640/    on the way to a rung; the number is the examples seen
        adapter_model.safetensors  adapter_config.json    the adapter, as PeftModel.from_pretrained reads it
        optimizer.safetensors                             AdamW's moments and step for each parameter
        state.json                                        everything else: see CheckpointState
        manifest.json                                     sha256 and size of each file above
        measurement.json                                  what was measured at a rung, added later

A directory appears under its name only when it is complete and on disk. One that does not verify is
renamed to `*.corrupt` and never read again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from search_spaces.space import Params

if TYPE_CHECKING:
    import torch

CheckpointKind = Literal["rung", "partial"]

_ADAPTER: Final = "adapter_model.safetensors"
_ADAPTER_CONFIG: Final = "adapter_config.json"
_OPTIMIZER: Final = "optimizer.safetensors"
_STATE: Final = "state.json"
_MANIFEST: Final = "manifest.json"
_MEASUREMENT: Final = "measurement.json"

_FORMAT: Final = 2
_NAME: Final = re.compile(r"(rung|partial)-(\d+)")
_TRIAL: Final = "trial-"
_TEMPORARY: Final = ".writing-"
_CORRUPT: Final = ".corrupt"

_UNFIT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""System errors that say that the place is unfit, not that a configuration is wrong."""


class StorageError(ValueError):
    """The checkpoint directory cannot be used: full, read-only, broken. No configuration is to blame."""


class CorruptCheckpoint(ValueError):
    """A checkpoint whose files are not those that were written."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """Where a trial stands, apart from its weights and its optimizer.

    Attributes:
        kind: a finished rung, or a place on the way to one.
        budget: the nominal budget of a rung; the examples seen for a partial checkpoint.
        examples: training examples seen. At a rung, the first optimizer step at or past the budget.
        steps: optimizer steps taken.
        params: all hyperparameters, defaults included.
        horizon: the budget for which the learning rate is laid out.
        data: fingerprint of the training set.
        stretch_from: the budget at which the running stretch (from one rung to the next) began.
        stretch_nats: sum of the training losses of all learnt tokens of the stretch so far.
        stretch_tokens: the number of these tokens.
        stretch_seconds: wall-clock cost of the stretch so far, all attempts together.
        loss_scale: state of the gradient scaler, with fp16 only.
        versions: versions of the libraries that made it.
    """

    trial_id: int
    kind: CheckpointKind
    budget: int
    examples: int
    steps: int
    params: Params
    seed: int
    horizon: int
    data: str
    stretch_from: int
    stretch_nats: float
    stretch_tokens: int
    stretch_seconds: float
    loss_scale: Mapping[str, float] | None = None
    versions: Mapping[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("torch", "transformers", "peft", "numpy")}
    )


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured at a rung. `seconds`: wall-clock cost of the whole stretch, the measuring included."""

    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A verified checkpoint, in memory."""

    path: Path
    state: CheckpointState
    adapter: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    measurement: Measurement | None


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: the checkpoint, if there is one, and what a person should know about the search."""

    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()


@final
class CheckpointStore:
    """The checkpoints of one study, below one directory.

    A trial is written by one process at a time. All methods raise StorageError if the directory
    cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, trial_id: int, kind: CheckpointKind, budget: int) -> Path:
        """Where a checkpoint lies, whether it exists or not."""
        return self._trial(trial_id) / f"{kind}-{budget:09d}"

    def write(
        self,
        state: CheckpointState,
        adapter: Mapping[str, torch.Tensor],
        adapter_config: Mapping[str, Any],
        optimizer: Mapping[str, torch.Tensor],
    ) -> Path:
        """Write a checkpoint; after a return it survives a power cut. Replaces one of the same name.

        Args:
            adapter: the LoRA matrices under the names of peft's file format, on the CPU.
            optimizer: the optimizer's tensors, on the CPU.
        """
        from safetensors.torch import save

        settings = {entry.name: getattr(state, entry.name) for entry in fields(state)}
        contents = {
            _ADAPTER: save(dict(adapter), metadata={"format": "pt"}),
            _ADAPTER_CONFIG: _as_json(adapter_config),
            _OPTIMIZER: save(dict(optimizer)),
            _STATE: _as_json({"format": _FORMAT, **settings}),
        }
        manifest = {name: {"sha256": _sha256(content), "size": len(content)} for name, content in contents.items()}
        target = self.path(state.trial_id, state.kind, state.budget)
        size = sum(map(len, contents.values()))
        with self._storage(f"room for {size / 1e6:.1f} MB"):
            target.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(target.parent)
            _install(target, {**contents, _MANIFEST: _as_json(manifest)})
        return target

    def record(self, path: Path, measurement: Measurement) -> None:
        """Add to a finished rung what was measured there."""
        with self._storage("room for a small file"):
            temporary = path / f"{_TEMPORARY}{uuid.uuid4().hex}"
            _write_file(temporary, _as_json(asdict(measurement)))
            os.replace(temporary, path / _MEASUREMENT)
            _sync_directory(path)

    def read(self, path: Path) -> Checkpoint:
        """Read and verify a checkpoint. Raises CorruptCheckpoint if it is not as it was written."""
        from safetensors.torch import load

        with self._storage("a readable checkpoint"):
            manifest = _read_json(path / _MANIFEST)
            contents = {name: _read_verified(path / name, manifest) for name in (_ADAPTER, _OPTIMIZER, _STATE)}
            # Read by peft only, but a checkpoint without it could not be exported.
            _read_verified(path / _ADAPTER_CONFIG, manifest)
            measurement = _read_measurement(path / _MEASUREMENT)
        settings = json.loads(contents[_STATE])
        written_as = settings.pop("format", None)
        if written_as != _FORMAT:
            raise StorageError(
                f"expected a checkpoint of format {_FORMAT} in {path}, got format {written_as}; "
                "go on with the version of thresher that wrote it"
            )
        adapter, optimizer = load(contents[_ADAPTER]), load(contents[_OPTIMIZER])
        return Checkpoint(path, CheckpointState(**settings), adapter, optimizer, measurement)

    def newest(self, trial_id: int, at_most: int) -> Found:
        """The valid checkpoint of a trial that is furthest on, not beyond a budget; damaged ones are set aside.

        For the process that trains the trial: it also removes what a killed writer left.
        """
        with self._storage("a readable directory"):
            self._sweep(self._trial(trial_id))
            places = sorted(place for place in self._places(trial_id) if place[0] <= at_most)
        notes: list[str] = []
        # At the same number a rung comes after a partial checkpoint: `rung` > `partial`.
        for budget, _, path in reversed(places):
            found = self._read_or_set_aside(trial_id, budget, path)
            notes.extend(found.notes)
            if found.checkpoint is not None:
                return Found(found.checkpoint, tuple(notes))
        return Found(None, tuple(notes))

    def rung(self, trial_id: int, budget: int) -> Found:
        """The checkpoint of one finished rung of a trial; set aside if it is damaged."""
        path = self.path(trial_id, "rung", budget)
        with self._storage("a readable directory"):
            exists = path.is_dir()
        return self._read_or_set_aside(trial_id, budget, path) if exists else Found(None)

    def discard(self, trial_id: int, kind: CheckpointKind | None = None, below: int | None = None) -> None:
        """Remove the checkpoints of a trial: all, or those of one kind, or those with a number under `below`."""
        with self._storage("a writable directory"):
            for budget, found_kind, path in self._places(trial_id):
                if kind in (None, found_kind) and (below is None or budget < below):
                    _remove(path)
            if kind is None and below is None:
                shutil.rmtree(self._trial(trial_id), ignore_errors=True)

    def trials(self) -> set[int]:
        """The trials that have any checkpoint."""
        with self._storage("a readable directory"):
            if not self._root.is_dir():
                return set()
            return {int(path.name.removeprefix(_TRIAL)) for path in self._root.glob(f"{_TRIAL}[0-9]*")}

    def _trial(self, trial_id: int) -> Path:
        return self._root / f"{_TRIAL}{trial_id:04d}"

    def _places(self, trial_id: int) -> Iterator[tuple[int, str, Path]]:
        directory = self._trial(trial_id)
        for path in directory.iterdir() if directory.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if match:
                yield int(match[2]), match[1], path

    def _sweep(self, directory: Path) -> None:
        """Remove what killed writers left. A trial has one writer, so nothing here is still being written."""
        for leftover in directory.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(leftover)

    def _read_or_set_aside(self, trial_id: int, budget: int, path: Path) -> Found:
        try:
            return Found(self.read(path))
        except CorruptCheckpoint as error:
            aside = path.with_name(path.name + _CORRUPT)
            with self._storage("a writable directory"):
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            note = f"checkpoint of trial {trial_id} at {budget} is damaged ({error}): set aside as {aside.name}"
            return Found(None, (note,))

    @contextmanager
    def _storage(self, expected: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _UNFIT:
                raise
            raise StorageError(
                f"expected {expected} in {self._root}, got: {error.strerror} ({_space_left(self._root)} left); "
                "free disk space or make the directory writable, then start the same command again"
            ) from error


def _install(target: Path, contents: Mapping[str, bytes]) -> None:
    """Write a directory beside its place, make sure it is on disk, and give it its name."""
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        temporary.mkdir()
        for name, content in contents.items():
            _write_file(temporary / name, content)
        _sync_directory(temporary)
        if target.exists():
            _remove(target)
        temporary.rename(target)
        _sync_directory(target.parent)
    except OSError:
        # On a full disk, leave no half-written checkpoint to fill it further.
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove(path: Path) -> None:
    """Remove a checkpoint such that no half of it is ever found under its name."""
    doomed = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_verified(path: Path, manifest: Mapping[str, Any]) -> bytes:
    expected = manifest.get(path.name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CorruptCheckpoint(f"expected the file {path.name}, got none") from None
    if not isinstance(expected, dict) or len(content) != expected.get("size"):
        raise CorruptCheckpoint(f"{path.name}: expected the size in the manifest, got {len(content)} bytes")
    if _sha256(content) != expected.get("sha256"):
        raise CorruptCheckpoint(f"{path.name}: expected the sha256 in the manifest, got another")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorruptCheckpoint(f"expected the file {path.name}, got none") from None
    except ValueError:
        raise CorruptCheckpoint(f"{path.name}: expected JSON, got something else") from None
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{path.name}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_measurement(path: Path) -> Measurement | None:
    """None if there is none, or none that can be read: then it is measured again."""
    try:
        return Measurement(**_read_json(path))
    except (CorruptCheckpoint, TypeError):
        return None


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True, default=dict).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _space_left(path: Path) -> str:
    """Free space at a path, or at its nearest parent that exists."""
    existing = next((place for place in (path, *path.parents) if place.is_dir()), Path("/"))
    return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB"
