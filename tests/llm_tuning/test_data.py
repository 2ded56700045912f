from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llm_tuning.data import PreparedData, load_splits, prepare_splits, tokenizer_fingerprint
from llm_tuning.rows import Conversation, DataError, Example, Row, Text, Turn

ROOT = Path(__file__).parents[2]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HASHES = {name: character * 64 for name, character in zip(("train", "validation", "test"), "abc", strict=True)}


def make_tokenizer(chat_template: str | None = None, merges: tuple[tuple[str, str], ...] = ()) -> Any:
    """A token for each byte, and one for each of the merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "</s>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    wrapped.chat_template = chat_template
    return wrapped


PLAIN, CHAT = make_tokenizer(), make_tokenizer(CHATML)


class Study:
    """Rows of three splits and the directory that they are prepared in."""

    def __init__(self, root: Path, given_rows: Any) -> None:
        self.directory = root / "study" / "data"
        self.splits: dict[str, list[Row]] = {
            name: [Example(f"{name} {index}", str(index)) for index in range(20)] for name in HASHES
        }
        self.identity = {f"the data of {name}": digest for name, digest in HASHES.items()}
        self.notes: tuple[str, ...] = ()
        self._given_rows = given_rows

    def prepare(self, tokenizer: Any = CHAT, **settings: Any) -> PreparedData:
        rows = self._given_rows(self.splits, self.identity, self.notes)
        return prepare_splits(rows, tokenizer, self.directory, **{"max_length": 64, **settings})


@pytest.fixture
def study(tmp_path: Path, given_rows: Any) -> Study:
    return Study(tmp_path, given_rows)


def test_tokenises_once(study: Study) -> None:
    steps: list[tuple[int, int]] = []
    first = study.prepare(on_progress=lambda *step: steps.append(step))
    assert steps == [(20, 60), (40, 60), (60, 60)]
    assert sorted(entry.name for entry in study.directory.iterdir()) == [
        "data.json",
        "test.safetensors",
        "train.safetensors",
        "validation.safetensors",
    ]
    second = study.prepare(on_progress=lambda *step: pytest.fail("tokenised again"))
    assert second.fingerprint == first.fingerprint == load_splits(study.directory).fingerprint
    assert second.reports == first.reports
    split = second.splits["test"]
    assert CHAT.decode(split.prompt(3)) == "<|im_start|>user\ntest 3<|im_end|>\n<|im_start|>assistant\n"
    assert CHAT.decode(split.answer(3)) == "3<|im_end|>"


def test_rows_of_every_kind(study: Study) -> None:
    turns = (Turn("user", "Hi"), Turn("assistant", "Hello"), Turn("user", "2+2?"), Turn("assistant", "4"))
    study.splits = {"train": [Example("a", "b"), Conversation(turns)], "validation": [Text("c" * 100)]}
    prepared = study.prepare(max_length=70)
    assert [len(split) for split in prepared.splits.values()] == [2, 2]
    assert prepared.reports["validation"].pieces == 2
    assert prepared.notes == ()
    assert study.prepare(max_length=70).reports == prepared.reports


def test_other_rows_are_refused(study: Study) -> None:
    study.prepare()
    study.identity["the data of validation"] = "d" * 64
    with pytest.raises(
        DataError,
        match=r"this study's data changed: the data of validation was b{12} when .* was made, got d{12}; "
        r"restore what it was, or start a new study directory",
    ):
        study.prepare()
    del study.identity["the data of validation"]
    with pytest.raises(DataError, match=r"the data of validation was b{12} .* got nothing"):
        study.prepare()


def test_settings_are_told_in_full(study: Study) -> None:
    study.identity["the settings of the rows"] = '{"seed": 0}'
    study.prepare()
    study.identity["the settings of the rows"] = '{"seed": 1}'
    with pytest.raises(DataError, match=r'the settings of the rows was \{"seed": 0\} when .* got \{"seed": 1\};'):
        study.prepare()


def test_another_tokenizer_or_setting_is_refused(study: Study) -> None:
    study.prepare()
    with pytest.raises(DataError, match=r"the tokenizer was [0-9a-f]{12} when"):
        study.prepare(PLAIN)
    with pytest.raises(DataError, match=r'the data settings was \{.*"max_length": 64.* got \{.*"max_length": 65'):
        study.prepare(max_length=65)
    with pytest.raises(DataError, match=r'"system": null.* got .*"system": "Be kind."'):
        study.prepare(system="Be kind.")


@pytest.mark.parametrize("damage", ["cut", "missing", "swapped", "of an earlier version"])
def test_damaged_tokens_are_made_again(study: Study, damage: str) -> None:
    from safetensors.numpy import load_file, save_file

    first = study.prepare()
    file = study.directory / "train.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "missing":
        file.unlink()
    elif damage == "swapped":
        shutil.copy(study.directory / "test.safetensors", file)
        with pytest.raises(DataError, match=r"expected tokens with the hash .*train\.safetensors, got"):
            load_splits(study.directory)
    else:
        arrays = load_file(file)
        save_file({"answer_starts": arrays.pop("learnt"), **arrays}, file)
        with pytest.raises(DataError, match="expected tokenised examples in"):
            load_splits(study.directory)
    assert study.prepare().fingerprint == first.fingerprint
    assert load_splits(study.directory).fingerprint == first.fingerprint


def test_an_unreadable_index_is_an_error(study: Study) -> None:
    study.prepare()
    (study.directory / "data.json").write_text("{")
    with pytest.raises(DataError, match=r"expected an index of tokenised data in .*data\.json"):
        study.prepare()


def test_notes_of_the_rows_and_of_cuts_are_kept(study: Study) -> None:
    study.notes = ("3 rows are in two splits",)
    study.splits["test"].append(Example("x" * 99, "y"))
    expected = (
        "3 rows are in two splits",
        "test: 21 examples, the longest has 120 tokens (at most 64 are kept); prompts cut: 1",
    )
    assert study.prepare().notes == expected
    assert study.prepare().notes == expected


def test_an_error_names_the_split(study: Study) -> None:
    with pytest.raises(DataError, match="train: expected examples of at most 10 tokens"):
        study.prepare(max_length=10)
    assert not study.directory.exists()


def test_a_directory_that_cannot_be_written(study: Study) -> None:
    study.directory.parent.write_text("a file")
    with pytest.raises(
        DataError, match=r"expected to write .*train\.safetensors, got: Not a directory; free some disk space or"
    ):
        study.prepare()


def test_a_full_disk_leaves_a_study_that_can_go_on(study: Study, small_files: None) -> None:
    with pytest.raises(DataError, match=r"expected to write .*train\.safetensors, got: File too large"):
        study.prepare()
    assert list(study.directory.iterdir()) == []
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert len(study.prepare().splits["train"]) == 20


@pytest.fixture
def small_files() -> Iterator[None]:
    """The operating system refuses larger files, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_tokenizer_fingerprint_covers_what_is_written_and_no_more() -> None:
    first = tokenizer_fingerprint(make_tokenizer(CHATML))
    used = make_tokenizer(CHATML)
    used(["a", "bcd"], truncation=True, max_length=2)  # leaves its mark in the tokenizer's own state
    assert tokenizer_fingerprint(used) == first
    assert tokenizer_fingerprint(make_tokenizer(CHATML, merges=(("a", "b"),))) != first
    assert tokenizer_fingerprint(make_tokenizer(CHATML + " ")) != first


def test_importing_does_not_load_torch_or_transformers() -> None:
    script = (
        "import sys, llm_tuning.data, llm_tuning.base_model, llm_tuning.recipe, llm_tuning.tracking;"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
