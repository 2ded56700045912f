"""One study from its config to its report: prepare, search, repeat, test, export."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

from controller.controller import Controller, StudyHalted
from controller.events import Enqueued
from controller.executors.launched import LaunchedExecutor
from controller.executors.supervisor import supervise
from controller.executors.world import World
from controller.history import History
from controller.store import Store, StoreError
from llm_tuning.base_model import context_length, load_tokenizer, model_config, resolve_base_model
from llm_tuning.checkpoint import CheckpointStore
from llm_tuning.data import PreparedData, load_splits, prepare_splits
from thresher.build import Plan, build_plan, largest_rank, worker_task
from thresher.comparison import compare
from thresher.config import ConfigError, StudyConfig
from thresher.manifest import check_manifest, describe_study, model_fingerprint, settle_manifest
from thresher.progress import StudyProgress
from thresher.record import StudyRecord
from thresher.report import final_report
from thresher.resources import available_cores, check_disk, check_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOCK_PATIENCE_SECONDS = 5.0  # a study that was just interrupted may still be saving
WORKER_COMMAND = (sys.executable, "-m", "llm_tuning.worker")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of a study ended.

    Attributes:
        finished: False if it was asked to stop: the same command goes on.
        was_finished: there was nothing left to do from the start.
        wall_seconds: from the first entry of the journal to the last, pauses of the study included.
    """

    finished: bool
    was_finished: bool
    wall_seconds: float
    plan: Plan
    history: History
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a study needs before the first job."""

    plan: Plan
    task: dict[str, Any]
    data: PreparedData
    notes: tuple[str, ...]


def say(console: Console, text: str) -> None:
    """Print a line as it is: a path in brackets is no markup, and nothing in it is coloured or wrapped."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def supervise_only(config: StudyConfig, world: World) -> None:
    """The part of a launched rank other than 0: keep a worker alive until the study is over."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_unless_needed)
    supervise(world, config.resources.gpus_per_trial, WORKER_COMMAND)


def _leave_unless_needed(number: int, frame: object) -> None:
    """The controller decides when to stop: a signal to the whole launch must not end a worker before it saved.

    A rank without a worker has nothing to save, and must not keep the launcher waiting when rank 0 has refused.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        raise SystemExit(128 + number) from None


def run_study(config: StudyConfig, world: World, console: Console) -> Outcome:
    """Run or resume the study of a config as rank 0 of a launch.

    Raises:
        ValueError: anything wrong with config, data, model, directory or journal, before training where possible.
        StudyHalted: the surroundings became unfit while it ran.
    """
    world.require_groups(config.resources.gpus_per_trial)
    world.worker_environment(config.resources.gpus_per_trial, world.address, 0)  # refuses too few devices
    with Store.open(config.output.directory, patience_seconds=LOCK_PATIENCE_SECONDS) as store:
        prepared = prepare(config, store, world, console)
        plan = prepared.plan
        events = (event for _, _, event in store.events())
        history = History.replay(
            events, seed=config.search.seed, objectives=(plan.objective,), horizon=plan.budgets[-1]
        )
        if not history.queue:
            default = Enqueued(plan.default_params)
            store.append([default])
            history.apply(default)
        executor = LaunchedExecutor(
            world,
            group_size=config.resources.gpus_per_trial,
            task=prepared.task,
            log_directory=config.output.directory.resolve() / "logs",
            threads=worker_threads(config, world),
            hang_seconds=config.resources.hang_minutes * 60,
        )
        jobs, open_jobs = len(history.jobs), len(history.running)
        finished = _search(config, world, console, prepared, store, history, executor)
        was_finished = finished and not open_jobs and len(history.jobs) == jobs
        times = [moment for _, moment, _ in store.events()]
        wall_seconds = times[-1] - times[0]
        return Outcome(finished, was_finished, wall_seconds, plan, history, prepared.notes)


def prepare(config: StudyConfig, store: Store, world: World, console: Console) -> Prepared:
    """Everything before the first job: model files, tokens, plan, manifest, disk and memory. Raises ValueError."""
    directory = config.output.directory
    for split, path in config.data.paths.items():
        if not path.is_file():
            got = "a directory" if path.is_dir() else f"nothing there (now in {Path.cwd()})"
            raise ConfigError(f"data.{split}: expected a JSONL file at {path}, got {got}; check the path")
    say(console, f"base model: {config.model.name}")
    model = resolve_base_model(config.model.name, revision=config.model.revision)
    description = model_config(model)
    plan = build_plan(config, description)
    surroundings = {
        "model": model_fingerprint(model),
        "threads": worker_threads(config, world),
        "processes": world.size,
    }
    manifest = describe_study(config, {"defaults": dict(plan.defaults), "budgets": list(plan.budgets)}, surroundings)
    notes = [*plan.notes, *check_manifest(store, manifest)]
    if plan.architecture is not None:
        notes += check_disk(config, plan, largest_rank(plan))
    tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
    with _tokenising(console) as on_progress:
        data = prepare_splits(
            config.data.paths,
            tokenizer,
            directory / "data",
            max_length=config.data.max_length,
            too_long=config.data.too_long,
            system=config.data.system,
            limits={str(split): rows for split, rows in config.data.limits.items()},
            seed=config.search.seed,
            context_length=context_length(description),
            on_progress=on_progress,
        )
    _keep_tokenizer(tokenizer, directory / "tokenizer")
    # Last: what was refused up to here may be mended, and is no study yet.
    settle_manifest(store, manifest, data.fingerprint)
    sizes = ", ".join(f"{len(split)} {name}" for name, split in data.splits.items())
    say(console, f"data: {sizes} examples")
    notes += data.notes
    if plan.architecture is not None:
        notes += check_memory(config, plan, largest_rank(plan), data)
    for note in notes:
        say(console, f"note: {note}")
    return Prepared(plan, worker_task(config, plan, model), data, tuple(notes))


@contextmanager
def _tokenising(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, on a terminal, for what takes long with a large data set."""
    with Progress(console=console, transient=True, disable=not console.is_interactive) as progress:
        bar = progress.add_task("tokenising", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _keep_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Save the tokenizer, whole or not at all, unless it was saved before. Raises ConfigError if the disk refuses."""
    if directory.is_dir():
        return
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        tokenizer.save_pretrained(str(unfinished))
        unfinished.rename(directory)
    except Exception as error:  # tokenizers raises it bare for a full disk
        raise ConfigError(
            f"output.directory: expected to write the tokenizer to {directory}, got: {error}; "
            "free some space, or choose another directory"
        ) from error


def worker_threads(config: StudyConfig, world: World) -> int:
    """CPU threads of each worker: as configured, else all of the machine divided by its workers."""
    return config.resources.threads_per_worker or max(1, available_cores() // world.local_size)


def _search(
    config: StudyConfig,
    world: World,
    console: Console,
    prepared: Prepared,
    store: Store,
    history: History,
    executor: LaunchedExecutor,
) -> bool:
    plan = prepared.plan
    threading.Thread(
        target=supervise,
        args=(world, config.resources.gpus_per_trial, WORKER_COMMAND, executor.port),
        name="supervisor",
        daemon=True,
    ).start()
    executor.wait_for_supervisors()
    trials = config.search.trials
    with StudyProgress(history, budgets=plan.budgets, max_trials=trials, console=console) as progress:
        controller = Controller(
            plan.strategy,
            executor,
            store,
            history,
            checkpoints=CheckpointStore(config.output.directory / "checkpoints"),
            on_event=progress.on_event,
            on_progress=progress.on_progress,
        )

        def stop() -> None:
            controller.request_stop()
            with contextlib.suppress(RuntimeError):  # the signal came in the middle of another write to the terminal
                progress.notice("stopping: saving what is running (once more to stop at once)")

        with _on_signals(stop):
            try:
                return controller.run() is not None
            except StoreError as error:  # the disk is full, say: what was committed stays, and the same command goes on
                raise StudyHalted(str(error)) from error


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM; raise KeyboardInterrupt at the second."""
    received = 0

    def handle(number: int, frame: object) -> None:
        nonlocal received
        received += 1
        if received > 1:
            raise KeyboardInterrupt
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish_study(config: StudyConfig, outcome: Outcome, console: Console) -> None:
    """Print and write the report of a finished study, and export the winner's adapter.

    Raises RecordError if no trial could be measured, ExportError or OSError if the disk refuses.
    """
    directory = config.output.directory
    data = load_splits(directory / "data")
    report = final_report(
        outcome.history,
        compare(outcome.history, outcome.plan.finalists),
        names=outcome.plan.space.names,
        wall_seconds=outcome.wall_seconds,
        notes=outcome.notes,
        prompts=_test_samples(config, data),
    )
    console.print(report)
    if not (outcome.was_finished and (directory / "report.json").is_file()):
        report.write(directory)
    say(console, f"report: {directory / 'report.md'}")
    destination = directory / "export"
    if not destination.exists():
        StudyRecord.open(directory).export(destination)
    say(console, f"adapter: {destination}")
    if outcome.was_finished:
        say(console, "the study was finished before: nothing was left to do")


def _test_samples(config: StudyConfig, data: PreparedData) -> list[tuple[str, str]]:
    """(prompt, reference answer) of the first test examples, as the model saw them."""
    count = config.output.generations
    if "test" not in data.splits or not count:
        return []
    directory = config.output.directory / "tokenizer"
    tokenizer = load_tokenizer(directory, trust_remote_code=config.model.trust_remote_code)
    split = data.splits["test"]
    samples = []
    for index in range(min(count, len(split))):
        tokens, start = split.tokens(index), int(split.answer_starts[index])
        samples.append(
            (
                tokenizer.decode(tokens[:start], skip_special_tokens=True),
                tokenizer.decode(tokens[start:], skip_special_tokens=True),
            )
        )
    return samples
