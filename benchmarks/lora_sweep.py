"""How many trials until a LoRA configuration within 0.5 % of the best? Family priors beside random search and TPE.

The tables are real sweeps of 35 public models over learning rate and rank (one CSV file). A proposal stands for the
nearest measured pair on log scales, each scaled by its range in the family's space; of equally near ones for the
higher rank. A pair that was measured several times counts with its median, one that diverged with its loss.

`family-priors` starts with the family's default and draws from its priors; `family-KIND` searches the space with
priors by a kind of search, from the default on; the others know the bounds of the same space alone. Models that no
family covers get what a model of an unknown type gets. All else that a family varies is held at its default, as the
sweep held it at one value.
"""

from __future__ import annotations

import csv
import functools
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import reporting

from controller.controller import Controller
from controller.events import Enqueued
from controller.executors.simulated import SimulatedExecutor
from controller.history import History
from controller.store import Store
from controller.strategy import Strategy
from controller.trial import Job, Objective
from search_spaces.domains import Choice, Float, Int
from search_spaces.families import find_family
from search_spaces.family import LEARNING_RATE
from search_spaces.space import Params, Space
from thresher.strategies import SEARCH_KINDS, make_strategy

RANK: Final = "lora.rank"
WITHIN: Final = 1.005
TRIALS: Final = 40

MODELS: Final[Mapping[str, tuple[str, int | None]]] = {
    # name: (model_type, width of the residual stream), from the configurations that are published with the models
    "Qwen/Qwen3-235B-A22B-Instruct-2507": ("qwen3_moe", 4096),
    "Qwen/Qwen3-30B-A3B": ("qwen3_moe", 2048),
    "Qwen/Qwen3-30B-A3B-Base": ("qwen3_moe", 2048),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": ("qwen3_moe", 2048),
    "Qwen/Qwen3-32B": ("qwen3", 5120),
    "Qwen/Qwen3-4B-Instruct-2507": ("qwen3", 2560),
    "Qwen/Qwen3-8B": ("qwen3", 4096),
    "Qwen/Qwen3-8B-Base": ("qwen3", 4096),
    "Qwen/Qwen3-VL-235B-A22B-Instruct": ("qwen3_vl_moe", 4096),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": ("qwen3_vl_moe", 2048),
    "Qwen/Qwen3.5-27B": ("qwen3_5", 5120),
    "Qwen/Qwen3.5-35B-A3B": ("qwen3_5_moe", 2048),
    "Qwen/Qwen3.5-35B-A3B-Base": ("qwen3_5_moe", 2048),
    "Qwen/Qwen3.5-397B-A17B": ("qwen3_5_moe", 4096),
    "Qwen/Qwen3.5-4B": ("qwen3_5", 2560),
    "Qwen/Qwen3.5-9B": ("qwen3_5", 4096),
    "Qwen/Qwen3.5-9B-Base": ("qwen3_5", 4096),
    "Qwen/Qwen3.6-27B": ("qwen3_5", 5120),
    "Qwen/Qwen3.6-35B-A3B": ("qwen3_5_moe", 2048),
    "deepseek-ai/DeepSeek-V3.1": ("deepseek_v3", 7168),
    "deepseek-ai/DeepSeek-V3.1-Base": ("deepseek_v3", 7168),
    "meta-llama/Llama-3.1-70B": ("llama", 8192),
    "meta-llama/Llama-3.1-8B": ("llama", 4096),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", 4096),
    "meta-llama/Llama-3.2-1B": ("llama", 2048),
    "meta-llama/Llama-3.2-3B": ("llama", 3072),
    "meta-llama/Llama-3.3-70B-Instruct": ("llama", 8192),
    "moonshotai/Kimi-K2-Thinking": ("kimi_k2", 7168),
    "moonshotai/Kimi-K2.5": ("kimi_k25", 7168),
    "moonshotai/Kimi-K2.6": ("kimi_k25", 7168),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("nemotron_h", 2688),
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": ("nemotron_h", 4096),
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": ("nemotron_h", None),
    "openai/gpt-oss-120b": ("gpt_oss", 2880),
    "openai/gpt-oss-20b": ("gpt_oss", 2880),
}


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was measured on a model, what its family varies of that, and the default: (learning rate, rank) -> loss."""

    model: str
    losses: Mapping[tuple[float, int], float]
    space: Space
    default: Params

    @property
    def best(self) -> float:
        """The lowest loss."""
        return min(self.losses.values())

    def loss(self, params: Params) -> float:
        """That of the nearest pair."""
        return self.losses[min(self.losses, key=lambda pair: (self._distance(params, pair), -pair[1]))]

    def _distance(self, params: Params, pair: tuple[float, int]) -> float:
        squares = 0.0
        for name, measured in zip((LEARNING_RATE, RANK), pair, strict=True):
            low, high = _bounds(self.space.domains[name])
            squares += (math.log(float(params[name]) / measured) / math.log(high / low)) ** 2
        return round(squares, 9)  # equally near is equally near in spite of rounding


def main() -> None:
    """Search every sweep with every system, and write the rows."""
    options = reporting.parser(__doc__)
    options.add_argument("--tables", type=Path, metavar="PATH", help="the CSV file, or the directory that it lies in")
    options.add_argument("--seeds", type=int, metavar="N", help="runs for each model (default: 50; --quick: 5)")
    options.add_argument("--only", nargs="+", metavar="SYSTEM", help="some of the systems")
    options.add_argument("--by-model", action="store_true", help="a row for every model as well")
    args = options.parse_args()
    setting = reporting.machine()
    if args.tables is None:
        if args.quick:
            print("left out: lora_sweep needs --tables, see benchmarks/README.md")
            return
        raise SystemExit("expected --tables PATH, got none; see benchmarks/README.md for the format")
    sweeps = load(args.tables)
    rows = []
    for name, search in systems().items():
        if args.only and name not in args.only:
            continue
        seeds = range(args.seed, args.seed + (args.seeds or (5 if args.quick else 50)))
        found = {
            sweep.model: [search(sweep, seed * len(sweeps) + number) for seed in seeds]  # no two draw the same
            for number, sweep in enumerate(sweeps)
        }
        rows.append(_row(name, "all", sweeps, found))
        if args.by_model:
            rows += [_row(name, sweep.model, [sweep], found) for sweep in sweeps]
    reporting.write(rows, args, setting)


def load(path: Path) -> list[Sweep]:
    """The sweeps of a file."""
    path = path / "lora_sweep.csv" if path.is_dir() else path
    measured: dict[str, dict[tuple[float, int], list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            pair = float(row["learning_rate"]), int(row["lora_rank"])
            measured.setdefault(row["model"], {}).setdefault(pair, []).append(float(row["test_nll"]))
    return [
        Sweep(model, {pair: statistics.median(losses) for pair, losses in pairs.items()}, *family_of(model))
        for model, pairs in measured.items()
    ]


def family_of(model: str) -> tuple[Space, Params]:
    """(the part of its family's space that the sweep varies, with priors; the default) of a model.

    The batch size is not in it, so the prior of the learning rate does not move with one.
    """
    model_type, width = MODELS.get(model, (None, None))
    config = {"model_type": model_type, **({} if width is None else {"hidden_size": width})}
    family = find_family(None, config)
    domains = {name: family.lora.domains[name] for name in (LEARNING_RATE, RANK)}
    space = replace(family, lora=replace(family.lora, domains=domains)).space_for(config)
    return space, {name: family.defaults_for(config)[name] for name in domains}


Search = Callable[[Sweep, int], list[float]]
"""The losses of the trials of a search, in order."""


def systems() -> dict[str, Search]:
    """All that is compared."""
    kinds = [kind for kind in ("auto", "evolution", "tpe", "gp") if kind in SEARCH_KINDS]
    found: dict[str, Search] = {"family-priors": functools.partial(_ours, "random", priors=True)}
    found |= {f"family-{kind}": functools.partial(_ours, kind, priors=True) for kind in kinds}
    found |= {kind: functools.partial(_ours, kind, priors=False) for kind in ("random", *kinds)}
    return found | {"optuna-tpe": _optuna}


@dataclass(frozen=True, slots=True)
class _Losses:
    """The curves of a sweep: one budget, one loss."""

    sweep: Sweep

    def measure(self, job: Job) -> Mapping[str, float]:
        """See Curves."""
        return {"loss": self.sweep.loss(job.params)}


def _ours(kind: str, sweep: Sweep, seed: int, *, priors: bool) -> list[float]:
    space = sweep.space if priors else sweep.space.without_priors()
    strategy: Strategy = make_strategy(kind, space, (1,), TRIALS)
    history = History(seed=seed, objectives=[Objective("loss")], horizon=1)
    with tempfile.TemporaryDirectory() as directory, Store.open(Path(directory)) as store:
        if priors:
            event = Enqueued(sweep.default)
            store.append([event])
            history.apply(event)
        Controller(strategy, SimulatedExecutor(_Losses(sweep)), store, history).run()
    return [sweep.loss(trial.params) for trial in history.trials]


def _optuna(sweep: Sweep, seed: int) -> list[float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    losses = []
    for _ in range(TRIALS):
        trial = study.ask()
        rate, rank = (sweep.space.domains[name] for name in (LEARNING_RATE, RANK))
        low, high = _bounds(rate)
        params: dict[str, float] = {LEARNING_RATE: trial.suggest_float(LEARNING_RATE, low, high, log=True)}
        match rank:
            case Choice(values):
                params[RANK] = trial.suggest_categorical(RANK, values)
            case _:
                low, high = _bounds(rank)
                params[RANK] = trial.suggest_int(RANK, int(low), int(high), log=True)
        losses.append(sweep.loss(params))
        study.tell(trial, losses[-1])
    return losses


def _row(system: str, model: str, sweeps: Sequence[Sweep], found: Mapping[str, Sequence[list[float]]]) -> reporting.Row:
    counts, excesses = [], []
    for sweep in sweeps:
        for losses in found[sweep.model]:
            close = [number for number, loss in enumerate(losses, 1) if loss <= WITHIN * sweep.best]
            counts.append(close[0] if close else len(losses) + 1)
            excesses.append(min(losses[:3]) / sweep.best - 1)
    return {
        "system": system,
        "model": model,
        "mean_trials": round(statistics.mean(counts), 2),
        "median_trials": statistics.median(counts),
        "within_1": round(sum(count <= 1 for count in counts) / len(counts), 3),
        "within_3": round(sum(count <= 3 for count in counts) / len(counts), 3),
        "excess_after_3_percent": round(100 * statistics.mean(excesses), 3),
        "models": len(sweeps),
        "runs": len(counts),
    }


def _bounds(domain: Float | Int | Choice) -> tuple[float, float]:
    """The smallest and the largest value."""
    if isinstance(domain, Choice):
        numbers = [float(value) for value in domain.values]
        return min(numbers), max(numbers)
    return float(domain.low), float(domain.high)


if __name__ == "__main__":
    main()
