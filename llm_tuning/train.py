"""The training of one trial, an optimizer step at a time, on one rank or on several that share the work."""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, final

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.nn import functional

from controller.trial import FailureKind
from llm_tuning.adapters import AdapterError, trainable_parameters
from llm_tuning.batches import (
    Batch,
    Indices,
    Stream,
    collate,
    derived_seed,
    example_indices,
    micro_batches,
)
from llm_tuning.checkpoint import StorageError
from llm_tuning.recipe import Recipe
from llm_tuning.schedule import learning_rate

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel

    from llm_tuning.tokenized_split import TokenizedSplit

Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class DivergedError(ValueError):
    """The loss or the gradient is not a finite number any more."""


class RankError(RuntimeError):
    """Another rank of the group failed; this one leaves the job with it.

    Attributes:
        kind: what happened there; None if its surroundings are unfit (`StorageError`).
    """

    def __init__(self, message: str, kind: FailureKind | None) -> None:
        super().__init__(message)
        self.kind = kind


class GroupLostError(RuntimeError):
    """The ranks cannot reach each other any more; this process is of no use until its group is started again."""


def failure_kind(error: Exception) -> FailureKind:
    """How a failed job is classified."""
    if isinstance(error, RankError):
        return error.kind or FailureKind.CRASH
    if isinstance(error, DivergedError):
        return FailureKind.DIVERGED
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return FailureKind.OOM
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY):
        return FailureKind.OOM
    return FailureKind.CRASH


def is_fatal(error: Exception) -> bool:
    """Whether the process that raised this can train nothing any more: a broken device or process group."""
    if isinstance(error, GroupLostError):
        return True
    return isinstance(error, torch.AcceleratorError) and failure_kind(error) is not FailureKind.OOM


def describe(error: Exception) -> str:
    """Type, message and place of an exception in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


@final
class Ranks:
    """The ranks that train one trial together, and how they stay in step.

    Whatever a rank does alone may fail (out of memory, a damaged file), and a rank that left would
    keep the others waiting for ever. So each phase of a job is: local work that catches its
    exceptions, then one `meet`, which all ranks reach whatever happened and leave the same way.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.index: int = accelerator.process_index
        self.count: int = accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that decides, and writes checkpoints."""
        return self.index == 0

    def meet(self, error: Exception | None, *values: float) -> list[float]:
        """Wait for all ranks and return the sums of their values.

        If any rank brings an error, every rank raises: those that have one theirs, the others RankError.
        """
        if self.count == 1:
            if error is not None:
                raise error
            return [float(value) for value in values]
        totals = torch.tensor([error is not None, *values], dtype=torch.float64, device=self.accelerator.device)
        self.sum(totals)
        failures, *sums = totals.tolist()
        if failures:
            self._raise_together(error)
        return sums

    def together(self, action: Callable[[], Result]) -> Result:
        """Do something on every rank and meet: the result of this rank, or an exception on all of them."""
        error, results = None, []
        try:
            results.append(action())
        except Exception as caught:  # raised again by meet, on all ranks
            error = caught
        self.meet(error)
        return results[0]

    def sum(self, tensor: torch.Tensor) -> None:
        """Replace a tensor by its sum over all ranks, in place. Raises GroupLostError if a rank is gone."""
        if self.count == 1:
            return
        try:
            torch.distributed.all_reduce(tensor)
        except RuntimeError as error:
            raise GroupLostError(f"expected an answer from all {self.count} ranks, got: {error}") from error

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """The values of all ranks in one list, rank by rank. Raises GroupLostError if a rank is gone."""
        from accelerate.utils import gather_object

        if self.count == 1:
            return list(values)
        try:
            return list(gather_object(list(values)))
        except RuntimeError as error:
            raise GroupLostError(f"expected an answer from all {self.count} ranks, got: {error}") from error

    def _raise_together(self, error: Exception | None) -> NoReturn:
        mine = []
        if error is not None:
            kind = None if isinstance(error, StorageError) else failure_kind(error)
            mine = [(f"rank {self.index}: {describe(error)}", kind)]
        message, kind = self.gather(mine)[0]
        if error is not None:
            raise error
        raise RankError(message, kind)


def learnt_logits(model: PeftModel, batch: Batch, accelerator: Accelerator) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model says about each learnt token: (logits [learnt_tokens, vocabulary], targets [learnt_tokens]).

    The output layer, often the largest of all, is computed for learnt tokens only: its input is
    narrowed to their places on the way in. That leaves the model's own forward pass as it is (scaled
    or capped logits included), and unlike `logits_to_keep` it takes other places in every row.
    """
    device = accelerator.device
    rows, columns, targets = (torch.from_numpy(part).to(device) for part in (batch.rows, batch.columns, batch.targets))
    narrowed = False

    def keep_learnt(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal narrowed
        narrowed = True
        return (inputs[0][rows, columns].unsqueeze(0), *inputs[1:])

    head = model.get_base_model().get_output_embeddings()
    hook = contextlib.nullcontext() if head is None else head.register_forward_pre_hook(keep_learnt)
    with hook, accelerator.autocast():
        logits = model(input_ids=torch.from_numpy(batch.input_ids).to(device), use_cache=False).logits
    return (logits.squeeze(0) if narrowed else logits[rows, columns]), targets


def learnt_nats(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each learnt token in nats, float32 [learnt_tokens], from its `learnt_logits`."""
    return functional.cross_entropy(logits.float(), targets, reduction="none")


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One optimizer step.

    Attributes:
        nats: sum of the losses of all learnt tokens of the effective batch, before the step.
        tokens: the number of these tokens.
        gradient_norm: 2-norm of the gradient before clipping.
        learning_rate: of this step.
        save: whether the first rank asked for a checkpoint.
    """

    nats: float
    tokens: int
    gradient_norm: float
    learning_rate: float
    save: bool

    @property
    def loss(self) -> float:
        """Mean loss of a learnt token in nats."""
        return self.nats / self.tokens


def _never() -> bool:
    return False


def _ignore() -> None:
    return None


@final
class Trainer:
    """Trains the LoRA matrices of one trial.

    A step depends on the recipe, the seed, the weights, the optimizer's moments and the number of
    examples and steps so far, and on nothing else: no random state, no loader, no scheduler. The
    loss of a step is the mean over all learnt tokens of its effective batch, whatever the number of
    ranks and micro-batches.

    The ranks hold equal weights and each computes the gradient of its share of the batch; one sum
    over the ranks makes it the whole gradient. That is what DistributedDataParallel does too, but
    with a collective inside the backward pass, where a rank that fails or has no examples would
    leave the others hanging.

    Attributes:
        examples: training examples seen so far.
        steps: optimizer steps taken so far.
    """

    def __init__(
        self,
        ranks: Ranks,
        model: PeftModel,
        recipe: Recipe,
        seed: int,
        horizon: int,
        split: TokenizedSplit,
        micro_batch_size: int,
    ) -> None:
        """
        Args:
            seed: seed of the trial, for data order and dropout.
            horizon: training examples for which the learning rate is laid out.
            split: the training set.
            micro_batch_size: examples that go through the model at once, at most.
        """
        self.examples = 0
        self.steps = 0
        self._ranks = ranks
        self._model = model
        self._recipe = recipe
        self._seed = seed
        self._horizon = horizon
        self._split = split
        self._micro_batch_size = micro_batch_size
        self._parameters = trainable_parameters(model)
        self._gradient = _flat_gradient(list(self._parameters.values()))
        accelerator = ranks.accelerator
        if accelerator.scaler is not None:
            # The scaler of the accelerator lives as long as the worker; a trial starts with a fresh one.
            accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
        # All of these are matrices: there are no biases and norms to keep weight decay from.
        optimizer = torch.optim.AdamW(
            list(self._parameters.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        # Not accelerator.prepare, which would keep the optimizer and its moments alive after the trial.
        self._optimizer = AcceleratedOptimizer(optimizer, device_placement=False, scaler=accelerator.scaler)

    def step(
        self, *, stop: Callable[[], bool] = _never, save: bool = False, on_micro_batch: Callable[[], None] = _ignore
    ) -> StepOutcome | None:
        """Take one optimizer step, or none at all: None means that `stop` came before the step was complete.

        Args:
            stop: whether to give up; asked on the first rank before every micro-batch.
            save: what the first rank wants the outcome to say to all ranks.
            on_micro_batch: called after each micro-batch, as a sign of life.

        Raises:
            DivergedError: the loss or the gradient is not finite; the weights are as they were.
            RankError: another rank failed.
        """
        batch = example_indices(self._seed, self.examples, self._recipe.batch_size, len(self._split))
        tokens = int(self._split.learnt_counts[batch].sum())
        self._gradient.zero_()
        error, nats, is_complete = None, 0.0, False
        try:
            nats, is_complete = self._accumulate(batch, tokens, stop, on_micro_batch)
        except Exception as caught:  # raised again by meet, on all ranks
            error = caught
        asks_to_save = save and self._ranks.is_first
        nats, incomplete, saves = self._ranks.meet(error, nats, not is_complete, asks_to_save)
        if incomplete:
            return None
        self._ranks.sum(self._gradient)
        norm, rate = self._ranks.together(lambda: self._update(nats / tokens))
        self.examples += self._recipe.batch_size
        self.steps += 1
        return StepOutcome(nats, tokens, norm, rate, bool(saves))

    def _accumulate(
        self, batch: Indices, tokens: int, stop: Callable[[], bool], on_micro_batch: Callable[[], None]
    ) -> tuple[float, bool]:
        """Add up the gradient of this rank's share; (its sum of losses, whether it was all of the share)."""
        accelerator = self._ranks.accelerator
        self._model.train()
        nats = torch.zeros((), device=accelerator.device)
        pieces = micro_batches(self._split, batch, self._micro_batch_size, self._ranks.index, self._ranks.count)
        with _forked_random_state(accelerator.device):
            for number, piece in enumerate(pieces):
                if self._ranks.is_first and stop():
                    return 0.0, False
                # Dropout is drawn from a counter, so that a resumed run needs no random state.
                torch.manual_seed(derived_seed(self._seed, Stream.DROPOUT, self.steps, number, self._ranks.index))
                losses = learnt_nats(*learnt_logits(self._model, collate(self._split, piece), accelerator))
                accelerator.backward(losses.sum() / tokens)
                nats += losses.detach().sum()
                on_micro_batch()
        return nats.item(), True

    def _update(self, loss: float) -> tuple[float, float]:
        """Clip the gradient and let the optimizer step; (the gradient's norm before, the learning rate)."""
        scaler = self._ranks.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self._optimizer.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._recipe.max_grad_norm).item()
        self._check_finite(loss, norm)
        rate = learning_rate(self._recipe, self.examples // self._recipe.batch_size, self._horizon)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return norm, rate

    def _check_finite(self, loss: float, norm: float) -> None:
        scaler = self._ranks.accelerator.scaler
        if math.isfinite(loss) and (math.isfinite(norm) or (scaler is not None and scaler.get_scale() > 1)):
            return  # an infinite gradient under a loss scale is how the scale finds its size: the step is skipped
        raise DivergedError(
            f"expected a finite loss and gradient, got loss {loss} and gradient norm {norm} in optimizer step "
            f"{self.steps + 1} at {self.examples} examples; lower optimizer.learning_rate"
        )

    def optimizer_tensors(self) -> dict[str, torch.Tensor]:
        """AdamW's state by parameter name and kind (`exp_avg`, `exp_avg_sq`, `step`), on the CPU."""
        state = self._optimizer.optimizer.state
        return {
            f"{name}.{kind}": tensor.detach().cpu()
            for name, parameter in self._parameters.items()
            for kind, tensor in state[parameter].items()
        }

    @property
    def loss_scale(self) -> dict[str, float] | None:
        """The state of the gradient scaler; None unless training in fp16."""
        scaler = self._ranks.accelerator.scaler
        return None if scaler is None else scaler.state_dict()

    def resume(
        self,
        examples: int,
        steps: int,
        optimizer: Mapping[str, torch.Tensor],
        loss_scale: Mapping[str, float] | None = None,
    ) -> None:
        """Go on from a checkpoint whose weights are already in the model. Raises AdapterError if it does not fit."""
        state: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in optimizer.items():
            name, _, kind = key.rpartition(".")
            state.setdefault(name, {})[kind] = tensor
        if state and state.keys() != self._parameters.keys():  # none yet where fp16 skipped every step so far
            raise AdapterError(
                f"expected the optimizer's state of {len(self._parameters)} parameters, got {len(state)} others; "
                "go on only with a checkpoint of the same lora.rank and lora.targets"
            )
        self._optimizer.load_state_dict(
            {
                "state": {index: state[name] for index, name in enumerate(self._parameters) if state},
                "param_groups": self._optimizer.state_dict()["param_groups"],
            }
        )
        if loss_scale is not None and self._ranks.accelerator.scaler is not None:
            self._ranks.accelerator.scaler.load_state_dict(dict(loss_scale))
        self.examples = examples
        self.steps = steps


def _flat_gradient(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    """One tensor that holds the gradients of all parameters end to end, float32 [sum of sizes].

    The parameters' `grad` are views of it, so that one collective sums them all and nothing is copied.
    """
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters), device=parameters[0].device)
    parts = flat.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


def _forked_random_state(device: torch.device) -> AbstractContextManager[None]:
    """A context that leaves the global random state as it was."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    index = torch.get_device_module(device).current_device() if device.index is None else device.index
    return torch.random.fork_rng(devices=[index], device_type=device.type)
