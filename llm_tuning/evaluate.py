"""How well a model does on a held-out split, example by example, and what it writes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from llm_tuning.batches import Batch, Indices, collate
from llm_tuning.recipe import Metric
from llm_tuning.train import Ranks, learnt_logits, learnt_nats

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from llm_tuning.tokenized_split import TokenizedSplit


_TOKENS_AT_A_TIME = 512


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutScores:
    """How well a model predicts the learnt tokens of a split, each from all that comes before it.

    Attributes:
        nats: float64 [examples], the sum of the losses of each example's learnt tokens.
        hits: int64 [examples], how many of them the model holds for the most likely.
        tokens: int64 [examples], their number.
    """

    nats: NDArray[np.float64]
    hits: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @property
    def loss(self) -> float:
        """Loss of a learnt token in nats, over all of them."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def token_accuracy(self) -> float:
        """The share of the learnt tokens that the model holds for the most likely."""
        return float(self.hits.sum() / self.tokens.sum())

    @property
    def exact_match(self) -> float:
        """The share of the examples all of whose learnt tokens it does: its own answer, decoded greedily, is the same.

        Of a conversation, all answers are the same, each given the others. An answer that was cut to fit counts by what
        is left of it. Of plain text this says little.
        """
        return float(np.mean(self.hits == self.tokens))

    def metrics(self) -> dict[str, float]:
        """All of these by the names that they have on the validation split, and the number of learnt tokens."""
        return {
            "validation_loss": self.loss,
            "token_accuracy": self.token_accuracy,
            "exact_match": self.exact_match,
            "learnt_tokens": float(self.tokens.sum()),
        }

    def per_example(self, metric: Metric) -> tuple[tuple[float, float], ...]:
        """(value, weight) of each example, whose weighted mean is the metric."""
        tokens = self.tokens.astype(np.float64)
        match metric:
            case "validation_loss":
                values, weights = self.nats / tokens, tokens
            case "token_accuracy":
                values, weights = self.hits / tokens, tokens
            case "exact_match":
                values, weights = (self.hits == self.tokens).astype(np.float64), np.ones(len(tokens))
        return tuple(zip(values.tolist(), weights.tolist(), strict=True))


def held_out_scores(
    model: PeftModel,
    split: TokenizedSplit,
    ranks: Ranks,
    batch_size: int,
    *,
    stop: Callable[[], bool],
    on_batch: Callable[[], None],
) -> HeldOutScores | None:
    """The scores of the model on all examples of a split; None if `stop` came before the end.

    The batches do not depend on the number of ranks, so the scores of the examples do not either.

    Args:
        stop: whether to give up; asked on the first rank before every batch.
        on_batch: called after each batch, as a sign of life.

    Raises RankError if another rank failed.
    """
    sums = np.zeros((2, len(split)))
    error, is_complete = None, False
    try:
        is_complete = _score(model, split, ranks, batch_size, sums, stop, on_batch)
    except Exception as caught:  # raised again by meet, on all ranks
        error = caught
    (incomplete,) = ranks.meet(error, not is_complete)
    if incomplete:
        return None
    total = torch.from_numpy(sums).to(ranks.accelerator.device) if ranks.count > 1 else torch.from_numpy(sums)
    ranks.sum(total)  # every example was scored by one rank and is 0 on the others
    nats, hits = total.cpu().numpy()
    return HeldOutScores(nats, hits.astype(np.int64), split.learnt_counts)


def _score(
    model: PeftModel,
    split: TokenizedSplit,
    ranks: Ranks,
    batch_size: int,
    sums: NDArray[np.float64],
    stop: Callable[[], bool],
    on_batch: Callable[[], None],
) -> bool:
    """Fill in this rank's part of `sums`, nats and hits [2, examples]; whether it was not stopped."""
    model.eval()
    with torch.no_grad():
        for batch in _by_length(split, batch_size)[ranks.index :: ranks.count]:
            if ranks.is_first and stop():
                return False
            arrays = collate(split, batch)
            for row, values in zip(sums, _of_tokens(model, arrays, ranks), strict=True):
                row[batch] = np.bincount(arrays.rows, weights=values, minlength=len(batch))
            on_batch()
    return True


def _of_tokens(model: PeftModel, arrays: Batch, ranks: Ranks) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each learnt token its loss, and 1 if it is the most likely one, else 0.

    A function of its own, so that the logits are gone before the next batch makes new ones.
    """
    logits, targets = learnt_logits(model, arrays, ranks.accelerator)
    # A few tokens at a time: the loss makes copies in float32, and with a large vocabulary the logits are the
    # largest of all tensors.
    parts = zip(logits.split(_TOKENS_AT_A_TIME), targets.split(_TOKENS_AT_A_TIME), strict=True)
    scores = [torch.stack([learnt_nats(part, right), (part.argmax(-1) == right).float()]) for part, right in parts]
    nats, hits = torch.cat(scores, dim=1).cpu().numpy().astype(np.float64)
    return nats, hits


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

    A prompt is all that comes before the first learnt token: of a conversation, its first question.

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
    prompt = torch.from_numpy(split.prompt(index).astype(np.int64))[None].to(ranks.accelerator.device)
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
