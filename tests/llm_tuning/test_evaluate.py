from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch

from llm_tuning import evaluate
from llm_tuning.adapters import lora_attached, trainable_parameters
from llm_tuning.base_model import load_tokenizer
from llm_tuning.evaluate import HeldOutScores, generate_answers, held_out_scores
from llm_tuning.recipe import Metric, Recipe
from llm_tuning.tokenized_split import TokenizedSplit
from llm_tuning.train import Ranks

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from transformers import LlamaForCausalLM

MakeSplit = Callable[..., TokenizedSplit]


@pytest.fixture
def model(base: LlamaForCausalLM) -> Iterator[PeftModel]:
    """The tiny model with adapters that do something, in training mode, with dropout."""
    recipe = Recipe.from_params({"lora.rank": 4, "lora.dropout": 0.5})
    with lora_attached(base, recipe, 0, {}) as model:
        with torch.no_grad():
            for index, parameter in enumerate(trainable_parameters(model).values()):
                generator = torch.Generator().manual_seed(index)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.train()
        yield model


def measure(model: PeftModel, split: TokenizedSplit, ranks: Ranks, batch_size: int) -> HeldOutScores:
    scores = held_out_scores(model, split, ranks, batch_size, stop=lambda: False, on_batch=lambda: None)
    assert scores is not None
    return scores


def learn_elsewhere(split: TokenizedSplit) -> TokenizedSplit:
    """The same examples with gaps in what is learnt, as conversations have them."""
    learnt = np.random.default_rng(0).random(len(split.learnt)) < 0.5
    learnt[split.offsets[:-1]] = False
    learnt[split.offsets[1:] - 1] = True
    return TokenizedSplit(split.token_ids, split.offsets, learnt)


@pytest.mark.parametrize("has_gaps", [False, True])
def test_the_scores_are_those_of_full_logits(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit, has_gaps: bool
) -> None:
    split = learn_elsewhere(make_split(30)) if has_gaps else make_split(30)
    nats, hits, tokens = [], [], []
    model.eval()
    with torch.no_grad():
        for index in range(30):
            ids = torch.from_numpy(split.tokens(index).astype(np.int64))
            scores = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            places = split.learnt_places(index)
            nats.append(-sum(scores[place - 1, ids[place]].double().item() for place in places))
            hits.append(sum(int(scores[place - 1].argmax() == ids[place]) for place in places))
            tokens.append(len(places))
    model.train()
    scores = measure(model, split, ranks, batch_size=4)
    assert scores.nats == pytest.approx(nats, rel=1e-5)
    assert scores.hits.tolist() == hits
    assert scores.tokens.tolist() == tokens
    exact = [hit == count for hit, count in zip(hits, tokens, strict=True)]
    assert 0 < sum(hits) < sum(tokens)
    assert scores.metrics() == {
        "validation_loss": pytest.approx(sum(nats) / sum(tokens), rel=1e-6),
        "token_accuracy": sum(hits) / sum(tokens),
        "exact_match": sum(exact) / 30,
        "learnt_tokens": sum(tokens),
    }
    assert scores.loss != pytest.approx(np.mean(np.array(nats) / tokens), rel=1e-3)  # not the mean of means


def test_the_losses_of_many_tokens_are_taken_a_few_at_a_time(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = make_split(30)
    at_once = measure(model, split, ranks, batch_size=30)
    taken: list[int] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def watched(logits: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        taken.append(len(logits))
        return cross_entropy(logits, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", watched)
    monkeypatch.setattr(evaluate, "_TOKENS_AT_A_TIME", 7)
    in_parts = measure(model, split, ranks, batch_size=30)
    assert max(taken) == 7
    assert sum(taken) == split.learnt.sum()
    np.testing.assert_array_equal(in_parts.nats, at_once.nats)
    np.testing.assert_array_equal(in_parts.hits, at_once.hits)


@pytest.mark.parametrize("metric", get_args(Metric))
def test_examples_make_up_each_metric(model: PeftModel, ranks: Ranks, make_split: MakeSplit, metric: Metric) -> None:
    scores = measure(model, make_split(10), ranks, batch_size=4)
    values, weights = zip(*scores.per_example(metric), strict=True)
    assert np.average(values, weights=weights) == pytest.approx(scores.metrics()[metric], rel=1e-12)
    if metric == "exact_match":
        assert set(values) <= {0.0, 1.0}
        assert set(weights) == {1.0}
    else:
        assert list(weights) == scores.tokens.tolist()


def test_an_exact_match_is_what_greedy_decoding_writes(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit, model_directory: Path
) -> None:
    """Half of the answers are the model's own, the other half are wrong in one token."""
    tokenizer, prompts = load_tokenizer(model_directory), make_split(12)
    model.eval()
    ids, offsets, learnt = [], [0], []
    for index in range(len(prompts)):
        prompt = torch.from_numpy(prompts.prompt(index).astype(np.int64))[None]
        whole = (
            model.get_base_model()
            .generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=5,
                do_sample=False,
                pad_token_id=0,
            )[0]
            .numpy()
        )
        if index % 2:
            place = prompt.shape[1] + index % (len(whole) - prompt.shape[1])
            whole[place] = whole[place] % 100 + 2
        ids.append(whole.astype(np.int32))
        offsets.append(offsets[-1] + len(whole))
        learnt.append(np.arange(len(whole)) >= prompt.shape[1])
    split = TokenizedSplit(np.concatenate(ids), np.array(offsets), np.concatenate(learnt))
    scores = measure(model, split, ranks, batch_size=5)
    written = generate_answers(model, tokenizer, split, ranks, 12, 5, on_answer=lambda: None)
    wanted = [tokenizer.decode(split.answer(index), skip_special_tokens=True).strip() for index in range(12)]
    is_exact = [value == 1.0 for value, _ in scores.per_example("exact_match")]
    assert is_exact == [answer == want for answer, want in zip(written, wanted, strict=True)]
    assert is_exact == [index % 2 == 0 for index in range(12)]
    assert scores.exact_match == 0.5
    assert scores.token_accuracy > 0.5


def test_they_are_the_same_twice_and_nearly_so_in_other_batches(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit
) -> None:
    split = make_split(10)
    scores = [measure(model, split, ranks, batch_size) for batch_size in (4, 4, 1, 16)]
    assert scores[0].nats.tolist() == scores[1].nats.tolist()
    for other in scores[2:]:
        assert other.nats == pytest.approx(scores[0].nats, rel=1e-5)
        assert other.hits.tolist() == scores[0].hits.tolist()


def test_asked_to_stop_there_is_no_result(model: PeftModel, ranks: Ranks, make_split: MakeSplit) -> None:
    batches: list[None] = []
    scores = held_out_scores(
        model, make_split(10), ranks, 4, stop=lambda: len(batches) == 2, on_batch=lambda: batches.append(None)
    )
    assert scores is None
    assert len(batches) == 2


def test_answers_are_the_most_likely_tokens_one_after_the_other(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit, model_directory: Path
) -> None:
    tokenizer, split = load_tokenizer(model_directory), make_split(4)
    seen: list[None] = []
    answers = generate_answers(model, tokenizer, split, ranks, 3, 6, on_answer=lambda: seen.append(None))
    assert len(answers) == len(seen) == 3
    model.eval()
    for index, answer in enumerate(answers):
        ids = split.prompt(index).tolist()
        prompt = len(ids)
        with torch.no_grad():
            while len(ids) < prompt + 6 and ids[-1] != tokenizer.eos_token_id:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == tokenizer.decode(ids[prompt:], skip_special_tokens=True).strip()
        assert answer


def test_an_answer_ends_where_the_model_ends_it(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit, model_directory: Path
) -> None:
    tokenizer, split = load_tokenizer(model_directory), make_split(1)
    (long,) = generate_answers(model, tokenizer, split, ranks, 1, 6, on_answer=lambda: None)
    words = long.split()
    assert len(words) == 6
    third = tokenizer.convert_tokens_to_ids(words[2])
    model.get_base_model().generation_config.eos_token_id = [third, 1]
    (short,) = generate_answers(model, tokenizer, split, ranks, 1, 6, on_answer=lambda: None)
    assert short.split() == words[: words.index(words[2]) + 1]


def test_no_more_answers_than_prompts_and_none_if_none_are_wanted(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit, model_directory: Path
) -> None:
    tokenizer, split = load_tokenizer(model_directory), make_split(2)
    assert len(generate_answers(model, tokenizer, split, ranks, 5, 1, on_answer=lambda: None)) == 2
    assert generate_answers(model, tokenizer, split, ranks, 0, 1, on_answer=lambda: None) == ()
