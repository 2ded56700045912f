"""A study as its directory tells it, for the commands that only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.finalists import Finalists, standings
from controller.history import History
from controller.store import Store
from controller.trial import Objective, Trial
from llm_tuning.checkpoint import CheckpointStore
from llm_tuning.export import ExportError, export_adapter
from search_spaces.space import ParamValue
from thresher.config import StudyConfig, load_config, parse_config


class RecordError(ValueError):
    """The study has not come far enough for what was asked."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The configuration that did best, and the run of it to take home.

    Attributes:
        trial: the configuration, as the trial that it was found with.
        loss: mean validation loss over its runs at `budget`.
        run: the trial itself or that repeat of it whose validation loss is lowest.
        budget: the rung that all this was measured at.
    """

    trial: Trial
    loss: float
    run: Trial
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
        directory = load_config(path).output.directory if path.suffix in (".yaml", ".yml") else path
        with Store.read_only(directory) as store:
            manifest = store.manifest()
            events = [event for _, _, event in store.events()]
        if not manifest:
            raise RecordError(f"expected a study that was started in {directory}, got one still in preparation; wait")
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
            losses = list(first.losses)
            run = first.runs[losses.index(min(losses))]
            return Winner(first.trial, first.mean, run, self.history.horizon)
        trial = self.history.best()
        if trial is None:
            raise RecordError(f"expected a measured trial in {self.directory}, got none yet; let the study run on")
        return Winner(trial, self.history.loss(trial.trial_id, trial.budget), trial, trial.budget)

    def params(self, trial: Trial) -> dict[str, ParamValue]:
        """A trial's full configuration: what was searched and what was fixed."""
        return {**self.defaults, **trial.params}

    def export(self, destination: Path) -> Winner:
        """Write the winner's adapter to a directory. Raises ExportError or RecordError."""
        winner = self.winner()
        checkpoints = CheckpointStore(self.directory / "checkpoints")
        checkpoint = checkpoints.rung(winner.run.trial_id, winner.budget)
        if checkpoint is None:
            raise ExportError(
                f"expected the checkpoint of trial {winner.run.trial_id} at {winner.budget} examples, got none; "
                "run the study again: it trains again what is missing"
            )
        details = {
            "trial": winner.trial.trial_id,
            "run": winner.run.trial_id,
            "seed": winner.run.seed,
            "budget": winner.budget,
            self.config.objective.metric: winner.loss,
            "params": self.params(winner.trial),
            "base_model": self.config.model.name,
        }
        export_adapter(checkpoint, destination, base_model=self.config.model.name, details=details)
        return winner
