"""A study as its directory tells it, for the commands that only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.events import Event
from controller.finalists import Finalists
from controller.history import History
from controller.limits import Limits, active_seconds
from controller.standings import standings
from controller.store import Store
from controller.trial import Objective, Trial
from llm_tuning.base_model import resolve_base_model
from llm_tuning.checkpoint import CheckpointStore, CorruptCheckpoint
from llm_tuning.export import ExportError, export_adapter
from search_spaces.space import ParamValue, Space
from thresher.config import ConfigError, StudyConfig, load_config, parse_config
from thresher.manifest import model_fingerprint
from thresher.results import FUNCTION_KEY, function_finalists


class RecordError(ValueError):
    """The study has not come far enough for what was asked, or another version wrote it."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The configuration that did best, and the runs of it.

    Attributes:
        trial: the configuration, as the trial that it was found with.
        loss: mean validation loss over its repeats at `budget`; of the trial itself while there is none.
        runs: the trial itself and its repeats, lowest validation loss first.
        counted: those of them that the mean is over.
        budget: the rung that all this was measured at.
    """

    trial: Trial
    loss: float
    runs: tuple[Trial, ...]
    counted: tuple[Trial, ...]
    budget: int


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """What is known of a study without running it.

    Attributes:
        budgets: the rungs, lowest first.
        defaults: the full default configuration; empty for the study of a function.
        finalists: which trials are repeated at the end; None for none.
        max_trials: how many trials the search starts, if that is limited.
        limits: what else limits the search.
        settings: the config; None for the study of a function.
        manifest: what the study was started with.
        entries: the journal: (sequence number, seconds since the epoch, event).
    """

    directory: Path
    history: History
    budgets: tuple[int, ...]
    defaults: Mapping[str, ParamValue]
    finalists: Finalists | None
    max_trials: int | None
    limits: Limits
    settings: StudyConfig | None
    manifest: Mapping[str, Any]
    entries: Sequence[tuple[int, float, Event]]

    @classmethod
    def open(cls, path: Path) -> StudyRecord:
        """Read the study in a directory, or the one that a config writes to.

        Raises StoreError if there is none, RecordError if it has only just begun, or another version wrote it.
        """
        is_config = path.suffix in (".yaml", ".yml") and not path.is_dir()
        directory = load_config(path).output.directory if is_config else path
        with Store.read_only(directory) as store:
            manifest = store.manifest()
            entries = list(store.events())
        if not manifest:
            raise RecordError(
                f"expected a study that was started in {directory}, got one that is still being prepared, or was "
                "refused then; start it"
            )
        read = _of_function if FUNCTION_KEY in manifest else _of_fine_tuning
        return read(directory, manifest, entries)

    @property
    def config(self) -> StudyConfig:
        """What the study was started with. Raises RecordError for the study of a function."""
        if self.settings is None:
            raise RecordError(
                f"expected a study of fine-tuning in {self.directory}, got one of a Python function; "
                "use thresher.Study for it"
            )
        return self.settings

    @property
    def space(self) -> Space | None:
        """What is searched; None for a study of a version that did not keep it."""
        written = self.manifest.get("plan", {}).get("space")
        return None if written is None else Space.from_dict(written)

    @property
    def seconds(self) -> float:
        """How long the study ran in all its sessions, up to the last entry of its journal."""
        return active_seconds(self.entries)

    def value(self, loss: float) -> float:
        """A loss of the first objective as the value of its metric."""
        return loss if self.history.objectives[0].direction == "minimize" else -loss

    def winner(self) -> Winner:
        """The winner among the finalists; before the full budget is reached, the best of the highest rung.

        Raises RecordError if no trial was measured yet.
        """
        ranked = [] if self.finalists is None else standings(self.history, self.finalists)
        if ranked:
            first = ranked[0]
            order = sorted(range(len(first.runs)), key=lambda place: first.losses[place])
            runs = tuple(first.runs[place] for place in order)
            return Winner(first.trial, first.mean, runs, first.counted, self.history.horizon)
        trial = self.history.best()
        if trial is None:
            failed = [trial.failure for trial in self.history.trials if trial.failure is not None]
            remedy = "let the study run on"
            if failed:
                remedy = f"{len(failed)} failed, the first of them with: {failed[0].message.splitlines()[0]}"
            raise RecordError(f"expected a trial that was measured in {self.directory}, got none; {remedy}")
        loss = self.history.loss(trial.trial_id, trial.budget)
        return Winner(trial, loss, (trial,), (trial,), trial.budget)

    def params(self, trial: Trial) -> dict[str, ParamValue]:
        """A trial's full configuration: what was searched and what was fixed."""
        return {**self.defaults, **trial.params}

    def export(self, destination: Path, *, merged: bool = False) -> Trial:
        """Write the adapter of the winner's best run to a directory; of the next best if its checkpoint is damaged.

        Args:
            merged: write the whole model instead, with the adapter merged into it.

        Returns the run. Raises ExportError, RecordError, or BaseModelError.
        """
        config = self.config
        winner = self.winner()
        run, checkpoint = self._best_checkpoint(winner)
        metric = config.metric
        details = {
            "base_model": config.model.name,
            "trial": winner.trial.trial_id,
            "params": self.params(winner.trial),
            "budget": winner.budget,
            "runs": len(winner.runs),
            f"mean_{metric}": self.value(winner.loss),
            "run": run.trial_id,
            "seed": run.seed,
            metric: run.reports[winner.budget].metrics[metric],
        }
        if merged:
            self._export_merged(checkpoint, destination, details)
        else:
            export_adapter(checkpoint, destination, base_model=config.model.name, details=details)
        return run

    def _best_checkpoint(self, winner: Winner) -> tuple[Trial, Path]:
        checkpoints = CheckpointStore(self.directory / "checkpoints")
        damages = []
        for run in winner.runs:
            checkpoint = checkpoints.path(run.trial_id, "rung", winner.budget)
            try:
                checkpoints.read(checkpoint)
            except CorruptCheckpoint as error:
                damages.append(f"{checkpoint.parent.name}/{checkpoint.name}: {error}")
            else:
                return run, checkpoint
        raise ExportError(
            f"expected a checkpoint of trial {winner.trial.trial_id} at {winner.budget} examples, got none that is "
            f"whole ({'; '.join(damages)}); run a study with the same configuration in another directory"
        )

    def _export_merged(self, checkpoint: Path, destination: Path, details: Mapping[str, Any]) -> None:
        from llm_tuning.merge import export_merged

        model = self.config.model
        directory = resolve_base_model(model.name, revision=model.revision)
        expected, got = self.manifest["surroundings"].get("model"), model_fingerprint(directory)
        if expected != got:
            raise RecordError(
                f"expected the base model that the study was started with (hash {expected}) at {directory}, got "
                f"other files (hash {got}); restore them: an adapter fits no other weights"
            )
        export_merged(
            checkpoint,
            destination,
            model_directory=directory,
            tokenizer_directory=self.directory / "tokenizer",
            base_model=model.name,
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            details=details,
        )


def _of_fine_tuning(
    directory: Path, manifest: Mapping[str, Any], entries: Sequence[tuple[int, float, Event]]
) -> StudyRecord:
    try:
        config = parse_config(manifest["config"])
    except ConfigError as error:
        version = manifest.get("versions", {}).get("thresher", "unknown")
        raise RecordError(
            f"expected a study in {directory} that this version can read, got settings of version {version} "
            f"({str(error).splitlines()[0]}); read it with that version"
        ) from error
    search = config.search
    budgets = tuple(manifest["plan"]["budgets"])
    return StudyRecord(
        directory=directory,
        history=_replay(entries, search.seed, config.objectives, budgets[-1]),
        budgets=budgets,
        defaults=manifest["plan"]["defaults"],
        finalists=Finalists(config.finalists.count, config.finalists.repeats),
        max_trials=search.trials,
        limits=config.limits,
        settings=config,
        manifest=manifest,
        entries=entries,
    )


def _of_function(
    directory: Path, manifest: Mapping[str, Any], entries: Sequence[tuple[int, float, Event]]
) -> StudyRecord:
    function = manifest[FUNCTION_KEY]
    objective = Objective(function["metric"], function["direction"])
    budgets = tuple(function["budgets"])
    return StudyRecord(
        directory=directory,
        history=_replay(entries, function["seed"], (objective,), budgets[-1]),
        budgets=budgets,
        defaults={},
        finalists=function_finalists(manifest["finalists"], manifest["repeats"]),
        max_trials=manifest["trials"],
        limits=Limits(),
        settings=None,
        manifest=manifest,
        entries=entries,
    )


def _replay(
    entries: Sequence[tuple[int, float, Event]], seed: int, objectives: Sequence[Objective], horizon: int
) -> History:
    events = (event for _, _, event in entries)
    return History.replay(events, seed=seed, objectives=objectives, horizon=horizon)
