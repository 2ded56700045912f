from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llm_tuning.data import (
    DataError,
    PreparedData,
    TokenizedSplit,
    TooLong,
    load_splits,
    prepare_splits,
    tokenize,
    tokenizer_fingerprint,
)
from llm_tuning.examples import Example

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEAD, TAIL = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
FRAME = 1 + 5 + 2 + 1 + 10
"""The template's tokens in a prompt: a token for each byte, one for each special token."""


def make_tokenizer(
    chat_template: str | None = None, merges: tuple[tuple[str, str], ...] = (), bos: bool = False
) -> PreTrainedTokenizerFast:
    """A token for each byte, and one for each of the merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "</s>", "<s>"])
    if bos:
        special = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=special)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>" if bos else None)
    wrapped.chat_template = chat_template
    return wrapped


def texts(split: TokenizedSplit, index: int, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    start = split.answer_starts[index]
    tokens = split.tokens(index)
    return tokenizer.decode(tokens[:start]), tokenizer.decode(tokens[start:])


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerFast:
    return make_tokenizer(CHATML)


class TestTokenizedSplit:
    split = TokenizedSplit(
        np.arange(7, dtype=np.int32), np.array([0, 3, 7], dtype=np.int64), np.array([1, 3], dtype=np.int32)
    )

    def test_gives_examples_back(self) -> None:
        assert len(self.split) == 2
        assert self.split.longest == 4
        assert [self.split.answer_length(index) for index in range(2)] == [2, 1]
        assert self.split.tokens(1).tolist() == [3, 4, 5, 6]
        assert np.shares_memory(self.split.tokens(1), self.split.token_ids)

    def test_survives_the_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "train.safetensors"
        self.split.save(path)
        loaded = TokenizedSplit.load(path)
        assert {name: array.dtype.name for name, array in load_file(path).items()} == {
            "token_ids": "int32",
            "offsets": "int64",
            "answer_starts": "int32",
        }
        assert loaded.tokens(0).tolist() == [0, 1, 2]
        assert loaded.fingerprint == self.split.fingerprint
        assert [entry.name for entry in tmp_path.iterdir()] == ["train.safetensors"]

    @pytest.mark.parametrize("field", ["token_ids", "offsets", "answer_starts"])
    def test_the_fingerprint_covers_everything(self, field: str) -> None:
        arrays = {name: getattr(self.split, name) for name in ("token_ids", "offsets", "answer_starts")}
        changed = arrays[field].copy()
        changed[-1] += 1
        assert TokenizedSplit(**{**arrays, field: changed}).fingerprint != self.split.fingerprint

    def test_damage_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "train.safetensors"
        with pytest.raises(DataError, match=r"expected tokenised examples in .*train\.safetensors"):
            TokenizedSplit.load(path)
        self.split.save(path)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(DataError, match=r"expected tokenised examples in .*train\.safetensors"):
            TokenizedSplit.load(path)


class TestTokenize:
    def test_the_boundary_of_a_chat_is_exact(self, chat: PreTrainedTokenizerFast) -> None:
        split, report = tokenize([Example("Add", "3"), Example("Käse?", "yes  ")], chat, 64)
        assert texts(split, 0, chat) == (f"{HEAD}Add{TAIL}", "3<|im_end|>")
        assert texts(split, 1, chat) == (f"{HEAD}Käse?{TAIL}", "yes  <|im_end|>")
        assert report.longest == split.longest == FRAME + 6 + 6
        assert "nothing cut" in report.describe()

    def test_no_token_spans_prompt_and_answer(self) -> None:
        tokenizer = make_tokenizer(merges=(("a", "b"),))
        assert len(tokenizer("ab")["input_ids"]) == 1
        split, _ = tokenize([Example("a", "b")], tokenizer, 8)
        assert split.answer_starts.tolist() == [1]
        assert texts(split, 0, tokenizer) == ("a", "b</s>")

    def test_plain_text_starts_as_the_tokenizer_would(self) -> None:
        tokenizer = make_tokenizer(bos=True)
        split, _ = tokenize([Example("a", "b"), Example("", "c")], tokenizer, 8)
        assert [texts(split, index, tokenizer) for index in range(2)] == [("<s>a", "b</s>"), ("<s>", "c</s>")]

    def test_an_empty_prompt_has_a_token_to_predict_from(self) -> None:
        tokenizer = make_tokenizer()
        split, _ = tokenize([Example("", "b")], tokenizer, 8)
        assert texts(split, 0, tokenizer) == ("</s>", "b</s>")

    def test_a_long_prompt_loses_its_oldest_text_and_keeps_the_template(self, chat: PreTrainedTokenizerFast) -> None:
        example = Example("0123456789" * 3, "yes")
        split, report = tokenize([example, Example("a", "b")], chat, FRAME + 12 + 4)
        assert texts(split, 0, chat) == (f"{HEAD}890123456789{TAIL}", "yes<|im_end|>")
        assert (report.prompts_cut, report.answers_cut, report.dropped) == (1, 0, 0)
        assert report.describe() == (
            f"2 examples, the longest has {FRAME + 34} tokens (at most {FRAME + 16} are kept); prompts cut: 1"
        )

    def test_plain_text_keeps_its_first_token(self) -> None:
        tokenizer = make_tokenizer(bos=True)
        split, _ = tokenize([Example("0123456789" * 3, "yes")], tokenizer, 1 + 10 + 4)
        assert texts(split, 0, tokenizer) == ("<s>0123456789", "yes</s>")

    def test_an_answer_that_does_not_fit_is_an_error_whose_remedy_works(self, chat: PreTrainedTokenizerFast) -> None:
        examples = [Example("0123456789", "a" * 40), Example("0123456789", "a" * 50), Example("a", "b")]
        with pytest.raises(DataError, match=r"2 of 3 answers do not fit .* 8 tokens of their prompt") as caught:
            tokenize(examples, chat, 50)
        needed = int(re.findall(r"max_length: (\d+)", str(caught.value))[0])
        assert needed == FRAME + 8 + 51
        split, report = tokenize(examples, chat, needed)
        assert texts(split, 1, chat) == (f"{HEAD}23456789{TAIL}", "a" * 50 + "<|im_end|>")
        assert report.prompts_cut == 1
        with pytest.raises(DataError, match="do not fit"):
            tokenize(examples, chat, needed - 1)

    def test_the_remedy_stays_within_the_context(self, chat: PreTrainedTokenizerFast) -> None:
        with pytest.raises(DataError, match=r"set too_long: truncate \(cuts answers\) or drop$"):
            tokenize([Example("a", "a" * 80)], chat, 50, context_length=60)

    def test_truncate_cuts_answers_and_counts_them(self, chat: PreTrainedTokenizerFast) -> None:
        examples = [Example("0123456789", "abcdefghij"), Example("0123456789", "abc"), Example("a", "b")]
        split, report = tokenize(examples, chat, FRAME + 8 + 5, "truncate")
        assert texts(split, 0, chat) == (f"{HEAD}23456789{TAIL}", "abcde")
        assert texts(split, 1, chat) == (f"{HEAD}123456789{TAIL}", "abc<|im_end|>")
        assert (report.prompts_cut, report.answers_cut, report.dropped) == (2, 1, 0)
        with pytest.raises(DataError, match="2 of 3 answers do not fit"):
            tokenize(examples, chat, FRAME + 8, "truncate")

    def test_drop_counts_and_never_drops_everything(self, chat: PreTrainedTokenizerFast) -> None:
        examples = [Example("a", "a" * 50), Example("a", "b")]
        split, report = tokenize(examples, chat, 50, "drop")
        assert [texts(split, index, chat)[1] for index in range(len(split))] == ["b<|im_end|>"]
        assert (report.examples, report.dropped) == (2, 1)
        with pytest.raises(DataError, match=r"1 of 1 examples are longer.*max_length: 71 or too_long: truncate-prompt"):
            tokenize(examples[:1], chat, 50, "drop")

    def test_error_refuses(self, chat: PreTrainedTokenizerFast) -> None:
        with pytest.raises(DataError, match=r"1 of 2 examples are longer, the longest has 71"):
            tokenize([Example("a", "a" * 50), Example("a", "b")], chat, 50, "error")

    def test_bad_arguments(self, chat: PreTrainedTokenizerFast) -> None:
        with pytest.raises(DataError, match=r"context of 2048 tokens, got 4096; set max_length to 2048"):
            tokenize([Example("a", "b")], chat, 4096, context_length=2048)
        with pytest.raises(DataError, match="at least one example"):
            tokenize([], chat, 64)
        with pytest.raises(DataError, match="max_length >= 2"):
            tokenize([Example("a", "b")], chat, 1)
        with pytest.raises(DataError, match="truncate-prompt, truncate, drop, error, got 'cut'"):
            tokenize([Example("a", "b")], chat, 64, "cut")  # type: ignore[arg-type]

    def test_progress_ends_at_the_total(self, chat: PreTrainedTokenizerFast) -> None:
        seen: list[tuple[int, int]] = []
        tokenize([Example("a", "b")] * 600, chat, 64, on_progress=lambda *step: seen.append(step))
        assert seen == [(256, 600), (512, 600), (600, 600)]

    @given(
        rows=st.lists(st.builds(Example, st.text(max_size=60), st.text("abc é", min_size=1, max_size=40)), min_size=1),
        max_length=st.integers(2, 90),
        too_long=st.sampled_from(["truncate-prompt", "truncate", "drop", "error"]),
        template=st.booleans(),
    )
    def test_every_example_fits_or_is_accounted_for(
        self, rows: list[Example], max_length: int, too_long: TooLong, template: bool
    ) -> None:
        tokenizer = CHAT if template else PLAIN
        whole, _ = tokenize(rows, tokenizer, 10_000)
        longer = int((np.diff(whole.offsets) > max_length).sum())
        if longer and (too_long == "error" or (too_long == "drop" and longer == len(rows))):
            with pytest.raises(DataError, match=f"{longer} of {len(rows)} examples are longer"):
                tokenize(rows, tokenizer, max_length, too_long)
            return
        try:
            split, report = tokenize(rows, tokenizer, max_length, too_long)
        except DataError:
            event("an answer does not fit")
            assert longer > 0
            assert too_long != "drop"
            return
        assert split.longest <= max_length
        assert report.dropped == len(rows) - len(split) == (longer if too_long == "drop" else 0)
        assert (split.answer_starts >= 1).all()
        if too_long == "drop":
            return
        for index in range(len(rows)):
            answer = split.tokens(index)[split.answer_starts[index] :]
            full = whole.tokens(index)[whole.answer_starts[index] :]
            assert len(answer) >= 1
            assert np.array_equal(answer, full[: len(answer)])
        cut = sum(whole.answer_length(index) > split.answer_length(index) for index in range(len(rows)))
        assert report.answers_cut == cut
        assert cut == 0 or too_long == "truncate"


PLAIN, CHAT = make_tokenizer(), make_tokenizer(CHATML)


class Study:
    """Three files and the directory that they are prepared in."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "study" / "data"
        self.paths = {name: root / f"{name}.jsonl" for name in ("train", "validation", "test")}
        for name, path in self.paths.items():
            rows = [{"prompt": f"{name} {index}", "completion": str(index)} for index in range(20)]
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def prepare(self, tokenizer: PreTrainedTokenizerFast = CHAT, **settings: object) -> PreparedData:
        return prepare_splits(self.paths, tokenizer, self.directory, **{"max_length": 64, **settings})  # type: ignore[arg-type]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


class TestPrepareSplits:
    def test_tokenises_once(self, study: Study) -> None:
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
        assert texts(second.splits["test"], 3, CHAT) == (f"{HEAD}test 3{TAIL}", "3<|im_end|>")

    def test_a_changed_file_is_refused(self, study: Study) -> None:
        study.prepare()
        with study.paths["validation"].open("a") as stream:
            stream.write('\n{"prompt": "new", "completion": "row"}')
        with pytest.raises(
            DataError,
            match=r"this study's data changed: the file of validation was [0-9a-f]{12} .* got [0-9a-f]{12}; "
            r"restore what it was, or start a new study directory",
        ):
            study.prepare()

    def test_another_tokenizer_or_setting_is_refused(self, study: Study) -> None:
        study.prepare()
        with pytest.raises(DataError, match="the tokenizer was"):
            study.prepare(PLAIN)
        with pytest.raises(DataError, match=r'the data settings was \{.*"max_length": 64.* got \{.*"max_length": 65'):
            study.prepare(max_length=65)
        del study.paths["test"]
        with pytest.raises(DataError, match=r"the file of test was [0-9a-f]{12} .* got nothing"):
            study.prepare()

    def test_the_same_content_elsewhere_is_the_same_data(self, study: Study, tmp_path: Path) -> None:
        first = study.prepare()
        study.paths["train"] = study.paths["train"].rename(tmp_path / "moved.jsonl")
        assert study.prepare().fingerprint == first.fingerprint

    @pytest.mark.parametrize("damage", ["cut", "missing", "swapped"])
    def test_damaged_tokens_are_made_again(self, study: Study, damage: str) -> None:
        first = study.prepare()
        file = study.directory / "train.safetensors"
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-8])
        elif damage == "missing":
            file.unlink()
        else:
            shutil.copy(study.directory / "test.safetensors", file)
            with pytest.raises(DataError, match=r"expected tokens with the hash .*train\.safetensors, got"):
                load_splits(study.directory)
        assert study.prepare().fingerprint == first.fingerprint
        assert load_splits(study.directory).fingerprint == first.fingerprint

    def test_an_unreadable_index_is_an_error(self, study: Study) -> None:
        study.prepare()
        (study.directory / "data.json").write_text("{")
        with pytest.raises(DataError, match=r"expected an index of tokenised data in .*data\.json"):
            study.prepare()

    def test_a_limit_takes_the_first_rows_of_one_shuffle(self, tmp_path: Path) -> None:
        def rows(name: str, **settings: object) -> list[str]:
            prepared = Study(tmp_path / name).prepare(**settings)
            return [texts(prepared.splits["train"], i, CHAT)[1] for i in range(len(prepared.splits["train"]))]

        for name in "abcd":
            (tmp_path / name).mkdir()
        five = rows("a", limits={"train": 5})
        assert len(five) == 5
        assert rows("b", limits={"train": 12})[:5] == five
        assert rows("c", limits={"train": 5}, seed=1) != five
        assert len(rows("d", limits={"train": 500})) == 20

    def test_a_limit_for_nothing_is_refused(self, study: Study) -> None:
        with pytest.raises(DataError, match="one for 'valid'"):
            study.prepare(limits={"valid": 5})
        with pytest.raises(DataError, match="at least 1 for train, got 0"):
            study.prepare(limits={"train": 0})

    def test_shared_rows_and_cuts_are_noted(self, study: Study) -> None:
        shared = study.paths["train"].read_text().splitlines()[:3]
        with study.paths["test"].open("a") as stream:
            stream.write("\n" + "\n".join(shared) + "\n" + json.dumps({"prompt": "x" * 99, "completion": "y"}))
        expected = (
            f"test: 24 examples, the longest has {FRAME + 99 + 2} tokens (at most 64 are kept); prompts cut: 1",
            "3 of 24 test examples are also in train (same prompt and completion): scores on them measure memory",
        )
        assert study.prepare().notes == expected
        assert study.prepare().notes == expected

    def test_an_error_names_the_split(self, study: Study) -> None:
        with pytest.raises(DataError, match="train: expected examples of at most 10 tokens"):
            study.prepare(max_length=10)
        assert not study.directory.exists()

    def test_a_directory_that_cannot_be_written(self, study: Study) -> None:
        study.directory.parent.parent.mkdir(exist_ok=True)
        study.directory.parent.write_text("a file")
        with pytest.raises(
            DataError, match=r"expected to write .*train\.safetensors, got: Not a directory; free some disk space or"
        ):
            study.prepare()

    def test_a_full_disk_leaves_a_study_that_can_go_on(self, study: Study, small_files: None) -> None:
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
        "import sys, llm_tuning.data, llm_tuning.examples, llm_tuning.base_model;"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


ROOT = Path(__file__).parents[2]
