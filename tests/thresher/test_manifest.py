from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from controller.events import Event, JobCreated, TrialCreated
from controller.store import Store
from thresher import __version__, manifest
from thresher.config import parse_config
from thresher.manifest import (
    ManifestError,
    check_manifest,
    describe_study,
    model_fingerprint,
    settle_manifest,
    versions,
)

SURROUNDINGS = {"model": "abc", "threads": 2, "processes": 1}
PLAN = {"defaults": {"lora.rank": 32, "lora.dropout": 0.0}, "budgets": [100, 900]}
DATA = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "study") as opened:
        yield opened


@pytest.fixture
def started(store: Store, config_data: dict[str, Any]) -> Store:
    """A study that was started."""
    settle_manifest(store, describe(config_data), DATA)
    return store


def describe(
    data: dict[str, Any], plan: Mapping[str, Any] = PLAN, surroundings: Mapping[str, Any] = SURROUNDINGS
) -> dict[str, dict[str, Any]]:
    return describe_study(parse_config(data), plan, surroundings)


def refusal(store: Store, now: Mapping[str, Any]) -> str:
    before = store.manifest()
    with pytest.raises(ManifestError) as caught:
        check_manifest(store, now)
    assert store.manifest() == before
    return str(caught.value)


class TestNewStudy:
    def test_is_settled_with_all_that_matters(self, store: Store, config_data: dict[str, Any]) -> None:
        now = describe(config_data)
        assert check_manifest(store, now) == ()
        assert store.manifest() == {}, "a study that is refused later must not be bound to its settings"
        settle_manifest(store, now, DATA)
        written = store.manifest()
        assert parse_config(written["config"]) == parse_config(config_data)
        assert written["plan"] == PLAN
        assert written["surroundings"] == SURROUNDINGS
        assert written["versions"] == versions()
        assert written["data"] == DATA

    def test_versions_name_the_libraries(self) -> None:
        assert versions()["thresher"] == __version__
        assert {"python", "torch", "transformers", "peft", "accelerate", "numpy"} < versions().keys()


class TestSameStudy:
    def test_goes_on(self, started: Store, config_data: dict[str, Any]) -> None:
        before = started.manifest()
        assert check_manifest(started, describe(config_data)) == ()
        settle_manifest(started, describe(config_data), DATA)
        assert started.manifest() == before

    @pytest.mark.parametrize(
        ("section", "change"),
        [("resources", {"threads_per_worker": 9, "hang_minutes": 3}), ("output", {"generations": 0})],
    )
    def test_what_does_not_change_results_may_change(
        self, started: Store, config_data: dict[str, Any], section: str, change: dict[str, Any]
    ) -> None:
        config_data[section] |= change
        assert check_manifest(started, describe(config_data)) == ()

    def test_other_versions_are_noted(
        self, started: Store, config_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed = versions()
        monkeypatch.setattr(manifest, "versions", lambda: {**installed, "torch": "9.9"})
        (note,) = check_manifest(started, describe(config_data))
        assert note == (
            f"version of torch: {installed['torch']!r} before, '9.9' now; results stay comparable, but not equal bit "
            "for bit"
        )

    def test_what_changes_the_last_digits_is_noted(self, started: Store, config_data: dict[str, Any]) -> None:
        config_data["resources"] |= {"micro_batch_size": 1, "gpus_per_trial": 2}
        notes = check_manifest(started, describe(config_data))
        assert [note.partition(";")[0] for note in notes] == [
            "resources.gpus_per_trial: 1 before, 2 now",
            "resources.micro_batch_size: 4 before, 1 now",
        ]

    def test_other_surroundings_are_noted(self, started: Store, config_data: dict[str, Any]) -> None:
        now = describe(config_data, surroundings={**SURROUNDINGS, "threads": 8})
        (note,) = check_manifest(started, now)
        assert note.startswith("threads: 2 before, 8 now;")


class TestLimits:
    """When the search ends may change as long as it goes on."""

    def test_more_trials_and_hours_are_noted_and_kept(self, started: Store, config_data: dict[str, Any]) -> None:
        config_data["search"] |= {"trials": 50, "max_hours": 2}
        config_data["resources"] |= {"micro_batch_size": 1}
        now = describe(config_data)
        assert list(check_manifest(started, now))[:2] == [
            "search.trials: 5 before, 50 from now on",
            "search.max_hours: nothing before, 2.0 from now on",
        ]
        settle_manifest(started, now, DATA)
        kept = started.manifest()["config"]
        assert (kept["search"]["trials"], kept["search"]["max_hours"]) == (50, 2.0)
        assert kept["resources"]["micro_batch_size"] == 4  # noted each time, for it is not what the study began with
        assert [note for note in check_manifest(started, now) if note.startswith("search.")] == []

    @pytest.mark.parametrize("over", [TrialCreated(1, {}, 7, repeat_of=0), JobCreated(0, 0, 8, 8, None, "test")])
    def test_not_after_a_repeat_or_a_test(self, started: Store, config_data: dict[str, Any], over: Event) -> None:
        started.append([TrialCreated(0, {}, 7), over])
        config_data["search"]["trials"] = 50
        assert "search.trials: expected 5, as the study was started with, got 50" in refusal(
            started, describe(config_data)
        )

    def test_what_else_differs_is_still_refused(self, started: Store, config_data: dict[str, Any]) -> None:
        config_data["search"] |= {"trials": 50, "seed": 9}
        message = refusal(started, describe(config_data))
        assert "search.seed" in message
        assert "search.trials" not in message


class TestAnotherStudy:
    @pytest.mark.parametrize(
        ("section", "change", "expected"),
        [
            ("search", {"seed": 2}, "search.seed: expected 1, as the study was started with, got 2"),
            ("search", {"budget": 32}, "search.budget: expected 16, as the study was started with, got 32"),
            ("search", {"sampler": {"kind": "evolution"}}, "search.sampler.kind: expected 'random'"),
            ("search", {"scheduler": {"kind": "full"}}, "search.scheduler.kind: expected 'asha'"),
            ("data", {"max_length": 32}, "data.max_length: expected 64"),
            ("data", {"test": None}, "got nothing"),
            ("data", {"limits": {"train": 3}}, "data.limits.train: expected nothing, as the study was started with"),
            ("model", {"dtype": "bfloat16"}, "model.dtype: expected 'float32'"),
            ("hyperparameters", {"lora.rank": 8}, "hyperparameters.lora.rank: expected 4"),
            ("finalists", {"repeats": 3}, "finalists.repeats: expected 1"),
            ("resources", {"mixed_precision": "bf16"}, "resources.mixed_precision: expected 'no'"),
            (
                "space",
                {"lora.dropout": {"kind": "choice", "values": [0.0, 0.1]}},
                "space.lora.dropout: expected nothing",
            ),
        ],
    )
    def test_a_changed_setting_is_named(
        self, started: Store, config_data: dict[str, Any], section: str, change: dict[str, Any], expected: str
    ) -> None:
        config_data[section] |= change
        message = refusal(started, describe(config_data))
        assert message.startswith(f"{started.path.parent} holds another study:\n  ")
        assert expected in message
        assert message.endswith("\nrestore these settings to go on with it, or choose another output.directory")

    def test_all_changes_are_told(self, started: Store, config_data: dict[str, Any]) -> None:
        config_data["search"] |= {"seed": 3, "budget": 32}
        lines = refusal(started, describe(config_data)).splitlines()
        assert [line.strip().partition(":")[0] for line in lines[1:-1]] == ["search.budget", "search.seed"]

    def test_another_space_than_the_family_s(self, store: Store, config_data: dict[str, Any]) -> None:
        changed = copy.deepcopy(config_data)
        del changed["space"]
        settle_manifest(store, describe(changed), DATA)
        assert "space.only: expected nothing, as the study was started with, got True" in refusal(
            store, describe(config_data)
        )

    def test_what_follows_from_a_setting_is_not_told_beside_it(
        self, started: Store, config_data: dict[str, Any]
    ) -> None:
        config_data["search"]["budget"] = 32
        assert "budgets" not in refusal(started, describe(config_data, {**PLAN, "budgets": [16, 32]}))

    def test_defaults_that_the_family_changed(self, started: Store, config_data: dict[str, Any]) -> None:
        defaults = {**PLAN["defaults"], "lora.rank": 16}  # type: ignore[dict-item]
        message = refusal(started, describe(config_data, {**PLAN, "defaults": defaults}))
        assert (
            "by the model family and this version, defaults.lora.rank: expected 32, as the study was started with, "
            "got 16" in message
        )

    def test_another_model_of_the_same_name(self, started: Store, config_data: dict[str, Any]) -> None:
        message = refusal(started, describe(config_data, surroundings={**SURROUNDINGS, "model": "xyz"}))
        assert "hash of the base model's files: expected 'abc', as the study was started with, got 'xyz'" in message

    def test_other_data(self, started: Store, config_data: dict[str, Any]) -> None:
        with pytest.raises(ManifestError, match=r"hash of the tokenised data: expected '0123456789ab', .* got 'fedc'"):
            settle_manifest(started, describe(config_data), "fedc")

    def test_long_values_are_cut(self, started: Store, config_data: dict[str, Any]) -> None:
        config_data["data"]["system"] = "x" * 10_000
        assert len(refusal(started, describe(config_data))) < 500


class TestFingerprint:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        directory = tmp_path / "model"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"hidden_size": 3}))
        rng = np.random.default_rng(0)
        save_file({"weight": rng.random((300, 300), np.float32)}, directory / "model.safetensors")
        return directory

    def test_does_not_depend_on_the_place(self, model: Path, tmp_path: Path) -> None:
        before = model_fingerprint(model)
        assert model_fingerprint(model.rename(tmp_path / "elsewhere")) == before

    def test_changes_with_the_config(self, model: Path) -> None:
        before = model_fingerprint(model)
        (model / "config.json").write_text(json.dumps({"hidden_size": 4}))
        assert model_fingerprint(model) != before

    @pytest.mark.parametrize("place", ["start", "middle", "end"])
    def test_changes_with_weights_of_the_same_size(self, model: Path, place: str) -> None:
        before = model_fingerprint(model)
        file = model / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[{"start": 500, "middle": len(content) // 2 + 10, "end": len(content) - 5}[place]] ^= 0xFF
        file.write_bytes(content)
        assert model_fingerprint(model) != before

    def test_other_files_do_not_count(self, model: Path) -> None:
        before = model_fingerprint(model)
        (model / "README.md").write_text("changed")
        assert model_fingerprint(model) == before
