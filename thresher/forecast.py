"""What a study will do, and how long it may take, before it does it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from controller.executors.world import World, without_launcher
from controller.limits import Limited
from controller.strategy import InTurn, Strategy
from thresher.build import Plan, largest_rank, worker_task
from thresher.prepare import Groundwork, check_needs, lay_groundwork, say, tokenise
from thresher.rehearsal import EXAMPLES_ONLY, Costs, Range, Rehearsal, rehearse
from thresher.resources import GIGABYTE, available_cores, disk_need, memory_need
from thresher.section import counted
from thresher.wording import format_duration, table_of

if TYPE_CHECKING:
    from llm_tuning.data import PreparedData
    from llm_tuning.probe import Probe
    from thresher.config import StudyConfig


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was found out about a study.

    Attributes:
        train_rows: training examples of the data, after all limits.
        held_out: examples to measure on, by split.
        workers: how many jobs run at the same time.
        measured: the probe, and what follows from it for a job; None if there was none.
        rehearsals: the study, played through several times.
    """

    plan: Plan
    train_rows: int
    held_out: Mapping[str, int]
    workers: int
    measured: tuple[Probe, Costs] | None
    rehearsals: Sequence[Rehearsal]


def show_plan(config: StudyConfig, console: Console, probe: bool) -> None:
    """Print what a study will run: rungs, jobs, training examples, hours, disk and memory. Nothing is left behind.

    Args:
        probe: whether to measure the speed of this device with three training steps, which takes up to some minutes.

    Raises ValueError for anything wrong with the config, as `run` would, and if the probe fails.
    """
    world = World.from_environment()
    world.require_groups(config.resources.gpus_per_trial)
    if world.rank:
        return  # under a launcher the first process tells, for as many workers as were launched
    workers = world.size // config.resources.gpus_per_trial
    ground = lay_groundwork(config, console)
    notes = [*ground.plan.notes, *ground.rows.notes]
    with tempfile.TemporaryDirectory(prefix="thresher-plan-") as place:
        data, _ = tokenise(config, ground, Path(place) / "data", console)
        notes += [*data.notes, *check_needs(config, ground.plan, None), *check_needs(config, ground.plan, data)]
        for note in dict.fromkeys(notes):
            say(console, f"note: {note}")
        task = worker_task(config, ground.plan, ground.model)
        places = {"data_directory": str(Path(place) / "data"), "tokenizer_directory": str(ground.model)}
        threads = config.resources.threads_per_worker or max(1, available_cores() // world.local_size)
        measured = _measure(config, {**task, **places}, data, threads, console) if probe else None
        tokens = sum(file.stat().st_size for file in (Path(place) / "data").iterdir())
    costs = EXAMPLES_ONLY if measured is None else measured[1]
    rehearsals = rehearse(
        _strategy(config, ground.plan, timed=measured is not None),
        ground.plan.objectives,
        ground.plan.budgets[-1],
        enqueued=[ground.plan.default_params],
        workers=workers,
        costs=costs,
        seed=config.search.seed,
    )
    sizes = {name: len(split) for name, split in data.splits.items()}
    forecast = Forecast(ground.plan, sizes["train"], sizes, workers, measured, rehearsals)
    console.print(_rungs(forecast))
    for line in [*_work(config, forecast), *_time(config, forecast), *_needs(config, ground, data, measured, tokens)]:
        say(console, line)


def _strategy(config: StudyConfig, plan: Plan, *, timed: bool) -> Callable[[Callable[[], float]], Strategy]:
    """What makes the strategy of the study, given its clock. Limits on time are left out where no time passes."""
    limits = config.limits if timed else replace(config.limits, max_worker_seconds=None, max_seconds=None)
    return lambda elapsed: InTurn((Limited(plan.search, limits, elapsed), plan.finalists))


# --- the probe ----------------------------------------------------------------------------------


def _measure(
    config: StudyConfig, task: Mapping[str, Any], data: PreparedData, threads: int, console: Console
) -> tuple[Probe, Costs]:
    """Run the probe, and work out what jobs cost. Processes that train one trial together share its examples."""
    from llm_tuning.probe import STEPS, run_probe

    environment = without_launcher(os.environ) | World().worker_environment(1, "127.0.0.1", 0)
    environment["OMP_NUM_THREADS"] = str(threads)
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _spinner(console, f"probing this device: {STEPS} training steps and an evaluation"):
        probe = run_probe(task, environment)
    group = config.resources.gpus_per_trial
    held_out = {name: len(split) * probe.evaluation_seconds / group for name, split in data.splits.items()}
    costs = Costs(
        job=probe.job_seconds,
        training_example=probe.training_seconds / group,
        validation=held_out["validation"],
        test=held_out.get("test", 0.0) + config.output.generations * probe.answer_seconds / group,
    )
    return probe, costs


@contextmanager
def _spinner(console: Console, text: str) -> Iterator[None]:
    """Something that moves, on a terminal; a line elsewhere."""
    if console.is_interactive:
        with console.status(text):
            yield
    else:
        say(console, f"{text} ...")
        yield


# --- what is printed ----------------------------------------------------------------------------


def _rungs(forecast: Forecast) -> Table:
    table = table_of("training examples", "epochs", "jobs, expected", "<range")
    for budget in forecast.plan.budgets:
        jobs = Range.of([rehearsal.jobs.get(budget, 0) for rehearsal in forecast.rehearsals])
        table.add_row(f"{budget:,}", f"{budget / forecast.train_rows:.2f}", f"{jobs.median:.0f}", _span(jobs, "{:.0f}"))
    return table


def _work(config: StudyConfig, forecast: Forecast) -> Iterator[str]:
    """What is trained and tested, in examples."""
    rehearsals, horizon = forecast.rehearsals, forecast.plan.budgets[-1]
    repeats = Range.of([rehearsal.repeats for rehearsal in rehearsals])
    yield (f"finalists: {_counted(repeats, 'repeat')} of {horizon:,} examples" + _tests(forecast))
    examples = Range.of([rehearsal.examples for rehearsal in rehearsals])
    full = config.search.trials * horizon
    yield (
        f"training examples of the search: {examples.median:,.0f} expected ({_span(examples, '{:,.0f}')}), "
        f"{examples.median / full:.0%} of the {full:,} that {counted(config.search.trials, 'full training')} would take"
    )
    again = Range.of([rehearsal.repeat_examples for rehearsal in rehearsals])
    yield f"training examples of the repeats: {again.median:,.0f} expected ({_span(again, '{:,.0f}')})"


def _tests(forecast: Forecast) -> str:
    tests = Range.of([rehearsal.tests for rehearsal in forecast.rehearsals])
    if not tests.high:
        return "; no test set"
    held_out = forecast.held_out.get("test", 0)
    return f"; {_counted(tests, 'test')} on {held_out:,} examples, the base model's among them"


def _time(config: StudyConfig, forecast: Forecast) -> Iterator[str]:
    """How long it may take, as far as a probe tells."""
    limits = [name for name in ("max_hours", "max_gpu_hours") if getattr(config.search, name) is not None]
    if forecast.measured is None:
        yield "time: not estimated without the probe"
        if limits:
            yield f"search.{' and search.'.join(limits)}: not counted in without the probe"
        return
    probe, costs = forecast.measured
    seconds = Range.of([rehearsal.seconds for rehearsal in forecast.rehearsals]).plus(probe.load_seconds)
    count = counted(forecast.workers, "worker")
    yield (
        f"time: {format_duration(seconds.median)} expected "
        f"({format_duration(seconds.low)} to {format_duration(seconds.high)}) with {count} on {probe.device}: "
        f"{_shares(forecast, costs)}"
    )
    training, held_out = 1 / costs.training_example, 1 / probe.evaluation_seconds
    yield (
        f"speed: {training:.3g} training examples a second, {held_out:.3g} held-out ones; {costs.validation:.3g} s a "
        f"measurement, {costs.job:.2g} s for the rest of a job"
    )


def _shares(forecast: Forecast, costs: Costs) -> str:
    """What the workers' time goes into, in the mean of all rehearsals."""
    training = sum(r.examples + r.repeat_examples for r in forecast.rehearsals) * costs.training_example
    measuring = sum(
        (sum(r.jobs.values()) + r.repeats) * costs.validation + r.tests * costs.test for r in forecast.rehearsals
    )
    rest = sum(sum(r.jobs.values()) + r.repeats + r.tests for r in forecast.rehearsals) * costs.job
    total = training + measuring + rest
    return f"{training / total:.0%} training, {measuring / total:.0%} measuring, {rest / total:.0%} the rest"


def _needs(
    config: StudyConfig, ground: Groundwork, data: PreparedData, measured: tuple[Probe, Costs] | None, tokens: int
) -> Iterator[str]:
    """Disk and memory."""
    plan, rank = ground.plan, largest_rank(ground.plan)
    model = sum(file.stat().st_size for file in ground.model.iterdir() if file.is_file())
    if plan.architecture is None:
        checkpoints = "checkpoints not estimated"
    else:
        checkpoints = f"checkpoints up to {_size(disk_need(config, plan, rank))} (all of rank {rank})"
    yield f"disk: {checkpoints}, tokens {_size(tokens)}; the base model's {_size(model)} are there already"
    parts = []
    if plan.architecture is not None:
        parts.append(f"about {_size(memory_need(config, plan, rank, data))} a worker by the sizes of the model")
    if measured is not None:
        what = "the process" if measured[0].device == "cpu" else "the device"
        parts.append(f"{_size(measured[0].peak_bytes)} of {what} measured by the probe with the default configuration")
    if parts:
        yield f"memory: {'; '.join(parts)}"


def _counted(figures: Range, noun: str) -> str:
    span = _span(figures, "{:.0f}")
    return counted(round(figures.median), noun) + (f" ({span})" if figures.low < figures.high else "")


def _span(figures: Range, form: str) -> str:
    low, high = form.format(figures.low), form.format(figures.high)
    return low if low == high else f"{low} to {high}"


def _size(count: float) -> str:
    return f"{count / GIGABYTE:.2g} GB" if count >= GIGABYTE / 10 else f"{count / 1e6:.2g} MB"
