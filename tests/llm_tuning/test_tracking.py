from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm_tuning.tracking import TRACKERS, TrackerError, TrialTracking, check_trackers, study_key

CONFIG = {"lora.rank": 8, "optimizer.learning_rate": 5e-4, "schedule.kind": "cosine", "seed": 3}


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def track(tmp_path: Path, failures: list[str]) -> Callable[..., TrialTracking]:
    """Makes the tracking of trial 7 of a study."""

    def track(*names: str) -> TrialTracking:
        return TrialTracking(names, "a-project", tmp_path / "tracking", 7, failures.append)

    return track


def events(directory: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(directory / "tensorboard" / "trial-00007"))
    accumulator.Reload()
    return accumulator


def scalars(directory: Path, name: str) -> dict[int, float]:
    return {event.step: pytest.approx(event.value) for event in events(directory).Scalars(name)}


class TestCheckTrackers:
    def test_what_is_installed_is_accepted(self) -> None:
        check_trackers(())
        check_trackers(["tensorboard"])

    def test_what_is_unknown_or_doubled_is_not(self) -> None:
        with pytest.raises(
            TrackerError, match="among tensorboard, wandb, mlflow, trackio, got 'tensorbord'; did you mean"
        ):
            check_trackers(["tensorbord"])
        with pytest.raises(TrackerError, match="expected each tracker once, got tensorboard twice"):
            check_trackers(["tensorboard", "tensorboard"])

    @pytest.mark.parametrize("name", TRACKERS)
    def test_a_missing_package_is_named_with_the_remedy(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(
            TrackerError, match=f"expected the package {name} .* got none installed; pip install {name}"
        ):
            check_trackers([name])

    def test_a_directory_of_the_same_name_is_no_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "wandb").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(TrackerError, match="pip install wandb"):
            check_trackers(["wandb"])


class TestTensorBoard:
    def test_values_lie_at_their_examples(self, track: Any, tmp_path: Path, failures: list[str]) -> None:
        run = track("tensorboard")
        run.start(CONFIG, 0)
        run.log({"training/loss": 2.5, "training/learning_rate": 1e-4}, 8)
        run.log({"training/loss": 2.25, "training/learning_rate": 5e-5}, 16)
        run.log({"validation_loss": 2.0, "exact_match": 0.5}, 16)
        run.finish()
        assert failures == []
        assert scalars(tmp_path / "tracking", "training/loss") == {8: 2.5, 16: 2.25}
        assert scalars(tmp_path / "tracking", "training/learning_rate") == {8: 1e-4, 16: 5e-5}
        assert scalars(tmp_path / "tracking", "exact_match") == {16: 0.5}
        assert [path.name for path in (tmp_path / "tracking" / "tensorboard").iterdir()] == ["trial-00007"]

    def test_hyperparameters_are_recorded_once(self, track: Any, tmp_path: Path) -> None:
        from tensorboard.plugins.hparams import metadata

        for start in (0, 8):
            run = track("tensorboard")
            run.start(CONFIG, start)
            run.log({"training/loss": 2.5}, start + 8)
            run.finish()
        recorded = events(tmp_path / "tracking").PluginTagToContent(metadata.PLUGIN_NAME)
        started = metadata.parse_session_start_info_plugin_data(recorded[metadata.SESSION_START_INFO_TAG])
        values = {name: value.string_value or value.number_value for name, value in started.hparams.items()}
        assert values == CONFIG
        experiment = metadata.parse_experiment_plugin_data(recorded[metadata.EXPERIMENT_TAG])
        assert {info.name.tag for info in experiment.metric_infos} >= {"validation_loss", "exact_match"}
        files = list((tmp_path / "tracking" / "tensorboard" / "trial-00007").rglob("*"))
        assert len([path for path in files if b"session_start_info" in path.read_bytes()]) == 1

    def test_a_resumed_trial_goes_on_with_the_same_run(self, track: Any, tmp_path: Path) -> None:
        """What was logged beyond the checkpoint is replaced by what the second attempt logs."""
        first = track("tensorboard")
        first.start(CONFIG, 0)
        for examples, loss in ((8, 3.0), (16, 2.5), (24, 2.4)):
            first.log({"training/loss": loss}, examples)
        first.log({"validation_loss": 2.6}, 16)
        first.finish()
        second = track("tensorboard")
        second.start(CONFIG, 16)
        second.log({"training/loss": 2.25}, 24)
        second.log({"training/loss": 2.0}, 32)
        second.finish()
        assert scalars(tmp_path / "tracking", "training/loss") == {8: 3.0, 16: 2.5, 24: 2.25, 32: 2.0}
        assert scalars(tmp_path / "tracking", "validation_loss") == {16: 2.6}

    def test_a_failure_is_recorded(self, track: Any, tmp_path: Path) -> None:
        run = track("tensorboard")
        run.start(CONFIG, 0)
        run.fail("oom", 8)
        run.finish()
        accumulator = events(tmp_path / "tracking")
        (event,) = accumulator.Tensors("failure/text_summary")
        assert (event.step, event.tensor_proto.string_val) == (8, [b"oom"])

    def test_nothing_is_left_running(self, track: Any) -> None:
        import threading

        before = set(threading.enumerate())
        run = track("tensorboard")
        run.start(CONFIG, 0)
        run.log({"training/loss": 2.5}, 8)
        assert set(threading.enumerate()) > before
        run.finish()
        run.log({"training/loss": 2.5}, 16)  # nothing is open any more
        assert set(threading.enumerate()) == before


class TestFailures:
    def test_a_tracker_that_cannot_start_is_noted_and_left_out(
        self, track: Any, tmp_path: Path, failures: list[str]
    ) -> None:
        (tmp_path / "tracking").write_text("a file where the directory should be")
        run = track("tensorboard")
        run.start(CONFIG, 0)
        run.log({"training/loss": 2.5}, 8)
        run.fail("oom", 8)
        run.finish()
        assert len(failures) == 1
        assert failures[0].startswith(
            "tracker tensorboard failed and records nothing more of this job: FileExistsError: "
        )

    def test_one_that_breaks_later_is_noted_once(self, track: Any, tmp_path: Path, failures: list[str]) -> None:
        run = track("tensorboard")
        run.start(CONFIG, 0)
        run.log({"training/loss": 2.5}, 8)
        run._open["tensorboard"].tracker.file_writer.event_writer._async_writer.close()  # as if the disk were gone
        run.log({"training/loss": 2.25}, 16)
        run.log({"training/loss": 2.0}, 24)
        run.finish()
        assert len(failures) == 1
        assert scalars(tmp_path / "tracking", "training/loss") == {8: 2.5}

    def test_without_trackers_nothing_is_made(self, track: Any, tmp_path: Path) -> None:
        run = track()
        run.start(CONFIG, 0)
        run.log({"training/loss": 2.5}, 8)
        run.finish()
        assert not (tmp_path / "tracking").exists()


STAND_INS = {
    "wandb": """
        class Config(dict):
            def update(self, values, allow_val_change=False):
                record("config", **values)
        config = Config()
        class Run:
            def define_metric(self, name, step_metric): record("define_metric", name=name, step_metric=step_metric)
            def log(self, values, step=None): record("log", values=values, step=step)
            def finish(self): record("finish")
        def init(**settings):
            record("init", **settings)
            return Run()
    """,
    "trackio": """
        class Config(dict):
            def update(self, values, allow_val_change=False):
                record("config", **values)
        config = Config()
        class Run:
            def log(self, values, step=None): record("log", values=values, step=step)
            def finish(self): record("finish")
        def init(project, name=None, resume="never"):
            record("init", project=project, name=name, resume=resume)
            return Run()
    """,
    "mlflow": """
        from types import SimpleNamespace
        utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))
        def search_experiments(filter_string): return []
        def create_experiment(**settings): return "1"
        def start_run(run_id=None, run_name=None, **settings):
            record("start_run", run_id=run_id, run_name=run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id="an-id"))
        def log_params(values): record("config", **values)
        def log_metrics(values, step): record("log", values=values, step=step)
        def set_tag(name, value): record("set_tag", name=name, value=value)
        def end_run(): record("finish")
    """,
}
"""Packages with the interfaces of the real ones, which need a service or an account, that only write down the calls."""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[tuple[str, dict[str, Any]]]]]:
    """Puts the stand-ins where they are imported from; reads what they wrote down since the last call."""
    packages, log = tmp_path / "packages", tmp_path / "calls.jsonl"
    packages.mkdir()
    record = textwrap.dedent(f"""
        import json
        def record(what, **of):
            with open({str(log)!r}, "a") as stream:
                stream.write(json.dumps([what, of]) + "\\n")
    """)
    for name, content in STAND_INS.items():
        (packages / f"{name}.py").write_text(record + textwrap.dedent(content))
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(packages)

    def read() -> list[tuple[str, dict[str, Any]]]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.write_text("")
        return [tuple(json.loads(line)) for line in lines]

    yield read
    for name in STAND_INS:
        sys.modules.pop(name, None)


def serve(run: TrialTracking, start: int) -> None:
    run.start(CONFIG, start)
    run.log({"training/loss": 2.5}, start + 8)
    run.fail("oom", start + 8)
    run.finish()


class TestTheOthers:
    """That a trial's next job goes on with its run, as far as that can be seen without their services."""

    def test_wandb(self, track: Any, calls: Any, failures: list[str], tmp_path: Path) -> None:
        check_trackers(["wandb"])
        for start in (0, 8):
            serve(track("wandb"), start)
            key = study_key(tmp_path / "tracking")
            assert calls() == [
                (
                    "init",
                    {
                        "project": "a-project",
                        "name": "trial-00007",
                        "id": f"{key}-trial-00007",
                        "resume": "allow",
                        "dir": str(tmp_path / "tracking"),
                    },
                ),
                ("define_metric", {"name": "*", "step_metric": "examples"}),
                ("config", CONFIG),
                ("log", {"values": {"training/loss": 2.5, "examples": start + 8}, "step": None}),
                ("log", {"values": {"failure": "oom", "examples": start + 8}, "step": None}),
                ("finish", {}),
            ]
        assert failures == []

    def test_trackio(self, track: Any, calls: Any, failures: list[str], tmp_path: Path) -> None:
        for start in (0, 8):
            serve(track("trackio"), start)
            name = f"trial-00007-{study_key(tmp_path / 'tracking')}"
            assert calls() == [
                ("init", {"project": "a-project", "name": name, "resume": "allow"}),
                ("config", CONFIG),
                ("log", {"values": {"training/loss": 2.5}, "step": start + 8}),
                ("log", {"values": {"failure": "oom"}, "step": start + 8}),
                ("finish", {}),
            ]
        assert failures == []

    def test_mlflow(self, track: Any, calls: Any, failures: list[str]) -> None:
        for start, known in ((0, None), (8, "an-id")):
            serve(track("mlflow"), start)
            assert calls() == [
                ("start_run", {"run_id": known, "run_name": "trial-00007"}),
                *([("config", CONFIG)] if known is None else []),
                ("log", {"values": {"training/loss": 2.5}, "step": start + 8}),
                ("set_tag", {"name": "failure", "value": "oom"}),
                ("finish", {}),
            ]
        assert failures == []

    def test_one_that_is_missing_does_not_stop_the_others(
        self, track: Any, tmp_path: Path, failures: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
        run = track("wandb", "tensorboard")
        run.start(CONFIG, 0)
        run.log({"training/loss": 2.5}, 8)
        run.finish()
        assert len(failures) == 1
        assert failures[0].startswith("tracker wandb failed and records nothing more of this job: ")
        assert scalars(tmp_path / "tracking", "training/loss") == {8: 2.5}


def test_the_key_of_a_study_is_drawn_once(tmp_path: Path) -> None:
    first = study_key(tmp_path / "a")
    assert study_key(tmp_path / "a") == first
    assert study_key(tmp_path / "b") != first
    assert len(first) == 8
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["key"]
