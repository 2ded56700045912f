"""A study as its directory tells it, for the commands that only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.finalists import Finalists, standings
from controller.history import History
from controller.store import Store
from controller.trial import Objective, Trial
from llm_tuning.checkpoint import CheckpointStore, CorruptCheckpoint
from llm_tuning.export import ExportError, export_adapter
from search_spaces.space import ParamValue
from thresher.config import StudyConfig, load_config, parse_config


class RecordError(ValueError):
    """The study has not come far enough for what was asked."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The configuration that did best, and the runs of it.

    Attributes:
        trial: the configuration, as the trial that it was found with.
        loss: mean validation loss over its runs at `budget`.
        runs: the trial itself and its repeats, lowest validation loss first.
        budget: the rung that all this was measured at.
    """

    trial: Trial
    loss: float
    runs: tuple[Trial, ...]
    budget: int


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """What is known of a study without running it."""

    directory: Path
    config: StudyConfig
    history: History
    defaults: Mapping[str, ParamValue]
    budgets: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> StudyRecord:
        """Read the study in a directory, or the one that a config writes to.

        Raises StoreError if there is none, RecordError if it has only just begun.
        """
        is_config = path.suffix in (".yaml", ".yml") and not path.is_dir()
        directory = load_config(path).output.directory if is_config else path
        with Store.read_only(directory) as store:
            manifest = store.manifest()
            events = [event for _, _, event in store.events()]
        if not manifest:
            raise RecordError(
                f"expected a study that was started in {directory}, got one that is still being prepared, or was "
                "refused then; start it"
            )
        config = parse_config(manifest["config"])
        objective = Objective(config.objective.metric, config.objective.direction)
        history = History.replay(
            events, seed=config.search.seed, objectives=(objective,), horizon=manifest["plan"]["budgets"][-1]
        )
        return cls(directory, config, history, manifest["plan"]["defaults"], tuple(manifest["plan"]["budgets"]))

    def winner(self) -> Winner:
        """The winner among the finalists; before the full budget is reached, the best of the highest rung.

        Raises RecordError if no trial was measured yet.
        """
        finalists = Finalists(self.config.finalists.count, self.config.finalists.repeats)
        ranked = standings(self.history, finalists)
        if ranked:
            first = ranked[0]
            order = sorted(range(len(first.runs)), key=lambda place: first.losses[place])
            return Winner(first.trial, first.mean, tuple(first.runs[place] for place in order), self.history.horizon)
        trial = self.history.best()
        if trial is None:
            failed = [trial.failure for trial in self.history.trials if trial.failure is not None]
            remedy = "let the study run on"
            if failed:
                remedy = f"{len(failed)} failed, the first of them with: {failed[0].message.splitlines()[0]}"
            raise RecordError(f"expected a trial that was measured in {self.directory}, got none; {remedy}")
        return Winner(trial, self.history.loss(trial.trial_id, trial.budget), (trial,), trial.budget)

    def params(self, trial: Trial) -> dict[str, ParamValue]:
        """A trial's full configuration: what was searched and what was fixed."""
        return {**self.defaults, **trial.params}

    def export(self, destination: Path) -> Trial:
        """Write the adapter of the winner's best run to a directory; of the next best if its checkpoint is damaged.

        Returns the run. Raises ExportError or RecordError.
        """
        winner = self.winner()
        checkpoints = CheckpointStore(self.directory / "checkpoints")
        metric, damages = self.config.objective.metric, []
        for run in winner.runs:
            checkpoint = checkpoints.path(run.trial_id, "rung", winner.budget)
            try:
                checkpoints.read(checkpoint)
            except CorruptCheckpoint as error:
                damages.append(f"{checkpoint.parent.name}/{checkpoint.name}: {error}")
                continue
            details = {
                "base_model": self.config.model.name,
                "trial": winner.trial.trial_id,
                "params": self.params(winner.trial),
                "budget": winner.budget,
                "runs": len(winner.runs),
                f"mean_{metric}": winner.loss,
                "run": run.trial_id,
                "seed": run.seed,
                metric: run.reports[winner.budget].metrics[metric],
            }
            export_adapter(checkpoint, destination, base_model=self.config.model.name, details=details)
            return run
        raise ExportError(
            f"expected a checkpoint of trial {winner.trial.trial_id} at {winner.budget} examples, got none that is "
            f"whole ({'; '.join(damages)}); run a study with the same configuration in another directory"
        )
