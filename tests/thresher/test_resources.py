from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from llm_tuning.data import PreparedData
from llm_tuning.tokenized_split import TokenizedSplit
from nas.architecture import Architecture
from nas.cost import checkpoint_bytes, linear_shapes
from thresher import resources
from thresher.build import Plan, build_plan
from thresher.config import ConfigError, StudyConfig, parse_config
from thresher.resources import check_disk, check_memory, max_checkpoints

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
RANK = 32
ALL_LAYERS = tuple(linear_shapes(Architecture.from_config(LLAMA)))


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def study(directory: Path, **sections: dict[str, Any]) -> tuple[StudyConfig, Plan]:
    content: dict[str, Any] = {
        "model": {"name": "some/model"},
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "search": {"budget": 9000, "trials": 18},
        "output": {"directory": str(directory)},
    }
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes}
    config = parse_config(content)
    return config, build_plan(config, LLAMA, {"train": 1000, "validation": 100})


def set_free(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**15, 0, int(free)))


def data_of(length: int) -> PreparedData:
    split = TokenizedSplit(np.zeros(length, np.int32), np.array([0, length], np.int64), np.arange(length) > 0)
    return PreparedData({"train": split}, {}, ())


class TestMaxCheckpoints:
    def test_full_budget(self, tmp_path: Path) -> None:
        config, plan = study(tmp_path, search={"scheduler": {"kind": "full"}}, finalists={"count": 3, "repeats": 2})
        assert max_checkpoints(config, plan) == 4 * (1 + 2)

    def test_asha(self, tmp_path: Path) -> None:
        config, plan = study(tmp_path, search={"kind": "asha"}, finalists={"count": 3, "repeats": 2})
        # Three rungs; six of the 18 trials may wait for the second with one checkpoint, two for the third with two.
        assert max_checkpoints(config, plan) == 4 * (3 + 2) + 6 * 1 + 2 * 2

    def test_where_every_trial_may_go_on(self, tmp_path: Path) -> None:
        config, plan = study(tmp_path, search={"kind": "median"}, finalists={"count": 3, "repeats": 2})
        assert max_checkpoints(config, plan) == 4 * (3 + 2) + 18 * 2


class TestDisk:
    one = checkpoint_bytes(Architecture.from_config(LLAMA), RANK, ALL_LAYERS)

    def test_enough_is_no_news(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config, plan = study(tmp_path)
        set_free(monkeypatch, self.one * max_checkpoints(config, plan) + 1)
        assert check_disk(config, plan, RANK) == []

    def test_what_may_not_suffice_is_noted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config, plan = study(tmp_path)
        need = self.one * max_checkpoints(config, plan)
        set_free(monkeypatch, need - 1e9)
        assert check_disk(config, plan, RANK) == [
            f"checkpoints may take up to {need / 1e9:.1f} GB (all of rank 32), and {need / 1e9 - 1:.1f} GB are free "
            f"in {tmp_path}"
        ]

    def test_less_than_three_checkpoints_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config, plan = study(tmp_path)
        set_free(monkeypatch, 3 * self.one - 1)
        with pytest.raises(ConfigError) as caught:
            check_disk(config, plan, RANK)
        assert str(caught.value) == (
            f"output.directory: expected room for at least three checkpoints of {self.one / 1e9:.2g} GB in {tmp_path}, "
            f"got {3 * self.one / 1e9:.2g} GB free; free some space or choose another disk"
        )

    def test_a_limit_of_the_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_free(monkeypatch, 1e15)
        need = self.one * max_checkpoints(*study(tmp_path)) / 1e9
        config, plan = study(tmp_path, resources={"max_checkpoint_gb": need * 0.99})
        with pytest.raises(
            ConfigError, match=r"^resources.max_checkpoint_gb: expected at least the .* GB .*; raise it"
        ):
            check_disk(config, plan, RANK)
        config, plan = study(tmp_path, resources={"max_checkpoint_gb": need * 1.01})
        assert check_disk(config, plan, RANK) == []

    def test_only_the_layers_that_can_get_adapters_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        attention = checkpoint_bytes(Architecture.from_config(LLAMA), RANK, ALL_LAYERS[:4])
        set_free(monkeypatch, 3 * attention)
        config, plan = study(tmp_path, hyperparameters={"lora.targets": "attention"})
        assert check_disk(config, plan, RANK)  # a note, no error
        space = {"lora.targets": {"kind": "choice", "values": ["attention", "all-linear"]}}
        config, plan = study(tmp_path, space=space)
        with pytest.raises(ConfigError):
            check_disk(config, plan, RANK)

    def test_the_real_disk_is_asked(self, tmp_path: Path) -> None:
        config, plan = study(tmp_path)
        free = shutil.disk_usage(tmp_path).free
        rank = 1 + int(free / checkpoint_bytes(Architecture.from_config(LLAMA), 3, ALL_LAYERS) * 1.1)
        with pytest.raises(ConfigError):
            check_disk(config, plan, rank)


class TestMemory:
    @pytest.fixture(autouse=True)
    def without_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "exists", lambda path: str(path) != "/proc/driver/nvidia")

    def test_enough_is_no_news(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources, "_available_memory", lambda: 10**13)
        assert check_memory(*study(tmp_path), RANK, data_of(512)) == []

    def test_too_little_is_noted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources, "_available_memory", lambda: 10**9)
        (note,) = check_memory(*study(tmp_path), RANK, data_of(512))
        assert note.startswith("training may need ")
        assert "1.0 GB are available: lower resources.micro_batch_size or data.max_length" in note

    def test_longer_texts_and_batches_need_more(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources, "_available_memory", lambda: 1)

        def needed(length: int, micro_batch: int) -> float:
            config, plan = study(tmp_path, resources={"micro_batch_size": micro_batch})
            (note,) = check_memory(config, plan, RANK, data_of(length))
            return float(note.split()[3])

        assert 0.5 < needed(64, 1) < needed(512, 1) < needed(512, 8)

    def test_where_nothing_is_known_nothing_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resources, "_available_memory", lambda: None)
        assert check_memory(*study(tmp_path), RANK, data_of(512)) == []

    @pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="only Linux tells the available memory this way")
    def test_linux_tells_the_available_memory(self) -> None:
        available = resources._available_memory()
        assert available is not None
        assert 10**8 < available < 10**14
