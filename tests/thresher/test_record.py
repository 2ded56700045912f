from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controller.limits import Limits
from controller.store import Store, StoreError
from llm_tuning.export import ExportError
from tests.thresher.journal import BUDGETS, DEFAULTS, Journal
from thresher.config import parse_config
from thresher.record import RecordError, StudyRecord


def write_checkpoint(journal: Journal, trial_id: int, budget: int, weight: float = 0.0) -> Path:
    """A checkpoint with one weight; its directory."""
    import torch

    from llm_tuning.checkpoint import CheckpointState, CheckpointStore

    state = CheckpointState(
        trial_id=trial_id,
        kind="rung",
        budget=budget,
        examples=budget,
        steps=budget,
        params=DEFAULTS,
        seed=0,
        horizon=16,
        data="data",
        stretch_from=0,
        stretch_nats=1.0,
        stretch_tokens=1,
        stretch_seconds=1.0,
    )
    store = CheckpointStore(journal.store.path.parent / "checkpoints")
    return store.write(state, {"lora_A": torch.tensor([weight])}, {"r": 4}, {"step": torch.zeros(1)})


class TestOpen:
    def test_by_directory_or_config(self, journal: Journal, config_data: dict[str, Any], tmp_path: Path) -> None:
        journal.start(3.0)
        config = tmp_path / "study.yaml"
        config.write_text(json.dumps(config_data))  # JSON is YAML
        for path in (config, journal.store.path.parent):
            record = StudyRecord.open(path)
            assert record.directory == journal.store.path.parent
            assert record.config == parse_config(config_data)
            assert record.budgets == BUDGETS
            assert record.history.num_started() == 1
            assert record.history.horizon == 16

    def test_a_directory_may_be_called_like_a_config(self, journal: Journal, tmp_path: Path) -> None:
        journal.start(3.0)
        moved = journal.store.path.parent.rename(tmp_path / "runs.yaml")
        assert StudyRecord.open(moved).history.num_started() == 1

    def test_no_study(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"expected the directory of a study, got .* without a journal.sqlite;"):
            StudyRecord.open(tmp_path)

    def test_a_study_that_is_being_prepared(self, tmp_path: Path) -> None:
        with Store.open(tmp_path / "study"), pytest.raises(RecordError) as caught:
            StudyRecord.open(tmp_path / "study")
        assert str(caught.value) == (
            f"expected a study that was started in {tmp_path}/study, got one that is still being prepared, or was "
            "refused then; start it"
        )

    def test_of_a_version_with_other_settings(self, journal: Journal) -> None:
        journal.store.write_manifest({"config": {"modle": 1}, "versions": {"thresher": "9.9"}})
        with pytest.raises(
            RecordError, match=r"that this version can read, got settings of version 9\.9 \(model: expected"
        ):
            StudyRecord.open(journal.store.path.parent)

    def test_the_study_of_a_function(self, tmp_path: Path) -> None:
        settings = {"metric": "accuracy", "direction": "maximize", "budgets": [3, 9], "seed": 1}
        with Store.open(tmp_path / "study") as store:
            store.write_manifest({"function": settings, "trials": 7, "finalists": 0, "repeats": 0})
            journal = Journal(store)
            journal.start(0.5, metric="accuracy", budget=3)
            record = journal.record
        assert record.max_trials == 7
        assert record.winner().loss == -0.5
        assert record.value(record.winner().loss) == 0.5
        assert record.space is None
        with pytest.raises(RecordError, match=r"expected a study of fine-tuning in .*, got one of a Python function"):
            record.export(tmp_path / "out")

    def test_limits_and_space(self, journal: Journal) -> None:
        record = journal.record
        assert record.space is not None
        assert record.space.names == ("optimizer.learning_rate", "lora.rank")
        assert record.limits == Limits()
        config = record.manifest["config"]
        search = {**config["search"], "max_examples": 99, "max_hours": 2, "max_gpu_hours": 6}
        resources = {**config["resources"], "gpus_per_trial": 2}
        journal.store.write_manifest({"config": {**config, "search": search, "resources": resources}})
        limits = journal.record.limits
        assert limits == Limits(max_examples=99, max_worker_seconds=3 * 3600.0, max_seconds=7200.0, gpus=2)


class TestWinner:
    def test_too_early(self, journal: Journal) -> None:
        with pytest.raises(RecordError, match=r"expected a trial that was measured in .*, got none; let the study run"):
            journal.record.winner()

    def test_all_failed(self, journal: Journal) -> None:
        journal.fail("ValueError: no such layer\nsecond line")
        journal.fail("another")
        with pytest.raises(
            RecordError, match=r"got none; 2 failed, the first of them with: ValueError: no such layer$"
        ):
            journal.record.winner()

    def test_before_the_full_budget_it_is_the_best_of_the_highest_rung(self, journal: Journal) -> None:
        journal.start(3.0)
        journal.start(1.0)
        journal.start(2.0)
        winner = journal.record.winner()
        assert (winner.trial.trial_id, winner.loss, winner.budget) == (1, 1.0, 8)
        assert winner.runs == (winner.trial,)

    def test_a_lower_rung_does_not_compare(self, journal: Journal) -> None:
        journal.start(3.0)
        journal.start(1.0)
        journal.train(0, 16, 2.5)
        winner = journal.record.winner()
        assert (winner.trial.trial_id, winner.loss, winner.budget) == (0, 2.5, 16)

    def test_finalists_are_ranked_by_the_mean_over_their_runs(self, journal: Journal) -> None:
        for loss, final in ((3.0, 2.0), (2.0, 1.2), (1.0, 1.0)):
            journal.train(journal.start(loss), 16, final)
        assert journal.record.winner().trial.trial_id == 2, "before the repeats"
        journal.start(1.6, repeat_of=2, budget=16)
        journal.start(1.1, repeat_of=1, budget=16)
        winner = journal.record.winner()
        assert winner.trial.trial_id == 1
        assert winner.loss == pytest.approx(1.1), "the run that it was chosen by does not count"
        assert [run.trial_id for run in winner.runs] == [4, 1], "the run with the lowest loss comes first"
        assert [run.trial_id for run in winner.counted] == [4]

    def test_params_are_complete(self, journal: Journal) -> None:
        journal.start(3.0)
        journal.start(1.0, rank=8)
        record = journal.record
        assert record.params(record.winner().trial) == {**DEFAULTS, "lora.rank": 8}


class TestExport:
    @pytest.fixture
    def finished(self, journal: Journal) -> Journal:
        """Trial 1 wins with its repeat, trial 2, ahead of itself."""
        journal.train(journal.start(3.0), 16, 2.0)
        journal.train(journal.start(2.0, rank=8), 16, 1.2)
        journal.start(1.1, rank=8, repeat_of=1, budget=16)
        for trial_id in range(3):
            write_checkpoint(journal, trial_id, 16, weight=float(trial_id))
        return journal

    def weight(self, directory: Path) -> float:
        from safetensors.numpy import load_file

        return float(load_file(directory / "adapter_model.safetensors")["lora_A"][0])

    def test_takes_the_best_run_and_says_how_it_was_found(
        self, finished: Journal, tmp_path: Path, config_data: dict[str, Any]
    ) -> None:
        run = finished.record.export(tmp_path / "out")
        assert run.trial_id == 2
        assert self.weight(tmp_path / "out") == 2.0
        details = json.loads((tmp_path / "out" / "thresher.json").read_text())
        assert details == {
            "base_model": config_data["model"]["name"],
            "trial": 1,
            "params": {**DEFAULTS, "lora.rank": 8},
            "budget": 16,
            "runs": 2,
            "mean_validation_loss": pytest.approx(1.1),
            "run": 2,
            "seed": 102,
            "validation_loss": 1.1,
        }

    def test_a_damaged_checkpoint_is_passed_over_and_left_alone(self, finished: Journal, tmp_path: Path) -> None:
        damaged = finished.store.path.parent / "checkpoints/trial-0002/rung-000000016/adapter_model.safetensors"
        content = bytearray(damaged.read_bytes())
        content[-1] ^= 0xFF
        damaged.write_bytes(content)
        assert finished.record.export(tmp_path / "out").trial_id == 1
        assert self.weight(tmp_path / "out") == 1.0
        assert damaged.read_bytes() == content

    def test_no_checkpoint_is_whole(self, finished: Journal, tmp_path: Path) -> None:
        import shutil

        shutil.rmtree(finished.store.path.parent / "checkpoints")
        with pytest.raises(ExportError) as caught:
            finished.record.export(tmp_path / "out")
        assert str(caught.value) == (
            "expected a checkpoint of trial 1 at 16 examples, got none that is whole (trial-0002/rung-000000016: "
            "expected the file manifest.json, got none; trial-0001/rung-000000016: expected the file manifest.json, "
            "got none); run a study with the same configuration in another directory"
        )
        assert not (tmp_path / "out").exists()

    def test_too_early(self, journal: Journal, tmp_path: Path) -> None:
        with pytest.raises(RecordError):
            journal.record.export(tmp_path / "out")
        assert not (tmp_path / "out").exists()
