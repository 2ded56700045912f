from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llm_tuning.rows import Conversation, DataError, Example, Row, Text, Turn
from llm_tuning.tokenize import TooLong, tokenize
from llm_tuning.tokenized_split import TokenizedSplit

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPS_THINKING = CHATML.replace(
    "{{ m.content }}", "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1] }}"
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


GLUED = "{% for m in messages %}{{ m.content }}{% endfor %}"


def make_sentencepiece() -> PreTrainedTokenizerFast:
    """A token for each letter, and a space before whatever it is given, as that of Llama 2."""
    letters = ["<0x0A>", "▁", "a", "b", ":", "</s>"]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(letters)}, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


PLAIN, PLAIN_BOS, CHAT, THINKING = (
    make_tokenizer(),
    make_tokenizer(bos=True),
    make_tokenizer(CHATML),
    make_tokenizer(STRIPS_THINKING),
)


def texts(split: TokenizedSplit, index: int, tokenizer: PreTrainedTokenizerFast) -> tuple[str, str]:
    """Prompt and first answer."""
    return tokenizer.decode(split.prompt(index)), tokenizer.decode(split.answer(index))


def marked(split: TokenizedSplit, index: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """The text of one example with what is learnt in ⟨⟩."""
    learnt = np.isin(np.arange(len(split.tokens(index))), split.learnt_places(index))
    turns = np.flatnonzero(np.diff(learnt)) + 1
    runs = [tokenizer.decode(run) for run in np.split(split.tokens(index), turns)]
    return "".join(f"⟨{run}⟩" if number % 2 else run for number, run in enumerate(runs))


def talk(*contents: str, system: str | None = None) -> Conversation:
    turns = [Turn("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]
    return Conversation((*([] if system is None else [Turn("system", system)]), *turns))


class TestExamples:
    def test_the_boundary_of_a_chat_is_exact(self) -> None:
        split, report = tokenize([Example("Add", "3"), Example("Käse?", "yes  ")], CHAT, 64)
        assert texts(split, 0, CHAT) == (f"{HEAD}Add{TAIL}", "3<|im_end|>")
        assert texts(split, 1, CHAT) == (f"{HEAD}Käse?{TAIL}", "yes  <|im_end|>")
        assert report.longest == split.longest == FRAME + 6 + 6
        assert "nothing cut" in report.describe()
        assert not report.is_lossy

    def test_no_token_spans_prompt_and_answer(self) -> None:
        tokenizer = make_tokenizer(merges=(("a", "b"),))
        assert len(tokenizer("ab")["input_ids"]) == 1
        split, _ = tokenize([Conversation((Turn("user", "?"), Turn("assistant", "b")))], tokenizer, 32)
        assert texts(split, 0, tokenizer) == ("User: ?\n\nAssistant:", " b</s>")
        split, _ = tokenize([Example("a", "b")], make_tokenizer(GLUED, merges=(("a", "b"),)), 8)
        assert split.learnt.tolist() == [False, True, True]
        assert texts(split, 0, tokenizer) == ("a", "b</s>")

    def test_an_answer_has_no_space_that_its_text_has_not(self) -> None:
        tokenizer = make_sentencepiece()
        split, _ = tokenize([Example("a:", "b a"), Example("a:", " b a"), Example("a:", "\nb")], tokenizer, 16)
        answers = [tokenizer.convert_ids_to_tokens(split.answer(index).tolist()) for index in range(3)]
        assert answers == [["b", "▁", "a", "</s>"], ["▁", "b", "▁", "a", "</s>"], ["<0x0A>", "b", "</s>"]]
        for index, whole in enumerate(("a:\nb a", "a: b a", "a:\nb")):  # the very tokens of the text in one piece
            assert split.tokens(index)[:-1].tolist() == tokenizer(whole)["input_ids"]

    def test_plain_text_starts_as_the_tokenizer_would(self) -> None:
        split, _ = tokenize([Example("a", "b"), Example("", "c")], PLAIN_BOS, 8)
        assert [texts(split, index, PLAIN_BOS) for index in range(2)] == [("<s>a\n", "b</s>"), ("<s>", "c</s>")]

    def test_an_empty_prompt_has_a_token_to_predict_from(self) -> None:
        split, _ = tokenize([Example("", "b")], PLAIN, 8)
        assert texts(split, 0, PLAIN) == ("</s>", "b</s>")

    def test_a_long_prompt_loses_its_oldest_text_and_keeps_the_template(self) -> None:
        example = Example("0123456789" * 3, "yes")
        split, report = tokenize([example, Example("a", "b")], CHAT, FRAME + 12 + 4)
        assert texts(split, 0, CHAT) == (f"{HEAD}890123456789{TAIL}", "yes<|im_end|>")
        assert (report.prompts_cut, report.answers_cut, report.dropped) == (1, 0, 0)
        assert report.describe() == (
            f"2 examples, the longest has {FRAME + 34} tokens (at most {FRAME + 16} are kept); prompts cut: 1"
        )
        assert report.is_lossy

    def test_plain_text_keeps_its_first_token(self) -> None:
        split, _ = tokenize([Example("0123456789" * 3, " yes")], PLAIN_BOS, 1 + 10 + 5)
        assert texts(split, 0, PLAIN_BOS) == ("<s>0123456789", " yes</s>")

    def test_an_answer_that_does_not_fit_is_an_error_whose_remedy_works(self) -> None:
        examples = [Example("0123456789", "a" * 40), Example("0123456789", "a" * 50), Example("a", "b")]
        with pytest.raises(DataError, match=r"2 of 3 answers do not fit .* 8 tokens of their prompt") as caught:
            tokenize(examples, CHAT, 50)
        needed = int(re.findall(r"max_length: (\d+)", str(caught.value))[0])
        assert needed == FRAME + 8 + 51
        split, report = tokenize(examples, CHAT, needed)
        assert texts(split, 1, CHAT) == (f"{HEAD}23456789{TAIL}", "a" * 50 + "<|im_end|>")
        assert report.prompts_cut == 1
        with pytest.raises(DataError, match="do not fit"):
            tokenize(examples, CHAT, needed - 1)

    def test_the_remedy_stays_within_the_context(self) -> None:
        with pytest.raises(DataError, match=r"set too_long: truncate \(cuts answers\) or drop$"):
            tokenize([Example("a", "a" * 80)], CHAT, 50, context_length=60)

    def test_truncate_cuts_answers_and_counts_them(self) -> None:
        examples = [Example("0123456789", "abcdefghij"), Example("0123456789", "abc"), Example("a", "b")]
        split, report = tokenize(examples, CHAT, FRAME + 8 + 5, "truncate")
        assert texts(split, 0, CHAT) == (f"{HEAD}23456789{TAIL}", "abcde")
        assert texts(split, 1, CHAT) == (f"{HEAD}123456789{TAIL}", "abc<|im_end|>")
        assert (report.prompts_cut, report.answers_cut, report.dropped) == (2, 1, 0)
        with pytest.raises(DataError, match="2 of 3 answers do not fit"):
            tokenize(examples, CHAT, FRAME + 8, "truncate")

    def test_drop_counts_and_never_drops_everything(self) -> None:
        examples = [Example("a", "a" * 50), Example("a", "b")]
        split, report = tokenize(examples, CHAT, 50, "drop")
        assert [texts(split, index, CHAT)[1] for index in range(len(split))] == ["b<|im_end|>"]
        assert (report.examples, report.dropped) == (2, 1)
        with pytest.raises(DataError, match=r"1 of 1 examples are longer.*max_length: 71 or too_long: truncate-prompt"):
            tokenize(examples[:1], CHAT, 50, "drop")

    def test_error_refuses(self) -> None:
        with pytest.raises(DataError, match=r"1 of 2 examples are longer, the longest has 71"):
            tokenize([Example("a", "a" * 50), Example("a", "b")], CHAT, 50, "error")

    def test_bad_arguments(self) -> None:
        with pytest.raises(DataError, match=r"context of 2048 tokens, got 4096; set max_length to 2048"):
            tokenize([Example("a", "b")], CHAT, 4096, context_length=2048)
        with pytest.raises(DataError, match="at least one example"):
            tokenize([], CHAT, 64)
        with pytest.raises(DataError, match="max_length >= 2"):
            tokenize([Example("a", "b")], CHAT, 1)
        with pytest.raises(DataError, match="max_length >= 3"):
            tokenize([Text("abc")], CHAT, 2)
        with pytest.raises(DataError, match="truncate-prompt, truncate, drop, error, got 'cut'"):
            tokenize([Example("a", "b")], CHAT, 64, "cut")  # type: ignore[arg-type]

    def test_progress_ends_at_the_total(self) -> None:
        seen: list[tuple[int, int]] = []
        tokenize([Example("a", "b"), Text("abc")] * 300, CHAT, 64, on_progress=lambda *step: seen.append(step))
        assert seen == [(256, 600), (512, 600), (600, 600)]


class TestConversations:
    row = talk("0123456789", "abc", "0123456789", "xyz")

    def test_all_answers_are_learnt_and_nothing_else(self) -> None:
        split, report = tokenize([self.row, Example("a", "b")], CHAT, 128)
        assert marked(split, 0, CHAT) == (
            f"{HEAD}0123456789{TAIL}⟨abc<|im_end|>⟩\n{HEAD}0123456789{TAIL}⟨xyz<|im_end|>⟩"
        )
        assert texts(split, 0, CHAT) == (f"{HEAD}0123456789{TAIL}", "abc<|im_end|>")
        assert marked(split, 1, CHAT) == f"{HEAD}a{TAIL}⟨b<|im_end|>⟩"
        assert report.longest == 2 * FRAME + 20 + 8 + 1

    def test_one_exchange_is_an_example_token_by_token(self) -> None:
        for system in (None, "Be kind."):
            chats, _ = tokenize([talk("Add", "3")], CHAT, 64, system=system)
            examples, _ = tokenize([Example("Add", "3")], CHAT, 64, system=system)
            assert chats.fingerprint == examples.fingerprint

    def test_without_a_template_it_begins_as_the_tokenizer_would(self) -> None:
        split, _ = tokenize([talk("Hi", "Hello", "2+2?", "4")], PLAIN_BOS, 128)
        assert marked(split, 0, PLAIN_BOS) == (
            "<s>User: Hi\n\nAssistant:⟨ Hello</s>⟩\n\nUser: 2+2?\n\nAssistant:⟨ 4</s>⟩"
        )

    def test_conversations_of_which_only_the_end_is_learnt_are_counted(self) -> None:
        thoughtful = talk("a", "<think>b</think>c", "d", "<think>e</think>f")
        split, report = tokenize([thoughtful, Example("a", "b"), talk("a", "b", "c", "d")], THINKING, 128)
        assert marked(split, 0, THINKING) == (f"{HEAD}a{TAIL}c<|im_end|>\n{HEAD}d{TAIL}⟨<think>e</think>f<|im_end|>⟩")
        assert marked(split, 2, THINKING).count("⟨") == 2
        assert report.last_answer_only == 1
        assert report.is_lossy
        assert report.describe().endswith(
            "only the last answer is learnt, as the chat template rewrites earlier ones: 1"
        )

    def test_the_oldest_turns_go_first_and_the_template_stays(self) -> None:
        def cut(excess: int) -> str:
            split, report = tokenize([self.row], CHAT, whole - excess)
            assert (report.prompts_cut, report.answers_cut) == (excess > 0, 0)
            assert split.longest == whole - excess
            return marked(split, 0, CHAT)

        split, _ = tokenize([self.row], CHAT, 128)
        whole = split.longest
        last = f"\n{HEAD}0123456789{TAIL}⟨xyz<|im_end|>⟩"
        assert cut(2) == f"{HEAD}23456789{TAIL}⟨abc<|im_end|>⟩{last}"
        # A question of which next to nothing is left teaches nothing, nor does half an answer.
        assert cut(3) == f"{HEAD}3456789{TAIL}abc<|im_end|>{last}"
        assert cut(10 + 13 + 1) == f"{HEAD}bc<|im_end|>{last}"
        assert cut(10 + 13 + 4) == f"{HEAD}{last}"
        assert cut(10 + 13 + 4 + 7 + 2) == f"{HEAD}23456789{TAIL}⟨xyz<|im_end|>⟩"
        with pytest.raises(DataError, match="1 of 1 answers do not fit"):
            cut(10 + 13 + 4 + 7 + 3)

    def test_a_system_turn_stays(self) -> None:
        row = talk("0123456789", "abc", "0123456789", "xyz", system="Be kind.")
        split, _ = tokenize([row], CHAT, 70)
        assert split.longest == 70
        assert marked(split, 0, CHAT).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")

    def test_truncate_cuts_the_last_answer(self) -> None:
        row = talk("0123456789", "abc", "0123456789", "a" * 50)
        split, report = tokenize([row], CHAT, 6 + 8 + 13 + 20, "truncate")
        assert marked(split, 0, CHAT) == f"{HEAD}23456789{TAIL}⟨{'a' * 20}⟩"
        assert (report.prompts_cut, report.answers_cut) == (1, 1)


class TestTexts:
    def test_all_but_the_first_token_is_learnt(self) -> None:
        for tokenizer, start in ((PLAIN, ""), (PLAIN_BOS, "<s>"), (CHAT, "")):
            split, report = tokenize([Text("abc"), Text("dé")], tokenizer, 8)
            whole = [f"{start}{text}</s>" for text in ("abc", "dé")]
            assert [tokenizer.decode(split.tokens(index)) for index in range(2)] == whole
            assert split.learnt_counts.tolist() == [len(split.tokens(index)) - 1 for index in range(2)]
            assert [len(split.prompt(index)) for index in range(2)] == [1, 1]
            assert (report.examples, report.pieces) == (2, 0)

    def test_a_system_text_is_refused(self) -> None:
        with pytest.raises(
            DataError, match="expected no system text with plain text, which has no turns, got one; rem"
        ):
            tokenize([Text("abc")], CHAT, 8, system="Be kind.")

    def test_without_an_end_token_it_ends_without_one(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.eos_token = None
        split, _ = tokenize([Text("abc")], tokenizer, 8)
        assert tokenizer.decode(split.token_ids) == "abc"

    def test_a_text_that_goes_on_does_not_end(self) -> None:
        split, _ = tokenize([Text("abc", continues=True), Text("def")], PLAIN_BOS, 8)
        assert [PLAIN_BOS.decode(split.tokens(index)) for index in range(2)] == ["<s>abc", "<s>def</s>"]

    def test_nothing_to_learn_is_left_out_and_counted(self) -> None:
        split, report = tokenize([Text(""), Text("abc")], PLAIN, 8)
        assert (len(split), report.dropped) == (1, 1)
        with pytest.raises(DataError, match="expected texts of two tokens or more, got 1 without; fill"):
            tokenize([Text("")], PLAIN, 8)

    @given(
        rows=st.lists(st.builds(Text, st.text(min_size=1, max_size=80)), min_size=1, max_size=4),
        max_length=st.integers(3, 40),
        too_long=st.sampled_from(["truncate-prompt", "truncate", "drop", "error"]),
        bos=st.booleans(),
    )
    def test_pieces_lose_nothing_whatever_is_done_to_the_too_long(
        self, rows: list[Text], max_length: int, too_long: TooLong, bos: bool
    ) -> None:
        tokenizer = PLAIN_BOS if bos else PLAIN
        whole = [[*tokenizer(row.text)["input_ids"], tokenizer.eos_token_id] for row in rows]
        split, report = tokenize(rows, tokenizer, max_length, too_long)
        assert split.token_ids.tolist() == [token for tokens in whole for token in tokens]
        lengths = np.diff(split.offsets)
        assert lengths.max() <= max_length
        assert lengths.min() >= 2
        assert (split.learnt_counts == lengths - 1).all()
        assert report.pieces == sum(-(-len(tokens) // max_length) for tokens in whole if len(tokens) > max_length)
        assert (report.longest, report.dropped) == (max(map(len, whole)), 0)
        assert not report.is_lossy
        ends = np.cumsum([len(tokens) for tokens in whole])
        assert set(ends) <= set(split.offsets.tolist())  # no piece reaches across two texts

    def test_pieces_of_one_text_are_about_as_long(self) -> None:
        split, report = tokenize([Text("a" * 200)], PLAIN, 64)
        assert np.diff(split.offsets).tolist() == [51, 50, 50, 50]
        assert report.describe().endswith("pieces of longer texts: 4")


ANSWERS = st.text("abc é", min_size=1, max_size=40)
EXAMPLES = st.builds(Example, st.text(max_size=60), ANSWERS)
TALKS = st.lists(st.tuples(st.text(max_size=30), ANSWERS), min_size=1, max_size=4).map(
    lambda pairs: talk(*(content for pair in pairs for content in pair))
)


@given(
    rows=st.lists(st.one_of(EXAMPLES, TALKS), min_size=1, max_size=10),
    max_length=st.integers(2, 90),
    too_long=st.sampled_from(["truncate-prompt", "truncate", "drop", "error"]),
    template=st.booleans(),
)
def test_every_dialogue_fits_or_is_accounted_for(
    rows: list[Row], max_length: int, too_long: TooLong, template: bool
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
    assert (split.learnt_counts >= 1).all()
    assert not split.learnt[split.offsets[:-1]].any()
    if too_long == "drop":
        return
    cut = 0
    for index in range(len(rows)):
        got, full = last_answer(split, index), last_answer(whole, index)
        assert got == full[: len(got)]
        cut += len(got) < len(full)
        assert split.learnt_counts[index] <= whole.learnt_counts[index]
    assert report.answers_cut == cut
    assert cut == 0 or too_long == "truncate"


def last_answer(split: TokenizedSplit, index: int) -> list[int]:
    places = split.learnt_places(index)
    start = places[np.flatnonzero(np.diff(places, prepend=-1) != 1)[-1]]
    return split.tokens(index)[start:].tolist()
