from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from llm_tuning.adapters import lora_attached, trainable_parameters
from llm_tuning.base_model import load_tokenizer
from llm_tuning.data import TokenizedSplit
from llm_tuning.evaluate import HeldOutLoss, generate_answers, held_out_loss
from llm_tuning.recipe import Recipe
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


def measure(model: PeftModel, split: TokenizedSplit, ranks: Ranks, batch_size: int) -> HeldOutLoss:
    loss = held_out_loss(model, split, ranks, batch_size, stop=lambda: False, on_batch=lambda: None)
    assert loss is not None
    return loss


def test_the_loss_is_the_mean_over_all_answer_tokens(model: PeftModel, ranks: Ranks, make_split: MakeSplit) -> None:
    split = make_split(10)
    nats, tokens = [], []
    model.eval()
    with torch.no_grad():
        for index in range(10):
            ids = torch.from_numpy(split.tokens(index).astype(np.int64))
            start = split.answer_starts[index]
            scores = model(input_ids=ids[None]).logits[0, start - 1 : -1].log_softmax(-1)
            nats.append(-scores[torch.arange(len(ids) - start), ids[start:]].double().sum().item())
            tokens.append(len(ids) - start)
    model.train()
    loss = measure(model, split, ranks, batch_size=4)
    assert loss.nats == pytest.approx(nats, rel=1e-5)
    assert loss.tokens.tolist() == tokens
    assert loss.answer_tokens == sum(tokens)
    assert loss.mean == pytest.approx(sum(nats) / sum(tokens), rel=1e-6)
    assert loss.mean != pytest.approx(np.mean(np.array(nats) / tokens), rel=1e-3)  # not the mean of means
    values, weights = zip(*loss.per_example, strict=True)
    assert np.average(values, weights=weights) == pytest.approx(loss.mean, rel=1e-12)


def test_it_is_the_same_twice_and_nearly_so_in_other_batches(
    model: PeftModel, ranks: Ranks, make_split: MakeSplit
) -> None:
    split = make_split(10)
    losses = [measure(model, split, ranks, batch_size) for batch_size in (4, 4, 1, 16)]
    assert losses[0].nats.tolist() == losses[1].nats.tolist()
    for loss in losses[2:]:
        assert loss.nats == pytest.approx(losses[0].nats, rel=1e-5)


def test_asked_to_stop_there_is_no_result(model: PeftModel, ranks: Ranks, make_split: MakeSplit) -> None:
    batches: list[None] = []
    loss = held_out_loss(
        model, make_split(10), ranks, 4, stop=lambda: len(batches) == 2, on_batch=lambda: batches.append(None)
    )
    assert loss is None
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
        ids = split.tokens(index)[: split.answer_starts[index]].tolist()
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
