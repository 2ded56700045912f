"""Fine-tuning as a Task: what a worker does with a job, from its start state to its report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import torch

from controller.task import Emit, Inbox
from controller.trial import Continue, Failure, Halt, Inherit, Job, Message, Notice, Progress, Report
from llm_tuning.adapters import adapter_config, adapter_weights, load_adapter_weights, lora_attached
from llm_tuning.base_model import load_model, load_tokenizer
from llm_tuning.checkpoint import (
    Checkpoint,
    CheckpointKind,
    CheckpointState,
    CheckpointStore,
    Measurement,
    StorageError,
)
from llm_tuning.data import load_splits
from llm_tuning.evaluate import generate_answers, held_out_scores
from llm_tuning.recipe import METRICS, RECIPE_DEFAULTS, FineTuningSpec, Recipe
from llm_tuning.tokenized_split import TokenizedSplit
from llm_tuning.tracking import TrialTracking, check_trackers
from llm_tuning.train import DivergedError, RankError, Ranks, StepOutcome, Trainer, describe, failure_kind, is_fatal
from search_spaces.space import Params

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_KINDS: Final[tuple[CheckpointKind, ...]] = ("partial", "rung")


class MissingCheckpoint(ValueError):
    """The checkpoint of another trial, from which this one should start, is not there."""


@dataclass(frozen=True, slots=True, eq=False)
class _WarmState:
    """What stays warm from job to job."""

    spec: FineTuningSpec
    ranks: Ranks
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    splits: Mapping[str, TokenizedSplit]
    store: CheckpointStore


@final
class FineTuningTask:
    """Trains and measures LoRA adapters on one base model, one job after the other.

    Every rank of a group runs it with the same jobs; all ranks emit, the first one decides and
    writes the checkpoints.
    """

    def __init__(self, spec: FineTuningSpec) -> None:
        """Load base model, tokenizer and data onto this process's device.

        Raises BaseModelError, DataError, RecipeError, TrackerError or OSError if that is not possible.
        """
        from accelerate import Accelerator
        from transformers.utils import logging

        logging.disable_progress_bar()
        Recipe.from_params(spec.defaults)
        check_trackers(spec.trackers)
        ranks = Ranks(Accelerator(mixed_precision=spec.mixed_precision))
        base = load_model(Path(spec.model_directory), spec.dtype, trust_remote_code=spec.trust_remote_code)
        tokenizer = load_tokenizer(Path(spec.tokenizer_directory), trust_remote_code=spec.trust_remote_code)
        splits = load_splits(Path(spec.data_directory)).splits
        store = CheckpointStore(Path(spec.checkpoint_directory))
        self._place = _WarmState(spec, ranks, base.to(ranks.accelerator.device), tokenizer, splits, store)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> FineTuningTask:
        """The task of a specification that came as JSON. Raises as the constructor and `FineTuningSpec.from_dict`."""
        return cls(FineTuningSpec.from_dict(spec))

    def run(self, inbox: Inbox, emit: Emit) -> None:
        """Take job after job until the inbox is closed or asks to stop.

        A job that fails is reported as a Failure and leaves the worker as it was before. Only an
        error after which this process can train nothing any more is raised.
        """
        while (job := inbox.get()) is not None:
            message = self._serve(job, inbox, emit)
            if message is not None:
                emit(message)
            if message is None or isinstance(message, Halt):
                return

    def _serve(self, job: Job, inbox: Inbox, emit: Emit) -> Message | None:
        """The last message about a job; None if it was stopped."""
        run = _JobRun(self._place, job, inbox, emit)
        try:
            return run.execute()
        except StorageError as error:
            return Halt(str(error), job.job_id)
        except Exception as error:
            if is_fatal(error):
                raise
            if isinstance(error, RankError) and error.kind is None:
                return Halt(str(error), job.job_id)
            failure = Failure(job.job_id, failure_kind(error), describe(error), run.examples, run.seconds)
            run.tracking.fail(failure.kind, run.examples)
            # The exception holds the frames of the failed call, and these hold its tensors.
            traceback.clear_frames(error.__traceback__)
        finally:
            run.tracking.finish()
        self._place.ranks.accelerator.free_memory()
        return failure


@dataclass(slots=True)
class _Stretch:
    """The running sums of a stretch from one rung to the next.

    `seconds`: wall-clock cost of earlier attempts.
    """

    nats: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def count(self, outcome: StepOutcome) -> None:
        self.nats += outcome.nats
        self.tokens += outcome.tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """Where a job starts: a checkpoint, if any, of which everything is taken over, or the weights only."""

    checkpoint: Checkpoint | None = None
    weights_only: bool = False
    notes: tuple[str, ...] = ()


@final
class _JobRun:
    """One attempt at one job.

    Attributes:
        examples: training examples that the trial has seen, as far as known.
        tracking: its runs in the trackers, to be finished by the caller.
    """

    def __init__(self, place: _WarmState, job: Job, inbox: Inbox, emit: Emit) -> None:
        self.examples = 0
        self._place = place
        self._ranks = place.ranks
        self._store = place.store
        self._job = job
        self._inbox = inbox
        self._emit = emit
        self._params: Params = {**RECIPE_DEFAULTS, **place.spec.defaults, **job.params}
        self._stretch = _Stretch()
        self._loss: float | None = None
        self._started = self._saved = time.monotonic()
        spec = place.spec
        self.tracking = TrialTracking(
            spec.trackers if self._ranks.is_first else (),
            spec.tracking_project,
            Path(spec.tracking_directory or ""),
            job.trial_id,
            on_failure=lambda text: emit(Notice(job.job_id, text)),
        )

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this attempt."""
        return time.monotonic() - self._started

    def execute(self) -> Report | None:
        """Train to the rung if the trial is not there yet, then measure. None: asked to stop before the end."""
        job, spec = self._job, self._place.spec
        recipe = self._ranks.together(lambda: Recipe.from_params(self._params))
        self._progress("load")
        start = self._find_start()
        for note in start.notes:
            self._emit(Notice(job.job_id, note))
        found = start.checkpoint
        if found is not None and not start.weights_only:
            self._take_over(found)
            if self._is_goal(found) and found.measurement is not None and job.split == "validation":
                return Report(job.job_id, self.examples, found.measurement.metrics, found.measurement.seconds)
        self.tracking.start({**self._params, "seed": job.seed}, self.examples)
        with ExitStack() as stack:
            attached = lora_attached(
                self._place.base,
                recipe,
                job.seed,
                spec.lora_targets,
                gradient_checkpointing=spec.gradient_checkpointing,
            )
            model: PeftModel = self._ranks.together(lambda: stack.enter_context(attached))
            if found is not None:
                weights = found.adapter
                self._ranks.together(lambda: load_adapter_weights(model, weights))
            if self.examples < job.to_budget and not self._train(model, recipe, start):
                return None
            return self._measure(model)

    # --- where to start -------------------------------------------------------------------------

    def _find_start(self) -> _Start:
        """The start state, chosen by the first rank; the others read the same checkpoint."""
        start = self._ranks.together(lambda: self._choose_start() if self._ranks.is_first else _Start())
        if self._ranks.count == 1:
            return start
        choice = (0.0, 0.0, 0.0, 0.0)
        if start.checkpoint is not None:
            state = start.checkpoint.state
            choice = (1 + _KINDS.index(state.kind), state.trial_id, state.budget, start.weights_only)
        kind, trial_id, budget, weights_only = map(int, self._ranks.meet(None, *choice))
        if not kind:
            return start
        path = self._store.path(trial_id, _KINDS[kind - 1], budget)
        found = self._ranks.together(lambda: start.checkpoint or self._store.read(path))
        return _Start(found, bool(weights_only), start.notes)

    def _choose_start(self) -> _Start:
        job = self._job
        newest = self._store.newest(job.trial_id, job.to_budget)
        own, notes = newest.checkpoint, newest.notes
        if own is not None and not self._is_of_this_trial(own.state):
            notes += (f"checkpoint of trial {job.trial_id} at {own.state.budget} has other settings or data: ignored",)
            own = None
        if own is not None:
            if own.state.examples < job.from_budget:
                notes += (self._trained_again(own.state.examples),)
            return _Start(own, notes=notes)
        match job.source:
            case Continue(trial_id, budget) if trial_id != job.trial_id:
                return _Start(self._rung_of(trial_id, budget), notes=notes)
            case Inherit(trial_id, budget):
                return _Start(self._rung_of(trial_id, budget), weights_only=True, notes=notes)
        if job.from_budget > 0:
            notes += (self._trained_again(0),)
        return _Start(notes=notes)

    def _trained_again(self, examples: int) -> str:
        job = self._job
        return f"checkpoint of trial {job.trial_id} at {job.from_budget} is missing: trained again from {examples}"

    def _is_of_this_trial(self, state: CheckpointState) -> bool:
        expected = (self._params, self._job.seed, self._job.horizon, self._place.splits["train"].fingerprint)
        return (state.params, state.seed, state.horizon, state.data) == expected

    def _rung_of(self, trial_id: int, budget: int) -> Checkpoint:
        found = self._store.rung(trial_id, budget)
        if found.checkpoint is None:
            reason = "; ".join(found.notes) or "there is none"
            raise MissingCheckpoint(
                f"expected the checkpoint of trial {trial_id} at {budget} to start from, got: {reason}; "
                "keep the checkpoints that other trials start from"
            )
        return found.checkpoint

    def _is_goal(self, checkpoint: Checkpoint) -> bool:
        """Whether it is the rung that this job should reach."""
        state = checkpoint.state
        goal = ("rung", self._job.trial_id, self._job.to_budget)
        return (state.kind, state.trial_id, state.budget) == goal

    def _take_over(self, checkpoint: Checkpoint) -> None:
        """Count from where the checkpoint was made; its running sums too if it belongs to this very stretch."""
        state, job = checkpoint.state, self._job
        self.examples = state.examples
        if state.trial_id != job.trial_id:
            return
        if state.stretch_from == job.from_budget or job.from_budget == job.to_budget:
            self._stretch.nats, self._stretch.tokens = state.stretch_nats, state.stretch_tokens
        if state.stretch_from == job.from_budget:
            self._stretch.seconds = state.stretch_seconds

    # --- training -------------------------------------------------------------------------------

    def _train(self, model: PeftModel, recipe: Recipe, start: _Start) -> bool:
        """Train to the rung and leave a checkpoint there. False: asked to stop; a checkpoint was left on the way."""
        job = self._job
        trainer = self._ranks.together(lambda: self._trainer(model, recipe, start))
        saved_examples = trainer.examples
        while trainer.examples < job.to_budget:
            position = trainer.examples
            outcome = trainer.step(
                stop=lambda: self._inbox.stopping,
                save=time.monotonic() - self._saved >= self._place.spec.save_every_seconds,
                on_micro_batch=lambda: self._progress("train"),
            )
            if outcome is None:
                if trainer.examples > saved_examples:
                    self._save("partial", trainer.examples, trainer, model)
                return False
            if position >= job.from_budget:  # not what is only trained again
                self._stretch.count(outcome)
            self.examples, self._loss = trainer.examples, outcome.loss
            self._track(outcome)
            self._progress("train")
            if outcome.save and trainer.examples < job.to_budget:
                self._save("partial", trainer.examples, trainer, model)
                saved_examples = trainer.examples
        self._save("rung", job.to_budget, trainer, model)
        return True

    def _track(self, outcome: StepOutcome) -> None:
        values = {
            "training/loss": outcome.loss,
            "training/learning_rate": outcome.learning_rate,
            "training/gradient_norm": outcome.gradient_norm,
        }
        self.tracking.log(values, self.examples)

    def _trainer(self, model: PeftModel, recipe: Recipe, start: _Start) -> Trainer:
        job, spec = self._job, self._place.spec
        train = self._place.splits["train"]
        trainer = Trainer(self._ranks, model, recipe, job.seed, job.horizon, train, spec.micro_batch_size)
        if start.checkpoint is not None and not start.weights_only:
            state = start.checkpoint.state
            trainer.resume(state.examples, state.steps, start.checkpoint.optimizer, state.loss_scale)
        return trainer

    def _save(self, kind: CheckpointKind, budget: int, trainer: Trainer, model: PeftModel) -> None:
        """Write a checkpoint on the first rank, and drop those on the way that it makes superfluous."""
        self._progress("save")
        self._ranks.together(lambda: self._write(kind, budget, trainer, model) if self._ranks.is_first else None)
        self._saved = time.monotonic()

    def _write(self, kind: CheckpointKind, budget: int, trainer: Trainer, model: PeftModel) -> None:
        job, stretch = self._job, self._stretch
        state = CheckpointState(
            trial_id=job.trial_id,
            kind=kind,
            budget=budget,
            examples=trainer.examples,
            steps=trainer.steps,
            params=self._params,
            seed=job.seed,
            horizon=job.horizon,
            data=self._place.splits["train"].fingerprint,
            stretch_from=job.from_budget,
            stretch_nats=stretch.nats,
            stretch_tokens=stretch.tokens,
            stretch_seconds=stretch.seconds + self.seconds,
            loss_scale=trainer.loss_scale,
        )
        self._store.write(state, adapter_weights(model), adapter_config(model), trainer.optimizer_tensors())
        self._store.discard(job.trial_id, "partial", below=budget if kind == "partial" else None)

    # --- measuring ------------------------------------------------------------------------------

    def _measure(self, model: PeftModel) -> Report | None:
        """Measure on the job's split; what was measured on validation is kept with the rung."""
        job, spec = self._job, self._place.spec
        split = self._place.splits[job.split]
        self._progress("evaluate")
        scores = held_out_scores(
            model,
            split,
            self._ranks,
            spec.evaluation_batch_size,
            stop=lambda: self._inbox.stopping,
            on_batch=lambda: self._progress("evaluate"),
        )
        if scores is None:
            return None
        metrics = scores.metrics()
        if job.split == "test":
            metrics = {METRICS.get(name, name): value for name, value in metrics.items()}
        if self._stretch.tokens:
            metrics["train_loss"] = self._stretch.nats / self._stretch.tokens
        if not torch.tensor(list(metrics.values())).isfinite().all():
            raise DivergedError(
                f"expected a finite loss, got {metrics} at {self.examples} examples; lower optimizer.learning_rate"
            )
        self.tracking.log(metrics, self.examples)
        if job.split == "validation":
            seconds = self._stretch.seconds + self.seconds
            self._ranks.together(lambda: self._record(Measurement(metrics, seconds)) if self._ranks.is_first else None)
            return Report(job.job_id, self.examples, metrics, seconds)
        answers = generate_answers(
            model,
            self._place.tokenizer,
            split,
            self._ranks,
            spec.generations,
            spec.max_new_tokens,
            on_answer=lambda: self._progress("evaluate"),
        )
        seconds = self._stretch.seconds + self.seconds
        return Report(job.job_id, self.examples, metrics, seconds, scores.per_example(spec.metric), answers)

    def _record(self, measurement: Measurement) -> None:
        path = self._store.path(self._job.trial_id, "rung", self._job.to_budget)
        if path.is_dir():  # at budget 0 there is none
            self._store.record(path, measurement)

    def _progress(self, phase: str) -> None:
        self._emit(Progress(self._job.job_id, self.examples, phase, self._loss))
