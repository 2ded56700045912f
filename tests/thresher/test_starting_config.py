"""The text of a starting config, for machines and data that the tests need not have."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from llm_tuning.formats import Format
from llm_tuning.rows import Example, Text
from llm_tuning.splits import Rows
from nas.architecture import Architecture
from search_spaces.families import find_family
from tests.thresher.tiny_study import LLAMA_CONFIG
from thresher.build import build_plan
from thresher.config import StudyConfig, parse_config
from thresher.sizing import Lengths, Machine, Sizes, choose_sizes
from thresher.starting_config import KnownData, KnownModel, starting_config

LLAMA = {**LLAMA_CONFIG, "max_position_embeddings": 4096}
FAMILY = find_family(None, LLAMA)
MODEL = KnownModel("some/model", LLAMA, FAMILY, 2 * 10**9, Architecture.from_config(LLAMA), cast(Any, None))
GPU = Machine("H", 4, 80 * 10**9, True, 0)
CPU = Machine(None, 0, 0, False, 2)
QUESTIONS = Format("prompt_completion", {"prompt": "question", "completion": "answer"})


def data(form: Format = QUESTIONS, **changes: Any) -> KnownData:
    row = Text("a") if form.kind == "text" else Example("a", "b")
    splits = {"train": [row] * 7000, "validation": [row] * 500, "test": [row] * 600}
    files = {"train": "data/train.jsonl", "validation": "data/validation.jsonl", "test": "data/test.jsonl"}
    identity = {f"the data of {split}": "" for split in splits}
    lengths = Lengths((100, 200, 300), 40, form.kind == "text")
    counts = {split: len(rows) for split, rows in splits.items()}
    known = KnownData(Rows(splits, form, identity, ()), files, lengths, 304, "truncate-prompt", counts)
    return replace(known, **changes)


def text_of(known: KnownData, machine: Machine = GPU, model: KnownModel = MODEL) -> str:
    space = FAMILY.space_for(LLAMA)
    return starting_config(model, known, space, sizes_of(known, machine), machine, Path("runs/a"), Path("a.yaml"))


def sizes_of(known: KnownData, machine: Machine) -> Sizes:
    return choose_sizes(machine, 2 * 10**9, None, known.counts, known.lengths, 304, largest_batch=32, largest_rank=128)


def config_of(text: str) -> StudyConfig:
    config = parse_config(yaml.safe_load(text))
    build_plan(config, LLAMA, {"train": 7000, "validation": 500, "test": 600})
    return config


@pytest.mark.parametrize("machine", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("kind", ["prompt_completion", "text"])
def test_it_is_a_valid_config_with_a_reason_for_everything(machine: Machine, kind: str) -> None:
    form = QUESTIONS if kind == "prompt_completion" else Format("text", {"text": "body"})
    text = text_of(data(form), machine)
    config_of(text)
    for line in text.splitlines():
        is_section = not line.strip() or line.endswith(":")
        assert "#" in line or is_section, f"no comment: {line}"


def test_every_section_is_there() -> None:
    assert list(yaml.safe_load(text_of(data()))) == [
        name for name in StudyConfig.model_fields if name != "hyperparameters"
    ]


def test_on_several_gpus_it_tells_how_to_use_them() -> None:
    text = text_of(data())
    assert "accelerate launch --num_processes 4 -m thresher run a.yaml" in text
    assert "4 x H" in text
    assert "Cut down" not in text
    config = config_of(text)
    assert (config.model.dtype, config.resources.mixed_precision, config.search.trials) == ("bfloat16", "bf16", 20)


def test_on_a_cpu_it_tells_how_to_grow() -> None:
    text = text_of(data(), CPU)
    assert "# Cut down to what these cores do in" in text
    assert "To grow it: raise\n# search.budget (an epoch is 7,000)" in text
    config = config_of(text)
    assert config.search.trials == 8
    assert config.data.limits == {"validation": 48, "test": 64}


def test_each_hint_about_the_space_is_right() -> None:
    """Every domain that is shown may be taken into the config as it stands."""
    text = text_of(data())
    hints = [line for line in text.splitlines() if re.match(r"  # [a-z_]+\.[a-z_]+: ", line)]
    assert len(hints) == len(FAMILY.space_for(LLAMA).names)
    for hint in hints:
        config = config_of(text.replace(hint, hint.replace("# ", "", 1)))
        assert list(config.space) == [hint.strip("# ").partition(":")[0]]


def test_classes_are_also_counted() -> None:
    config = config_of(text_of(data(Format("text_label", {"text": "text", "label": "label"}))))
    assert [objective.metric for objective in config.objective] == ["validation_loss", "exact_match"]
    assert config.metric == "validation_loss"


def test_columns_and_paths_of_any_kind_survive() -> None:
    columns = {"prompt": 'a "b": {c}\n\n{d} # é', "completion": "no"}
    files = {"train": "my data: 1/#2/träin.jsonl", "validation": "yes", "test": "1e5"}
    config = config_of(text_of(data(Format("prompt_completion", columns), files=files)))
    assert config.data.columns == columns
    assert (config.data.train, config.data.validation, config.data.test) == tuple(files.values())


def test_its_commands_can_be_pasted_and_a_row_is_counted_as_one() -> None:
    known, space = data(), FAMILY.space_for(LLAMA)
    known = replace(known, rows=replace(known.rows, splits={**known.rows.splits, "test": [Example("a", "b")]}))
    text = starting_config(MODEL, known, space, sizes_of(known, GPU), GPU, Path("runs/a"), Path("my study.yaml"))
    assert "thresher run 'my study.yaml'" in text
    assert "# 1 row, found beside it" in text


def test_made_splits_are_told() -> None:
    known = data(files={"train": "a.csv"})
    known = replace(known, rows=replace(known.rows, identity={"the data of train": ""}))
    text = text_of(known)
    assert config_of(text).data.split.validation == 0.1
    assert "500 rows for validation and 600 rows for test" in text
    assert config_of(text).data.validation is None


def test_a_model_of_no_family_is_told() -> None:
    unknown = find_family(None, {"model_type": "unheard-of", "hidden_size": 64})
    assert "of no known family, 2B parameters" in text_of(data(), model=replace(MODEL, family=unknown))


def test_limits_of_text_count_rows() -> None:
    known = data(Format("text", {"text": "text"}), counts={"train": 70_000, "validation": 5000, "test": 600})
    assert config_of(text_of(known, CPU)).data.limits == {"validation": 4, "test": 64}
