from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from controller.trial import FailureKind
from llm_tuning.adapters import adapter_weights, load_adapter_weights, lora_attached, trainable_parameters
from llm_tuning.batches import collate, example_indices
from llm_tuning.recipe import Recipe
from llm_tuning.schedule import learning_rate
from llm_tuning.tokenized_split import TokenizedSplit
from llm_tuning.train import (
    DivergedError,
    GroupLostError,
    RankError,
    Ranks,
    StepOutcome,
    Trainer,
    describe,
    failure_kind,
    is_fatal,
    learnt_logits,
    learnt_nats,
)
from search_spaces.space import Params

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

MakeSplit = Callable[..., TokenizedSplit]
Start = Callable[..., Any]

TARGETS = {"attention": ("q_proj", "v_proj")}
HORIZON = 120


@pytest.fixture
def start(base: LlamaForCausalLM, ranks: Ranks, make_split: MakeSplit) -> Start:
    """Puts adapters on the tiny model and gives (model, trainer); batches of 6."""

    @contextmanager
    def start(
        params: Params | None = None,
        seed: int = 3,
        micro_batch_size: int = 4,
        horizon: int = HORIZON,
        examples: int = 25,
    ) -> Iterator[tuple[PeftModel, Trainer]]:
        recipe = recipe_of(params)
        with lora_attached(base, recipe, seed, TARGETS) as model:
            yield model, Trainer(ranks, model, recipe, seed, horizon, make_split(examples), micro_batch_size)

    return start


def recipe_of(params: Params | None = None) -> Recipe:
    few = {"optimizer.batch_size": 6, "optimizer.learning_rate": 0.01, "lora.rank": 4, "schedule.warmup": 0.1}
    return Recipe.from_params({**few, **(params or {})})


def weights_of(model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in adapter_weights(model).items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_the_loss_of_answers_is_that_of_the_whole_forward_pass(
    start: Start, ranks: Ranks, make_split: MakeSplit
) -> None:
    split = make_split(9)
    batch = collate(split, np.array([4, 1, 7, 2]))
    with start() as (model, _), torch.no_grad():
        got = learnt_nats(*learnt_logits(model, batch, ranks.accelerator))
        logits = model(input_ids=torch.from_numpy(batch.input_ids)).logits  # after it: the hook must be gone
        assert logits.shape == (*batch.input_ids.shape, 128)
        picked = logits[batch.rows, batch.columns].log_softmax(-1)
        expected = -picked[torch.arange(len(batch.targets)), batch.targets]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_padding_and_neighbours_do_not_matter(start: Start, ranks: Ranks, make_split: MakeSplit) -> None:
    split = make_split(9)
    with start() as (model, _), torch.no_grad():

        def losses(indices: np.ndarray) -> torch.Tensor:
            return learnt_nats(*learnt_logits(model, collate(split, indices), ranks.accelerator))

        together = losses(np.arange(9))
        alone = [losses(np.array([index])) for index in range(9)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_what_a_model_does_to_its_logits_is_kept(ranks: Ranks, make_split: MakeSplit) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=128,
        final_logit_softcapping=0.5,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    split = make_split(5)
    batch = collate(split, np.arange(5))
    with lora_attached(Gemma2ForCausalLM(config).eval(), recipe_of(), 0, TARGETS) as model, torch.no_grad():
        got = learnt_nats(*learnt_logits(model, batch, ranks.accelerator))
        logits = model(input_ids=torch.from_numpy(batch.input_ids)).logits
    assert 0.4 < logits.abs().max() <= 0.5  # the cap is felt
    expected = -logits[batch.rows, batch.columns].log_softmax(-1)[torch.arange(len(batch.targets)), batch.targets]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_steps_equal_those_of_a_plain_loop(start: Start, make_split: MakeSplit) -> None:
    """Four steps against the textbook: one padded batch, masked mean of the loss, AdamW, clipping, all from torch."""
    params = {"optimizer.weight_decay": 0.1, "optimizer.max_grad_norm": 0.3}
    split, recipe = make_split(25), recipe_of(params)
    with start(params, micro_batch_size=4) as (model, trainer):
        outcomes = [trainer.step() for _ in range(4)]
        weights = weights_of(model)
    expected = []
    with start(params) as (model, _):
        parameters = list(trainable_parameters(model).values())
        for parameter in parameters:
            parameter.grad = None
        optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1)
        for step in range(4):
            batch = collate(split, example_indices(3, 6 * step, 6, 25))
            labels = torch.full(batch.input_ids.shape, -100)
            labels[batch.rows, batch.columns + 1] = torch.from_numpy(batch.targets)
            loss = model.train()(input_ids=torch.from_numpy(batch.input_ids), labels=labels).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 0.3)
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, step, HORIZON)
            optimizer.step()
            optimizer.zero_grad()
            expected.append((loss.item(), norm.item()))
        reference = weights_of(model)
    assert [outcome.loss for outcome in outcomes] == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    assert [outcome.gradient_norm for outcome in outcomes] == pytest.approx([norm for _, norm in expected], rel=1e-4)
    assert all(norm > 0.3 for _, norm in expected)  # clipping is felt
    assert outcomes[0].learning_rate == 0.0
    assert outcomes[2].learning_rate == recipe.learning_rate
    for name, weight in weights.items():
        torch.testing.assert_close(weight, reference[name], rtol=1e-4, atol=1e-6)


def test_the_split_into_micro_batches_does_not_matter(start: Start) -> None:
    results = []
    for micro_batch_size in (1, 4, 6):
        with start(micro_batch_size=micro_batch_size) as (model, trainer):
            losses = [trainer.step().loss for _ in range(4)]
            results.append((losses, weights_of(model)))
    for losses, weights in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-5)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, results[0][1][name], rtol=1e-4, atol=1e-5)


def test_training_learns(start: Start) -> None:
    with start({"schedule.kind": "constant"}) as (_, trainer):
        losses = [trainer.step().loss for _ in range(20)]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "wsd"])
def test_paused_and_resumed_equals_uninterrupted_bit_for_bit(start: Start, schedule: str) -> None:
    """30 then 90, with dropout, across the ends of three epochs of 25, and with the weights of another seed before."""
    params = {"schedule.kind": schedule, "lora.dropout": 0.3, "optimizer.weight_decay": 0.05}

    def train(trainer: Trainer, until: int) -> list[StepOutcome]:
        outcomes = []
        while trainer.examples < until:
            torch.manual_seed(len(outcomes))  # chance from outside has no say
            outcomes.append(trainer.step())
        return outcomes

    with start(params, horizon=90) as (model, trainer):
        straight = train(trainer, 90)
        weights, moments = weights_of(model), trainer.optimizer_tensors()
    with start(params, horizon=90) as (model, trainer):
        first = train(trainer, 30)
        paused, state = weights_of(model), {k: v.clone() for k, v in trainer.optimizer_tensors().items()}
        examples, steps = trainer.examples, trainer.steps
    with start(params, horizon=90) as (model, trainer):
        load_adapter_weights(model, {name: torch.zeros_like(weight) for name, weight in paused.items()})
        load_adapter_weights(model, paused)
        trainer.resume(examples, steps, state)
        second = train(trainer, 90)
        assert_equal(weights_of(model), weights)
        assert_equal(trainer.optimizer_tensors(), moments)
    assert [*first, *second] == straight
    assert len({outcome.loss for outcome in straight}) == 15
    rates = [learning_rate(recipe_of(params), step, 90) for step in range(15)]
    assert [outcome.learning_rate for outcome in straight] == rates


def test_with_another_batch_size_the_schedule_goes_on_where_the_examples_are(start: Start) -> None:
    with start(horizon=90) as (_, trainer):
        for _ in range(5):
            trainer.step()
        state = trainer.optimizer_tensors()
    other = {"optimizer.batch_size": 10}
    with start(other, horizon=90) as (_, trainer):
        trainer.resume(30, 5, state)
        rates = [trainer.step().learning_rate for _ in range(2)]
        assert (trainer.examples, trainer.steps) == (50, 7)
    assert rates == [learning_rate(recipe_of(other), step, 90) for step in (3, 4)]


def test_dropout_differs_between_steps_micro_batches_and_seeds(start: Start) -> None:
    """The training set is one example, so that losses can differ by dropout alone."""
    params = {"schedule.kind": "constant", "schedule.warmup": 0.0, "optimizer.learning_rate": 1e-12}
    with start() as (model, _):
        weights = {name: torch.full_like(weight, 0.1) for name, weight in adapter_weights(model).items()}
    losses = {}
    for name, seed, dropout, batch in (
        ("first", 3, 0.5, 1),
        ("again", 3, 0.5, 1),
        ("other", 4, 0.5, 1),
        ("two", 3, 0.5, 2),
        ("none", 3, 0.0, 1),
    ):
        changes = {**params, "lora.dropout": dropout, "optimizer.batch_size": batch}
        with start(changes, seed=seed, micro_batch_size=1, examples=1) as (model, trainer):
            load_adapter_weights(model, weights)
            losses[name] = [trainer.step().loss for _ in range(3)]
    assert losses["first"] == losses["again"]
    assert len({*losses["first"], *losses["other"], *losses["two"]}) == 9
    assert losses["none"] == pytest.approx([losses["none"][0]] * 3, rel=1e-6)
    assert min(abs(loss - losses["first"][0]) for loss in losses["first"][1:]) > 1e-4


def test_the_global_random_state_is_left_alone(start: Start) -> None:
    with start({"lora.dropout": 0.3}) as (_, trainer):
        torch.manual_seed(99)
        state = torch.get_rng_state()
        trainer.step()
        assert torch.equal(torch.get_rng_state(), state)


def test_asked_to_stop_in_the_middle_of_a_step_nothing_has_happened(start: Start) -> None:
    with start() as (model, trainer):
        trainer.step()
        trainer.step()
        before = weights_of(model)
        passed: list[None] = []
        assert trainer.step(stop=lambda: len(passed) == 1, on_micro_batch=lambda: passed.append(None)) is None
        assert len(passed) == 1
        assert (trainer.examples, trainer.steps) == (12, 2)
        assert_equal(weights_of(model), before)
        interrupted = trainer.step()
    with start() as (_, trainer):
        uninterrupted = [trainer.step() for _ in range(3)]
    assert interrupted == uninterrupted[2]


def test_the_wish_to_save_comes_back(start: Start) -> None:
    with start() as (_, trainer):
        assert [trainer.step(save=save).save for save in (False, True)] == [False, True]


def test_a_loss_that_is_not_finite_is_divergence_and_leaves_the_weights(start: Start) -> None:
    params = {"schedule.kind": "constant", "schedule.warmup": 0.0}
    with start({**params, "optimizer.learning_rate": 1e30}) as (model, trainer):
        trainer.step()
        before = weights_of(model)
        with pytest.raises(
            DivergedError, match=r"in optimizer step 2 at 6 examples; lower optimizer.learning_rate"
        ) as raised:
            trainer.step()
        assert_equal(weights_of(model), before)
        assert trainer.examples == 6
    assert failure_kind(raised.value) is FailureKind.DIVERGED


def test_a_gradient_that_is_not_finite_is_divergence(start: Start) -> None:
    with start() as (model, trainer):
        next(iter(trainable_parameters(model).values())).register_hook(lambda gradient: gradient / 0)
        with pytest.raises(DivergedError, match=r"gradient norm (nan|inf)"):
            trainer.step()


def test_a_loss_scale_changes_no_result_and_is_part_of_the_state(start: Start, ranks: Ranks) -> None:
    """Scaling by a power of two is exact. Accelerate scales with fp16 only, which a CPU does not have."""
    with start() as (model, trainer):
        expected = [trainer.step() for _ in range(3)]
        weights = weights_of(model)
    accelerator = ranks.accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu")
    try:
        with start() as (model, trainer):
            outcomes = [trainer.step() for _ in range(3)]
            state = trainer.loss_scale
            assert_equal(weights_of(model), weights)
        assert outcomes == expected
        assert state is not None
        assert (state["scale"], state["_growth_tracker"]) == (65536.0, 3)
        with start() as (model, trainer):
            assert trainer.loss_scale["_growth_tracker"] == 0  # every trial begins with a fresh one
            parameter = next(iter(trainable_parameters(model).values()))
            overflow = parameter.register_hook(lambda gradient: gradient * float("inf"))
            before = weights_of(model)
            trainer.step()
            assert_equal(weights_of(model), before)  # skipped, and tried with a smaller scale from now on
            assert trainer.loss_scale["scale"] == 32768.0
            overflow.remove()
            trainer.step()
    finally:
        accelerator.scaler = None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), FailureKind.OOM),
        (RuntimeError("MPS backend out of memory"), FailureKind.OOM),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), FailureKind.OOM),
        (MemoryError(), FailureKind.OOM),
        (DivergedError("loss nan"), FailureKind.DIVERGED),
        (RankError("rank 1: ...", FailureKind.OOM), FailureKind.OOM),
        (RankError("rank 0: ...", None), FailureKind.CRASH),
        (RuntimeError("shape mismatch"), FailureKind.CRASH),
        (KeyError("out of memory"), FailureKind.CRASH),
    ],
)
def test_failures_are_classified(error: Exception, kind: FailureKind) -> None:
    assert failure_kind(error) is kind


def test_a_real_lack_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 46)
    assert failure_kind(raised.value) is FailureKind.OOM
    assert not is_fatal(raised.value)


def test_an_error_is_told_in_one_line_with_its_place() -> None:
    with pytest.raises(KeyError) as raised:
        {}["weight"]
    assert describe(raised.value).startswith("KeyError: 'weight' (test_train.py:")
    assert describe(ValueError("never raised")) == "ValueError: never raised"


def test_a_lost_group_is_fatal() -> None:
    assert is_fatal(GroupLostError("expected an answer from all 2 ranks, got: Connection closed by peer"))
    assert is_fatal(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert not is_fatal(torch.AcceleratorError("CUDA error: out of memory"))
    assert not is_fatal(DivergedError("loss nan"))


def test_one_rank_alone_meets_itself(ranks: Ranks) -> None:
    assert ranks.meet(None, 2.5, True) == [2.5, 1.0]
    assert ranks.together(lambda: "result") == "result"
    assert ranks.gather(["a"]) == ["a"]
    with pytest.raises(KeyError):
        ranks.meet(KeyError("mine"), 1.0)
