"""Experiment trackers: one run for each trial, through Accelerate's classes. Off unless a study names some.

A tracker is a courtesy: one that fails while a trial trains (no network, no login, a full disk) is noted and
left out until the next job, and the trial goes on. Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, final

from llm_tuning.recipe import METRICS
from search_spaces.space import Params
from search_spaces.suggestion import suggest

TRACKERS: Final = ("tensorboard", "wandb", "mlflow", "trackio")
"""The trackers that a study may name. The package of each has the same name."""


class TrackerError(ValueError):
    """A tracker that cannot be used here."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that are unknown, named twice, or whose package is not installed. Raises TrackerError."""
    for name in names:
        if name not in TRACKERS:
            raise TrackerError(
                f"expected a tracker among {', '.join(TRACKERS)}, got {name!r}; {suggest(name, TRACKERS)}"
            )
        if list(names).count(name) > 1:
            raise TrackerError(f"expected each tracker once, got {name} twice; remove one")
        if not _is_installed(name):
            raise TrackerError(
                f"expected the package {name} for the tracker of this name, got none installed; "
                f"pip install {name}, or leave the tracker out"
            )


def _is_installed(package: str) -> bool:
    found = importlib.util.find_spec(package)
    # A directory of this name, such as wandb leaves where it ran, is found too, but has no code.
    return found is not None and found.origin is not None


@final
class TrialTracking:
    """The runs of one trial in all trackers of a study, from the start of one job to its end.

    The next job of the trial goes on with the same runs: the same directory for TensorBoard, the same id
    for the others. The horizontal axis is the number of training examples.
    """

    def __init__(
        self,
        names: Sequence[str],
        project: str,
        directory: Path,
        trial_id: int,
        on_failure: Callable[[str], None],
    ) -> None:
        """Nothing is opened yet.

        Args:
            project: what the trackers file the runs under.
            directory: the study's own, for event files and for what tells its runs from those of others.
            on_failure: called with a line for people when a tracker fails, once each.
        """
        self._names = names
        self._project = project
        self._directory = directory
        self._trial_id = trial_id
        self._on_failure = on_failure
        self._open: dict[str, Any] = {}
        self._failed: set[str] = set()

    def start(self, config: Params, examples: int) -> None:
        """Open the runs, or open them again, and record the trial's hyperparameters.

        Args:
            examples: where training starts; what an earlier attempt logged beyond it counts no more.
        """
        for name in self._names:
            self._attempt(name, partial(self._start, name, config, examples))

    def log(self, values: Mapping[str, float], examples: int) -> None:
        """Record measurements that were taken after so many training examples."""
        for name, tracker in self._working():
            self._attempt(name, partial(_log, name, tracker, values, examples))

    def fail(self, kind: str, examples: int) -> None:
        """Record that the trial failed, and how."""
        for name, tracker in self._working():
            self._attempt(name, partial(_log_failure, name, tracker, kind, examples))

    def finish(self) -> None:
        """Close what is open. Nothing can be recorded any more."""
        for name, tracker in self._open.items():
            self._attempt(name, tracker.finish)
        self._open.clear()

    def _working(self) -> list[tuple[str, Any]]:
        return [(name, tracker) for name, tracker in self._open.items() if name not in self._failed]

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a service may raise, on which training does not depend
            if name not in self._failed:
                self._failed.add(name)
                problem = " ".join(f"{type(error).__name__}: {error}".split())
                self._on_failure(f"tracker {name} failed and records nothing more of this job: {problem}")

    def _start(self, name: str, config: Params, examples: int) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        run = f"trial-{self._trial_id:05d}"
        match name:
            case "tensorboard":
                self._start_tensorboard(run, config, examples)
            case "wandb":
                self._start_wandb(run, config)
            case "mlflow":
                self._start_mlflow(run, config)
            case "trackio":
                self._start_trackio(run, config)

    def _start_tensorboard(self, run: str, config: Params, examples: int) -> None:
        from accelerate.tracking import TensorBoardTracker
        from torch.utils.tensorboard.summary import hparams

        directory = self._directory / "tensorboard"
        is_new = not (directory / run).exists()
        tracker = TensorBoardTracker(run, directory, purge_step=examples + 1)
        tracker.start()
        self._open["tensorboard"] = tracker
        if is_new:
            # What Accelerate does with a configuration makes further runs below this one.
            for summary in hparams(dict(config), dict.fromkeys(METRICS, 0.0)):
                tracker.tracker.file_writer.add_summary(summary)

    def _start_wandb(self, run: str, config: Params) -> None:
        from accelerate.tracking import WandBTracker

        identity = f"{study_key(self._directory)}-{run}"
        tracker = WandBTracker(self._project, name=run, id=identity, resume="allow", dir=str(self._directory))
        tracker.start()
        self._open["wandb"] = tracker
        # Its own steps must rise from call to call, which a measurement on the test set, say, would not.
        tracker.tracker.define_metric("*", step_metric="examples")
        tracker.store_init_configuration(dict(config))

    def _start_mlflow(self, run: str, config: Params) -> None:
        from accelerate.tracking import MLflowTracker

        record = self._directory / "mlflow" / f"{run}.id"
        known = record.read_text(encoding="utf-8") if record.is_file() else None
        tracker = MLflowTracker(self._project, run_id=known, run_name=run)
        tracker.start()
        self._open["mlflow"] = tracker
        if known is None:
            record.parent.mkdir(exist_ok=True)
            record.write_text(tracker.tracker.info.run_id, encoding="utf-8")
            tracker.store_init_configuration(dict(config))

    def _start_trackio(self, run: str, config: Params) -> None:
        from accelerate.tracking import TrackioTracker

        # It knows runs by their name alone.
        tracker = TrackioTracker(self._project, name=f"{run}-{study_key(self._directory)}", resume="allow")
        tracker.start()
        self._open["trackio"] = tracker
        tracker.store_init_configuration(dict(config))


def _log(name: str, tracker: Any, values: Mapping[str, float | str], examples: int) -> None:
    if name == "wandb":
        tracker.log({**values, "examples": examples})
    else:
        tracker.log(dict(values), step=examples)


def _log_failure(name: str, tracker: Any, kind: str, examples: int) -> None:
    if name == "mlflow":  # its metrics are numbers only
        importlib.import_module("mlflow").set_tag("failure", kind)
    else:
        _log(name, tracker, {"failure": kind}, examples)


def study_key(directory: Path) -> str:
    """A few characters that tell the runs of this study from those of any other; drawn once, kept in its directory.

    Several workers may ask at the same time: the first one's draw holds.
    """
    path = directory / "key"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        draft = directory / f".{uuid.uuid4().hex}"
        draft.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text(encoding="utf-8")
