from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controller.trial import (
    Continue,
    Failure,
    FailureKind,
    Halt,
    Inherit,
    Job,
    Message,
    Notice,
    Progress,
    Report,
)
from llm_tuning.batches import example_indices
from llm_tuning.checkpoint import Checkpoint, CheckpointState, CheckpointStore
from llm_tuning.recipe import FineTuningSpec, Recipe, RecipeError
from llm_tuning.rows import DataError
from llm_tuning.schedule import learning_rate
from llm_tuning.task import FineTuningTask
from llm_tuning.tokenized_split import TokenizedSplit
from llm_tuning.tracking import TrackerError

REPOSITORY = Path(__file__).parents[2]

Changes = dict[str, Any]

PARAMS = {"schedule.kind": "cosine", "optimizer.batch_size": 6, "optimizer.learning_rate": 0.01}
"""What decides the learning rate of the jobs here."""


def job_of(from_budget: int, to_budget: int, **changes: Any) -> Job:
    """A job of trial 7 with a horizon of 90 examples, 15 steps of 6."""
    numbered = {"job_id": changes.pop("job_id", 1), "trial_id": changes.pop("trial_id", 7)}
    entries = {"params": {"schedule.kind": "cosine"}, "seed": 3, "horizon": 90, **changes}
    return Job(**numbered, from_budget=from_budget, to_budget=to_budget, **entries)


@pytest.fixture(scope="module")
def serve(make_desk: Any) -> Callable[..., list[Message]]:
    """Gives jobs to a task, a fresh one unless another is given; all that it emits."""

    def serve(
        spec: FineTuningSpec,
        *jobs: Job,
        task: FineTuningTask | None = None,
        stop_when: Callable[[list[Message]], bool] = lambda messages: False,
    ) -> list[Message]:
        desk = make_desk(jobs, stop_when)
        (task or FineTuningTask(spec)).run(desk, desk.emit)
        return desk.messages

    return serve


@pytest.fixture(scope="module")
def straight(make_spec: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuningSpec, Report]:
    """The uninterrupted run to 90 examples, by a fresh worker."""
    spec = make_spec(tmp_path_factory.mktemp("straight"))
    return spec, the_report(serve(spec, job_of(0, 90)))


@pytest.fixture
def elsewhere(make_spec: Any, tmp_path: Path) -> Callable[[str], FineTuningSpec]:
    """The same study with checkpoints in another place."""
    return lambda name: make_spec(tmp_path / name)


def of_type(messages: Sequence[Message], kind: type[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def the_report(messages: Sequence[Message]) -> Report:
    assert of_type(messages, Failure) == []
    (report,) = of_type(messages, Report)
    return report


def phases(messages: Sequence[Message]) -> list[str]:
    """The phases of a job, each stretch of the same one once."""
    names = [message.phase for message in of_type(messages, Progress)]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def checkpoint_of(spec: FineTuningSpec, trial_id: int, budget: int) -> Checkpoint:
    found = CheckpointStore(Path(spec.checkpoint_directory)).rung(trial_id, budget)
    assert found.checkpoint is not None
    return found.checkpoint


def names_of(spec: FineTuningSpec, trial_id: int = 7) -> list[str]:
    return sorted(path.name for path in Path(spec.checkpoint_directory, f"trial-{trial_id:04d}").glob("*"))


def essence(checkpoint: Checkpoint) -> tuple[dict[str, bytes], CheckpointState]:
    """Weights and optimizer byte by byte, and the state without times."""
    tensors = {**checkpoint.adapter, **{f"optimizer.{name}": tensor for name, tensor in checkpoint.optimizer.items()}}
    timeless = replace(checkpoint.state, stretch_seconds=0.0)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, timeless


def assert_same_rung(first: Checkpoint, second: Checkpoint, *, same_stretch: bool = True) -> None:
    tensors, state = essence(first)
    others, other = essence(second)
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if tensors[name] != others[name]] == []
    if not same_stretch:
        state = replace(state, stretch_from=0, stretch_nats=0.0, stretch_tokens=0)
        other = replace(other, stretch_from=0, stretch_nats=0.0, stretch_tokens=0)
    assert state == other


def split_of(spec: FineTuningSpec, name: str) -> TokenizedSplit:
    return TokenizedSplit.load(Path(spec.data_directory) / f"{name}.safetensors")


def corrupt(spec: FineTuningSpec, name: str, trial_id: int = 7) -> None:
    file = Path(spec.checkpoint_directory, f"trial-{trial_id:04d}", name, "adapter_model.safetensors")
    file.write_bytes(file.read_bytes()[:-1])


def after_steps(count: int) -> Callable[[list[Message]], bool]:
    """Ask to stop once `count` optimizer steps were seen."""

    def reached(messages: list[Message]) -> bool:
        return len({message.budget for message in of_type(messages, Progress) if message.loss is not None}) >= count

    return reached


class TestAWholeJob:
    def test_it_trains_evaluates_and_reports(self, spec: FineTuningSpec, serve: Any) -> None:
        messages = serve(spec, job_of(0, 32))
        assert phases(messages) == ["load", "train", "save", "evaluate"]
        report = the_report(messages)
        assert isinstance(messages[-1], Report)
        assert (report.job_id, report.budget) == (1, 36)  # the first step at or past 32
        measured = {"validation_loss", "token_accuracy", "exact_match", "train_loss", "learnt_tokens"}
        assert set(report.metrics) == measured
        assert (report.per_example, report.generations) == ((), ())
        steps = {message.budget: message.loss for message in of_type(messages, Progress) if message.phase == "save"}
        assert steps == {36: of_type(messages, Progress)[-1].loss}
        assert names_of(spec) == ["rung-000000032"]
        checkpoint = checkpoint_of(spec, 7, 32)
        assert (checkpoint.state.examples, checkpoint.state.steps) == (36, 6)
        assert checkpoint.state.params["lora.rank"] == 4
        assert checkpoint.state.params["schedule.kind"] == "cosine"
        assert checkpoint.measurement is not None
        assert checkpoint.measurement.metrics == report.metrics
        assert report.seconds == checkpoint.measurement.seconds > checkpoint.state.stretch_seconds > 0

    def test_training_lowers_both_losses(self, spec: FineTuningSpec, serve: Any) -> None:
        before = the_report(serve(spec, job_of(0, 0, trial_id=8)))
        report = the_report(serve(spec, job_of(0, 90)))
        assert report.metrics["validation_loss"] < 0.9 * before.metrics["validation_loss"]
        assert report.metrics["train_loss"] < 0.9 * before.metrics["validation_loss"]

    def test_budget_zero_measures_the_base_model(self, spec: FineTuningSpec, serve: Any, base: Any) -> None:
        report = the_report(serve(spec, job_of(0, 0)))
        split = split_of(spec, "validation")
        nats = tokens = hits = exact = 0.0
        for index in range(len(split)):
            ids = torch.from_numpy(split.tokens(index).astype(np.int64))[None]
            labels = ids.clone()
            labels[0, : len(split.prompt(index))] = -100
            with torch.no_grad():
                output = base(input_ids=ids, labels=labels)
            nats += float(output.loss) * len(split.answer(index))
            is_hit = output.logits[0, :-1].argmax(-1) == labels[0, 1:]
            hits += int(is_hit.sum())
            exact += int(is_hit.sum()) == len(split.answer(index))
            tokens += len(split.answer(index))
        assert report.metrics == {
            "validation_loss": pytest.approx(nats / tokens, rel=1e-5),
            "token_accuracy": hits / tokens,
            "exact_match": exact / len(split),
            "learnt_tokens": tokens,
        }
        assert report.budget == 0
        assert names_of(spec) == []

    def test_a_test_job_measures_example_by_example_and_changes_no_checkpoint(
        self, spec: FineTuningSpec, serve: Any
    ) -> None:
        serve(spec, job_of(0, 30))
        root = Path(spec.checkpoint_directory)
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        report = the_report(serve(spec, job_of(30, 30, split="test")))
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
        assert report.budget == 30
        values, weights = zip(*report.per_example, strict=True)
        assert len(values) == 7
        assert np.average(values, weights=weights) == pytest.approx(report.metrics["test_loss"], rel=1e-12)
        assert sum(weights) == report.metrics["learnt_tokens"]
        measured = {"test_loss", "test_token_accuracy", "test_exact_match", "train_loss", "learnt_tokens"}
        assert set(report.metrics) == measured
        assert len(report.generations) == 2
        again = the_report(serve(spec, job_of(30, 30, split="test")))
        assert replace(again, seconds=0.0) == replace(report, seconds=0.0)
        of_base = the_report(serve(spec, job_of(0, 0, split="test", trial_id=8)))
        assert of_base.metrics["test_loss"] != report.metrics["test_loss"]

    @pytest.mark.parametrize("metric", ["token_accuracy", "exact_match"])
    def test_the_metric_of_the_study_is_the_one_told_by_example(
        self, straight: tuple[FineTuningSpec, Report], serve: Any, metric: str
    ) -> None:
        spec = replace(straight[0], metric=metric)
        report = the_report(serve(spec, job_of(90, 90, split="test")))
        values, weights = zip(*report.per_example, strict=True)
        assert np.average(values, weights=weights) == pytest.approx(report.metrics[f"test_{metric}"], rel=1e-12)
        assert report.metrics["test_token_accuracy"] > 0

    def test_the_base_model_is_the_same_after_as_before(self, spec: FineTuningSpec, serve: Any) -> None:
        task = FineTuningTask(spec)
        base = task._place.base
        before = {name: weight.numpy().tobytes() for name, weight in base.state_dict().items()}
        serve(spec, job_of(0, 30), task=task)
        assert {name: weight.numpy().tobytes() for name, weight in base.state_dict().items()} == before

    def test_gradient_checkpointing_and_a_smaller_micro_batch_give_nearly_the_same(
        self, straight: Any, elsewhere: Any, serve: Any
    ) -> None:
        params = {"schedule.kind": "cosine", "lora.dropout": 0.0}
        plain = the_report(serve(elsewhere("plain"), job_of(0, 30, params=params)))
        spec = replace(elsewhere("thrifty"), gradient_checkpointing=True, micro_batch_size=2)
        thrifty = the_report(serve(spec, job_of(0, 30, params=params)))
        assert thrifty.metrics == pytest.approx(plain.metrics, rel=1e-5)


def tracked_scalars(spec: FineTuningSpec, name: str, trial_id: int = 7) -> dict[int, float]:
    """The values of one name in the event files of a trial, by number of examples."""
    return {event.step: event.value for event in tracked_events(spec, trial_id).Scalars(name)}


def tracked_events(spec: FineTuningSpec, trial_id: int = 7) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{spec.tracking_directory}/tensorboard/trial-{trial_id:05d}")
    events.Reload()
    return events


class TestTracking:
    @pytest.fixture
    def tracked(self, spec: FineTuningSpec, tmp_path: Path) -> FineTuningSpec:
        return replace(spec, trackers=("tensorboard",), tracking_directory=str(tmp_path / "tracking"))

    def test_a_trial_is_one_run_over_all_its_jobs_and_trains_the_same(
        self, tracked: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any
    ) -> None:
        jobs = [
            job_of(0, 30),
            job_of(30, 90, job_id=2, source=Continue(7, 30)),
            job_of(90, 90, job_id=3, split="test"),
        ]
        messages = serve(tracked, *jobs)
        assert of_type(messages, Notice | Failure) == []
        first, last, test = of_type(messages, Report)
        assert_same_rung(checkpoint_of(tracked, 7, 90), checkpoint_of(straight[0], 7, 90), same_stretch=False)
        assert last.metrics["validation_loss"] == straight[1].metrics["validation_loss"]
        losses = {message.budget: message.loss for message in of_type(messages, Progress) if message.phase == "save"}
        shown = tracked_scalars(tracked, "training/loss")
        assert {examples: shown[examples] for examples in losses} == pytest.approx(losses)
        assert list(shown) == list(tracked_scalars(tracked, "training/gradient_norm")) == list(range(6, 96, 6))
        rates = tracked_scalars(tracked, "training/learning_rate")
        assert rates[90] == pytest.approx(learning_rate(Recipe.from_params(PARAMS), 14, 90))
        for name in ("validation_loss", "token_accuracy", "exact_match", "train_loss"):
            expected = {30: first.metrics[name], 90: last.metrics[name]}
            assert tracked_scalars(tracked, name) == pytest.approx(expected)
        assert tracked_scalars(tracked, "test_loss") == {90: pytest.approx(test.metrics["test_loss"])}

    def test_a_job_that_is_stopped_leaves_its_run_for_the_next(self, tracked: FineTuningSpec, serve: Any) -> None:
        serve(tracked, job_of(0, 30), stop_when=after_steps(2))
        serve(tracked, job_of(0, 30))
        assert list(tracked_scalars(tracked, "training/loss")) == [6, 12, 18, 24, 30]

    def test_a_failure_is_recorded(self, tracked: FineTuningSpec, serve: Any, disturb: Any) -> None:
        disturb(4, run_out_of_memory)
        messages = serve(tracked, job_of(0, 30), job_of(0, 12, job_id=2, trial_id=8))
        assert len(of_type(messages, Failure)) == len(of_type(messages, Report)) == 1
        (event,) = tracked_events(tracked).Tensors("failure/text_summary")
        assert (event.step, list(event.tensor_proto.string_val)) == (6, [b"oom"])
        assert list(tracked_scalars(tracked, "training/loss", trial_id=8)) == [6, 12]

    def test_a_tracker_that_fails_is_a_notice_and_no_more(
        self, tracked: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "tracking").write_text("a file where the directory should be")
        messages = serve(tracked, job_of(0, 90))
        (notice,) = of_type(messages, Notice)
        assert notice.job_id == 1
        assert notice.text.startswith("tracker tensorboard failed and records nothing more of this job: FileExistsErr")
        assert replace(the_report(messages), seconds=0.0) == replace(straight[1], seconds=0.0)

    def test_one_that_is_not_installed_is_told_at_once(self, tracked: FineTuningSpec, monkeypatch: Any) -> None:
        monkeypatch.setattr(sys, "path", [])
        with pytest.raises(TrackerError, match="pip install mlflow"):
            FineTuningTask(replace(tracked, trackers=("mlflow",)))


class TestPauseAndResume:
    @pytest.mark.parametrize("schedule", ["cosine", "wsd"])
    def test_30_then_90_equals_straight_to_90_bit_for_bit(self, elsewhere: Any, serve: Any, schedule: str) -> None:
        """With dropout, over three ends of an epoch (25 examples), each stretch with a task of its own."""
        params = {"schedule.kind": schedule, "optimizer.weight_decay": 0.1}
        straight, paused = elsewhere("straight"), elsewhere("paused")
        expected = the_report(serve(straight, job_of(0, 90, params=params)))
        first = the_report(serve(paused, job_of(0, 30, params=params)))
        torch.manual_seed(12345)
        resumed = job_of(30, 90, params=params, source=Continue(7, 30))
        second = the_report(serve(paused, resumed))
        assert_same_rung(checkpoint_of(paused, 7, 90), checkpoint_of(straight, 7, 90), same_stretch=False)
        assert second.metrics["validation_loss"] == expected.metrics["validation_loss"]
        assert first.metrics["validation_loss"] != expected.metrics["validation_loss"]
        rungs = [checkpoint_of(paused, 7, budget).state for budget in (30, 90)]
        whole = checkpoint_of(straight, 7, 90).state
        assert sum(state.stretch_tokens for state in rungs) == whole.stretch_tokens
        assert sum(state.stretch_nats for state in rungs) == pytest.approx(whole.stretch_nats)
        assert second.metrics["train_loss"] == rungs[1].stretch_nats / rungs[1].stretch_tokens

    @pytest.mark.parametrize("steps", [1, 7, 14])
    def test_stopped_between_rungs_and_started_again(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any, steps: int
    ) -> None:
        messages = serve(spec, job_of(0, 90), job_of(0, 90, job_id=2, trial_id=8), stop_when=after_steps(steps))
        assert of_type(messages, Report | Failure) == []
        assert names_of(spec) == [f"partial-{6 * steps:09d}"]
        assert names_of(spec, trial_id=8) == []
        messages = serve(spec, job_of(0, 90))
        assert of_type(messages, Notice) == []
        assert min(message.budget for message in of_type(messages, Progress) if message.phase == "train") == 6 * steps
        assert replace(the_report(messages), seconds=0.0) == replace(straight[1], seconds=0.0)
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90))
        assert names_of(spec) == ["rung-000000090"]

    def test_saved_on_the_way_and_killed(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any, monkeypatch: Any
    ) -> None:
        class Killed(BaseException):
            pass

        def kill(messages: list[Message]) -> bool:
            if after_steps(8)(messages):
                raise Killed
            return False

        often = replace(spec, save_every_seconds=0.0)
        with pytest.raises(Killed):
            serve(often, job_of(0, 90), stop_when=kill)
        assert names_of(spec) == ["partial-000000048"]  # one at a time is kept
        report = the_report(serve(often, job_of(0, 90)))
        assert replace(report, seconds=0.0) == replace(straight[1], seconds=0.0)
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90))
        assert names_of(spec) == ["rung-000000090"]

    def test_seconds_of_earlier_attempts_count(self, spec: FineTuningSpec, serve: Any) -> None:
        serve(spec, job_of(0, 90), stop_when=after_steps(3))
        store = CheckpointStore(Path(spec.checkpoint_directory))
        partial = store.newest(7, 90).checkpoint
        assert partial is not None
        assert partial.state.stretch_seconds > 0
        slow = replace(partial.state, stretch_seconds=1000.0)
        settings = json.loads((partial.path / "adapter_config.json").read_text())
        store.write(slow, partial.adapter, settings, partial.optimizer)
        report = the_report(serve(spec, job_of(0, 60)))
        assert 1000 < report.seconds < 1100
        assert the_report(serve(spec, job_of(60, 90))).seconds < 100

    def test_what_is_measured_is_reported_again_without_work(self, spec: FineTuningSpec, serve: Any) -> None:
        report = the_report(serve(spec, job_of(0, 32)))
        messages = serve(spec, job_of(0, 32, job_id=9))
        assert phases(messages) == ["load"]
        assert the_report(messages) == replace(report, job_id=9)
        assert report.budget == 36  # what was really consumed, both times

    def test_stopped_while_evaluating_only_that_is_repeated(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any
    ) -> None:
        messages = serve(spec, job_of(0, 90), stop_when=lambda messages: phases(messages)[-1:] == ["evaluate"])
        assert of_type(messages, Report | Failure) == []
        assert names_of(spec) == ["rung-000000090"]
        messages = serve(spec, job_of(0, 90))
        assert phases(messages) == ["load", "evaluate"]
        assert replace(the_report(messages), seconds=0.0) == replace(straight[1], seconds=0.0)

    def test_in_another_process(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any, tmp_path: Path
    ) -> None:
        ((first,),) = in_processes(tmp_path, spec, [[job_of(0, 30)]])
        assert first["budget"] == 30
        second = the_report(serve(spec, job_of(30, 90, source=Continue(7, 30))))
        assert second.metrics["validation_loss"] == straight[1].metrics["validation_loss"]
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90), same_stretch=False)


class TestWhatIsMissing:
    def test_a_damaged_rung_falls_back_to_the_one_before(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any
    ) -> None:
        serve(spec, job_of(0, 32), job_of(32, 60, source=Continue(7, 32)))
        corrupt(spec, "rung-000000060")
        messages = serve(spec, job_of(60, 90, source=Continue(7, 60)))
        notes = [notice.text for notice in of_type(messages, Notice)]
        assert len(notes) == 2
        assert notes[0].startswith("checkpoint of trial 7 at 60 is damaged (adapter_model.safetensors: ")
        assert notes[1] == "checkpoint of trial 7 at 60 is missing: trained again from 36"
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90), same_stretch=False)
        assert checkpoint_of(spec, 7, 90).state.stretch_tokens == of_stretch(spec, 60, 90)
        assert the_report(messages).metrics["validation_loss"] == straight[1].metrics["validation_loss"]

    def test_nothing_left_means_trained_again(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any
    ) -> None:
        messages = serve(spec, job_of(30, 90, source=Continue(7, 30)))
        assert [notice.text for notice in of_type(messages, Notice)] == [
            "checkpoint of trial 7 at 30 is missing: trained again from 0"
        ]
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90), same_stretch=False)

    def test_a_rung_to_be_tested_is_trained_again(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any
    ) -> None:
        expected = the_report(serve(straight[0], job_of(90, 90, split="test")))
        messages = serve(spec, job_of(90, 90, split="test"))
        assert len(of_type(messages, Notice)) == 1
        report = the_report(messages)
        assert report.metrics["test_loss"] == expected.metrics["test_loss"]
        assert report.generations == expected.generations

    @pytest.mark.parametrize("change", [{"seed": 4}, {"params": {"schedule.kind": "linear"}}, {"horizon": 60}])
    def test_a_checkpoint_of_other_settings_is_not_used(
        self, spec: FineTuningSpec, elsewhere: Any, serve: Any, change: Changes
    ) -> None:
        serve(spec, job_of(0, 30))
        messages = serve(spec, job_of(0, 30, **change))
        assert [notice.text for notice in of_type(messages, Notice)] == [
            "checkpoint of trial 7 at 30 has other settings or data: ignored"
        ]
        serve(elsewhere("clean"), job_of(0, 30, **change))
        assert_same_rung(checkpoint_of(spec, 7, 30), checkpoint_of(elsewhere("clean"), 7, 30))


def of_stretch(spec: FineTuningSpec, start: int, end: int) -> int:
    """The learnt tokens of the training examples from one budget to another."""
    split = split_of(spec, "train")
    return int(split.learnt_counts[example_indices(3, start, end - start, len(split))].sum())


class TestHandingOn:
    def test_continue_takes_everything_from_another_trial(
        self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any
    ) -> None:
        """The same params and seed, so that going on under another number changes nothing."""
        serve(spec, job_of(0, 30))
        handed_on = job_of(30, 90, trial_id=8, source=Continue(7, 30))
        report = the_report(serve(spec, handed_on))
        assert report.metrics["validation_loss"] == straight[1].metrics["validation_loss"]
        state = checkpoint_of(spec, 8, 90).state
        assert (state.examples, state.steps) == (90, 15)
        assert names_of(spec) == ["rung-000000030"]

    def test_continue_with_other_hyperparameters(self, spec: FineTuningSpec, serve: Any) -> None:
        serve(spec, job_of(0, 30))
        changed = {"schedule.kind": "cosine", "optimizer.learning_rate": 0.002, "optimizer.batch_size": 10}
        report = the_report(serve(spec, job_of(30, 60, trial_id=8, params=changed, source=Continue(7, 30))))
        assert report.budget == 60
        parent, child = checkpoint_of(spec, 7, 30), checkpoint_of(spec, 8, 60)
        assert child.state.steps == parent.state.steps + 3
        steps = [float(tensor) for name, tensor in child.optimizer.items() if name.endswith(".step")]
        assert set(steps) == {8.0}  # the optimizer went on

    def test_inherit_takes_the_weights_only(self, spec: FineTuningSpec, serve: Any) -> None:
        serve(spec, job_of(0, 30))
        inherits = {"trial_id": 8, "seed": 5, "source": Inherit(7, 30)}
        start = the_report(serve(spec, job_of(0, 0, **inherits)))
        parent = checkpoint_of(spec, 7, 30)
        assert parent.measurement is not None
        assert start.metrics["validation_loss"] == parent.measurement.metrics["validation_loss"]
        assert start.budget == 0
        report = the_report(serve(spec, job_of(0, 18, **inherits)))
        assert report.budget == 18
        child = checkpoint_of(spec, 8, 18)
        assert (child.state.examples, child.state.steps, child.state.stretch_tokens > 0) == (18, 3, True)
        steps = [float(tensor) for name, tensor in child.optimizer.items() if name.endswith(".step")]
        assert set(steps) == {3.0}

    @pytest.mark.parametrize("source", [Continue(9, 30), Inherit(9, 30)])
    def test_a_missing_parent_is_a_failure(self, spec: FineTuningSpec, serve: Any, source: Any) -> None:
        from_budget = 30 if isinstance(source, Continue) else 0
        (failure,) = of_type(serve(spec, job_of(from_budget, 60, source=source)), Failure)
        assert failure.kind is FailureKind.CRASH
        assert "expected the checkpoint of trial 9 at 30 to start from, got: there is none" in failure.message

    def test_weights_of_another_rank_cannot_be_inherited(self, spec: FineTuningSpec, serve: Any) -> None:
        serve(spec, job_of(0, 30))
        job = job_of(0, 30, trial_id=8, params={"lora.rank": 8}, source=Inherit(7, 30))
        (failure,) = of_type(serve(spec, job), Failure)
        assert "expected LoRA weights of the same structure" in failure.message


@pytest.fixture
def disturb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """Makes something happen inside the model, at the n-th forward pass of a language model from now on."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward
    calls: list[None] = []

    def at(number: int, action: Callable[[], None]) -> None:
        def disturbed(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(None)
            if len(calls) == number:
                action()
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(LlamaForCausalLM, "forward", disturbed)

    yield at
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)


def run_out_of_memory() -> None:
    torch.empty(1 << 46)


def run_out_of_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def trip() -> None:
    {}["weight"]


class TestFailures:
    @pytest.mark.parametrize(
        ("action", "kind", "message"),
        [
            (run_out_of_memory, FailureKind.OOM, "RuntimeError: .*DefaultCPUAllocator"),
            (run_out_of_gpu_memory, FailureKind.OOM, "OutOfMemoryError: CUDA out of memory"),
            (trip, FailureKind.CRASH, r"^KeyError: 'weight' \(test_task.py:\d+ in trip\)$"),
        ],
        ids=["memory", "gpu-memory", "crash"],
    )
    @pytest.mark.parametrize("forward_pass", [4, 31])  # in training (two micro-batches a step) and in evaluation
    def test_a_failure_leaves_a_clean_worker(
        self,
        spec: FineTuningSpec,
        straight: tuple[FineTuningSpec, Report],
        serve: Any,
        disturb: Any,
        action: Callable[[], None],
        kind: FailureKind,
        message: str,
        forward_pass: int,
    ) -> None:
        disturb(forward_pass, action)
        other = {"lora.rank": 8, "optimizer.batch_size": 6}
        messages = serve(spec, job_of(0, 90, job_id=5, trial_id=4, params=other), job_of(0, 90))
        (failure,) = of_type(messages, Failure)
        assert (failure.job_id, failure.kind) == (5, kind)
        assert re.search(message, failure.message)
        assert failure.budget == (6 if forward_pass == 4 else 90)
        assert failure.seconds > 0
        (report,) = of_type(messages, Report)
        assert replace(report, seconds=0.0) == replace(straight[1], seconds=0.0)
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90))

    def test_divergence(self, spec: FineTuningSpec, straight: tuple[FineTuningSpec, Report], serve: Any) -> None:
        wild = {"optimizer.learning_rate": 1e30, "schedule.kind": "constant", "schedule.warmup": 0.0}
        messages = serve(spec, job_of(0, 90, job_id=5, trial_id=4, params=wild), job_of(0, 90))
        (failure,) = of_type(messages, Failure)
        assert (failure.job_id, failure.kind, failure.budget) == (5, FailureKind.DIVERGED, 6)
        assert "lower optimizer.learning_rate" in failure.message
        (report,) = of_type(messages, Report)
        assert replace(report, seconds=0.0) == replace(straight[1], seconds=0.0)
        assert_same_rung(checkpoint_of(spec, 7, 90), checkpoint_of(straight[0], 7, 90))

    def test_a_validation_loss_that_is_not_finite_is_divergence(self, spec: FineTuningSpec, serve: Any) -> None:
        wild = {"optimizer.learning_rate": 1e30, "schedule.kind": "constant", "schedule.warmup": 0.0}
        (failure,) = of_type(serve(spec, job_of(0, 6, params=wild)), Failure)
        assert failure.kind is FailureKind.DIVERGED
        assert failure.budget == 6

    def test_wrong_hyperparameters_fail_the_job_only(self, spec: FineTuningSpec, serve: Any) -> None:
        messages = serve(spec, job_of(0, 6, params={"lora.rank": 0}), job_of(0, 6, job_id=2))
        (failure,) = of_type(messages, Failure)
        assert "RecipeError: lora.rank: expected an integer of at least 1, got 0" in failure.message
        assert len(of_type(messages, Report)) == 1

    def test_a_full_disk_halts_the_study(self, spec: FineTuningSpec, serve: Any, monkeypatch: Any) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        messages = serve(spec, job_of(0, 30), job_of(0, 30, job_id=2, trial_id=8))
        halt = messages[-1]
        assert isinstance(halt, Halt)
        assert halt.job_id == 1
        assert "got: No space left on device" in halt.text
        assert of_type(messages, Report | Failure) == []
        monkeypatch.undo()
        assert len(of_type(serve(spec, job_of(0, 30)), Report)) == 1

    def test_a_broken_device_ends_the_process(self, spec: FineTuningSpec, serve: Any, disturb: Any) -> None:
        def break_down() -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        disturb(3, break_down)
        with pytest.raises(torch.AcceleratorError):
            serve(spec, job_of(0, 30))

    def test_what_cannot_be_loaded_is_told_at_once(self, spec: FineTuningSpec) -> None:
        with pytest.raises(RecipeError, match=r"did you mean 'lora\.rank'"):
            FineTuningTask(replace(spec, defaults={"lora.ranks": 4}))
        with pytest.raises(DataError, match=r"expected an index of tokenised data in .*/nowhere"):
            FineTuningTask.from_spec({**spec.to_dict(), "data_directory": "/nowhere"})


# One rank of a group, or one process: serves the jobs and prints reports and failures as JSON.
RANK = """
import json, os, sys
import torch
torch.set_num_threads(1)
from dataclasses import asdict
from controller.trial import Failure, Halt, Job, Report
from llm_tuning.task import FineTuningTask

order = json.loads(sys.stdin.read())
jobs = [Job(**job) for job in order["jobs"]]

class Desk:
    stopping = False
    def get(self):
        return jobs.pop(0) if jobs else None

def emit(message):
    if isinstance(message, (Report, Failure, Halt)):
        print("MESSAGE", json.dumps({"type": type(message).__name__, **asdict(message)}))

if os.environ.get("RANK") == order["weak_rank"]:
    from transformers import LlamaForCausalLM
    forward, calls = LlamaForCausalLM.forward, []
    def weak(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == order["weak_at"]:
            torch.empty(1 << 46)
        return forward(self, *args, **kwargs)
    LlamaForCausalLM.forward = weak

task = FineTuningTask.from_spec(order["spec"])
task.run(Desk(), emit)
task._place.ranks.accelerator.end_training()
"""


def in_processes(
    tmp_path: Path, spec: FineTuningSpec, jobs_of_groups: list[list[Job]], world: int = 1, weak_at: int = 0
) -> list[list[dict[str, Any]]]:
    """What each rank says, for a group of `world` fresh processes; `weak_at`: where the second runs out of memory."""
    (jobs,) = jobs_of_groups
    plain = [{name: value for name, value in asdict(job).items() if name != "source"} for job in jobs]
    order = {"spec": spec.to_dict(), "jobs": plain, "weak_rank": "1" if weak_at else "", "weak_at": weak_at}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(REPOSITORY)}
        if world > 1:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            network = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {name: str(value) for name, value in {**places, **network}.items()}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-W", "error", "-c", RANK]
        processes.append(subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes))
    said = []
    for process in processes:
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
    for process in processes:
        output, errors = process.communicate(timeout=110)
        assert process.returncode == 0, errors
        said.append([json.loads(line.removeprefix("MESSAGE ")) for line in output.splitlines() if "MESSAGE" in line])
    return said


class TestTwoRanks:
    def test_they_train_as_one(self, spec: FineTuningSpec, elsewhere: Any, serve: Any, tmp_path: Path) -> None:
        """Batches of 5 (shares of 3 and 2) and of 1 (the second rank has nothing to do), and the rank that runs out."""
        jobs = [
            job_of(0, 30, params={"optimizer.batch_size": 5, "lora.dropout": 0.0}),
            job_of(0, 30, job_id=2, trial_id=8, params={"optimizer.batch_size": 6, "lora.rank": 8}),
            job_of(0, 4, job_id=3, trial_id=9, params={"optimizer.batch_size": 1, "lora.dropout": 0.0}),
            job_of(30, 30, job_id=4, split="test", params={"optimizer.batch_size": 5, "lora.dropout": 0.0}),
        ]
        single = elsewhere("single")
        expected = [message for message in serve(single, *jobs) if isinstance(message, Report)]
        # The second rank makes 6 passes of training and 2 of evaluation in the first job.
        first, second = in_processes(tmp_path, spec, [jobs], world=2, weak_at=10)
        assert [message["type"] for message in first] == ["Report", "Failure", "Report", "Report"]
        for got, other in zip(first, second, strict=True):
            unequal = {name for name in got if got[name] != other[name]}
            assert unequal <= {"seconds", "message"}
        assert first[1]["kind"] == "oom"
        assert first[1]["message"].startswith("RankError: rank 1: RuntimeError: ")
        assert second[1]["message"].startswith("RuntimeError: ")
        assert "DefaultCPUAllocator" in first[1]["message"]
        reports = [message for message in first if message["type"] == "Report"]
        for got, want in zip(reports, [expected[0], expected[2], expected[3]], strict=True):
            assert got["budget"] == want.budget
            assert got["metrics"] == pytest.approx(want.metrics, rel=1e-6)
            assert tuple(got["generations"]) == want.generations
            assert np.array(got["per_example"]) == pytest.approx(np.array(want.per_example), rel=1e-5)
        for trial_id, budget in ((7, 30), (9, 4)):
            got, want = checkpoint_of(spec, trial_id, budget), checkpoint_of(single, trial_id, budget)
            for name, weight in got.adapter.items():
                torch.testing.assert_close(weight, want.adapter[name], rtol=0, atol=1e-6)
