"""Whether disk and memory will do, estimated before any training."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from controller.schedulers.asha import ASHA
from controller.schedulers.async_hyperband import AsyncHyperband
from controller.schedulers.full_budget import FullBudget
from controller.schedulers.hyperband import Hyperband
from controller.schedulers.mo_asha import MOASHA
from controller.schedulers.successive_halving import SuccessiveHalving
from controller.strategies.early_end import EarlyEnd
from controller.strategy import Composed
from llm_tuning.data import PreparedData
from nas.cost import LoraTraining, checkpoint_bytes, linear_shapes, training_memory_bytes
from nas.layers import layers_named
from thresher.build import Plan, possible_values
from thresher.config import ConfigError, StudyConfig

CGROUP = Path("/sys/fs/cgroup")
GIGABYTE = 1e9
COMPUTE_DTYPES = {"no": None, "bf16": "bfloat16", "fp16": "float16"}


def check_disk(config: StudyConfig, plan: Plan, rank: int) -> list[str]:
    """Compare what the retained checkpoints may take, if all were of rank `rank`, with what there is.

    Returns notes. Raises ConfigError if not even a few checkpoints fit, or `max_checkpoint_gb` may be passed.
    """
    need = disk_need(config, plan, rank)
    one = need / max_checkpoints(config, plan)
    free = shutil.disk_usage(_existing(config.output.directory)).free
    limit = config.resources.max_checkpoint_gb
    if limit is not None and need > limit * GIGABYTE:
        raise ConfigError(
            f"resources.max_checkpoint_gb: expected at least the {need / GIGABYTE:.1f} GB that the checkpoints of this "
            f"search may take, got {limit:g}; raise it, or search fewer trials or smaller ranks"
        )
    if free < 3 * one:
        raise ConfigError(
            f"output.directory: expected room for at least three checkpoints of {one / GIGABYTE:.2g} GB in "
            f"{config.output.directory}, got {free / GIGABYTE:.2g} GB free; free some space or choose another disk"
        )
    if free < need:
        return [
            f"checkpoints may take up to {need / GIGABYTE:.1f} GB (all of rank {rank}), "
            f"and {free / GIGABYTE:.1f} GB are free in {config.output.directory}"
        ]
    return []


def disk_need(config: StudyConfig, plan: Plan, rank: int) -> int:
    """Bytes that the checkpoints of a study take at most, if all are of rank `rank`. The architecture must be known."""
    assert plan.architecture is not None
    return checkpoint_bytes(plan.architecture, rank, _modules(plan)) * max_checkpoints(config, plan)


def check_memory(config: StudyConfig, plan: Plan, rank: int, data: PreparedData) -> list[str]:
    """A note if one worker may need more than the memory of this machine. Machines with NVIDIA devices: no word."""
    available = _available_memory()
    if available is None or Path("/proc/driver/nvidia").exists():
        return []
    need = memory_need(config, plan, rank, data)
    if need <= available:
        return []
    return [
        f"training may need {need / GIGABYTE:.1f} GB a worker, and {available / GIGABYTE:.1f} GB are available: "
        "lower resources.micro_batch_size or data.max_length if trials fail for lack of memory"
    ]


def memory_need(config: StudyConfig, plan: Plan, rank: int, data: PreparedData) -> int:
    """Bytes that training needs at its peak, about, with adapters of rank `rank`. The architecture must be known."""
    assert plan.architecture is not None
    compute = COMPUTE_DTYPES[config.resources.mixed_precision] or config.model.dtype
    training = LoraTraining(
        rank=rank,
        target_modules=_modules(plan),
        micro_batch=config.resources.micro_batch_size,
        length=max(split.longest for split in data.splits.values()),
        base_dtype=config.model.dtype,
        compute_dtype=compute,  # type: ignore[arg-type]  # one of the three by the config's own types
    )
    return training_memory_bytes(plan.architecture, training)


def max_checkpoints(config: StudyConfig, plan: Plan) -> int:
    """How many checkpoints there may be at the same time, about, those on the way to a rung aside.

    A trial has one of each rung that it reached; those of trials that cannot be promoted any more are deleted.
    """
    count = (config.finalists.count + 1) * (len(plan.budgets) + config.finalists.repeats)
    search = plan.search.strategy if isinstance(plan.search, EarlyEnd) else plan.search
    scheduler = search.scheduler if isinstance(search, Composed) else search
    if isinstance(scheduler, FullBudget):
        return count
    if isinstance(scheduler, ASHA | AsyncHyperband | SuccessiveHalving | Hyperband | MOASHA):
        promotable = config.search.trials
        for reached in range(1, len(plan.budgets)):
            promotable //= scheduler.reduction_factor
            count += reached * max(1, promotable)
        return count
    return count + config.search.trials * (len(plan.budgets) - 1)  # any may go on until the end


def available_cores() -> int:
    """CPU cores that this process may use: those of its affinity, or fewer if a container's quota says so."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _first_line(CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, round(int(quota[0]) / int(quota[1]))))
    return cores


def _existing(directory: Path) -> Path:
    """The directory, or the nearest above it that exists."""
    place = directory.resolve()
    while not place.exists():
        place = place.parent
    return place


def _first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0] if path.is_file() else ""


def _modules(plan: Plan) -> tuple[str, ...]:
    """The linear layers that some trial may put adapters on."""
    assert plan.architecture is not None
    layers = tuple(linear_shapes(plan.architecture))
    groups = possible_values(plan.space, plan.defaults, "lora.targets")
    chosen = {module for group in groups for module in plan.lora_targets.get(str(group), layers)}
    return tuple(layers_named(plan.architecture, sorted(chosen)))


def _available_memory() -> int | None:
    """Bytes that a new process could use; None where the system does not tell."""
    path = Path("/proc/meminfo")
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            limit = _first_line(CGROUP / "memory.max")
            used = _first_line(CGROUP / "memory.current")
            if limit.isdigit() and used.isdigit():
                available = min(available, int(limit) - int(used))
            return available
    return None
