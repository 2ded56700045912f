"""How well a model answers: its loss on a held-out split, example by example, and what it writes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from llm_tuning.batches import Indices, answer_lengths, collate
from llm_tuning.train import Ranks, answer_nats

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from llm_tuning.data import TokenizedSplit


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutLoss:
    """The loss on a split.

    Attributes:
        nats: float64 [examples], the sum of the losses of each example's answer tokens.
        tokens: int64 [examples], their number.
    """

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Loss of an answer token in nats, over all answer tokens of the split."""
        return float(self.nats.sum() / self.answer_tokens)

    @property
    def answer_tokens(self) -> int:
        """The number of answer tokens of the split."""
        return int(self.tokens.sum())

    @property
    def per_example(self) -> tuple[tuple[float, float], ...]:
        """(mean loss, number of answer tokens) of each example; `mean` is their weighted mean."""
        return tuple(zip((self.nats / self.tokens).tolist(), self.tokens.astype(float).tolist(), strict=True))


def held_out_loss(
    model: PeftModel,
    split: TokenizedSplit,
    ranks: Ranks,
    batch_size: int,
    *,
    stop: Callable[[], bool],
    on_batch: Callable[[], None],
) -> HeldOutLoss | None:
    """The loss of the model on all examples of a split; None if `stop` came before the end.

    The batches do not depend on the number of ranks, so the losses of the examples do not either.

    Args:
        stop: whether to give up; asked on the first rank before every batch.
        on_batch: called after each batch, as a sign of life.

    Raises RankError if another rank failed.
    """
    nats = np.zeros(len(split))
    error, is_complete = None, False
    try:
        is_complete = _score(model, split, ranks, batch_size, nats, stop, on_batch)
    except Exception as caught:  # raised again by meet, on all ranks
        error = caught
    (incomplete,) = ranks.meet(error, not is_complete)
    if incomplete:
        return None
    total = torch.from_numpy(nats).to(ranks.accelerator.device) if ranks.count > 1 else torch.from_numpy(nats)
    ranks.sum(total)  # every example was scored by one rank and is 0 on the others
    return HeldOutLoss(total.cpu().numpy(), answer_lengths(split))


def _score(
    model: PeftModel,
    split: TokenizedSplit,
    ranks: Ranks,
    batch_size: int,
    nats: NDArray[np.float64],
    stop: Callable[[], bool],
    on_batch: Callable[[], None],
) -> bool:
    """Fill in this rank's part of `nats`; whether it was not stopped."""
    model.eval()
    with torch.no_grad():
        for batch in _by_length(split, batch_size)[ranks.index :: ranks.count]:
            if ranks.is_first and stop():
                return False
            arrays = collate(split, batch)
            losses = answer_nats(model, arrays, ranks.accelerator).cpu().numpy().astype(np.float64)
            nats[batch] = np.bincount(arrays.rows, weights=losses, minlength=len(batch))
            on_batch()
    return True


def _by_length(split: TokenizedSplit, batch_size: int) -> list[Indices]:
    """All examples in batches of similar length, the longest first, so that a lack of memory shows at once."""
    order = np.argsort(-np.diff(split.offsets), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate_answers(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    split: TokenizedSplit,
    ranks: Ranks,
    count: int,
    max_new_tokens: int,
    *,
    on_answer: Callable[[], None],
) -> tuple[str, ...]:
    """The model's own answers to the first `count` prompts of a split, decoded greedily.

    Args:
        max_new_tokens: an answer is cut there if the model does not end it before.
        on_answer: called after each answer, as a sign of life.

    Raises RankError if another rank failed.
    """

    def answer_share() -> list[tuple[int, str]]:
        model.eval()
        config = _greedy(model, tokenizer, max_new_tokens)
        answers = []
        for index in range(min(count, len(split)))[ranks.index :: ranks.count]:
            answers.append((index, _answer(model, tokenizer, split, index, config, ranks)))
            on_answer()
        return answers

    return tuple(answer for _, answer in sorted(ranks.gather(ranks.together(answer_share))))


def _answer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    split: TokenizedSplit,
    index: int,
    config: GenerationConfig,
    ranks: Ranks,
) -> str:
    """One prompt at a time: without padding, the answer does not depend on its neighbours."""
    tokens = split.tokens(index)[: split.answer_starts[index]].astype(np.int64)
    prompt = torch.from_numpy(tokens)[None].to(ranks.accelerator.device)
    with torch.no_grad(), ranks.accelerator.autocast():
        # The model inside: peft's own wrapper of `generate` changes attributes of the base model.
        output = model.get_base_model().generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
        )
    return tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True).strip()


def _greedy(model: PeftModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    from transformers import GenerationConfig

    configured = model.get_base_model().generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    end_tokens = sorted(ends) or None
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end_tokens or [0])[0]
    return GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end_tokens, pad_token_id=padding
    )
