"""One study from its config to its report: prepare, search, repeat, test, export."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from controller.controller import Controller, StudyHalted
from controller.events import Enqueued, Event, SessionStarted
from controller.executors.launched import LaunchedExecutor
from controller.executors.supervisor import supervise
from controller.executors.world import World
from controller.history import History
from controller.limits import Limited, Stopwatch, active_seconds
from controller.requests import Requests
from controller.store import Store, StoreError
from controller.strategy import Done, InTurn, Strategy
from llm_tuning.base_model import load_tokenizer
from llm_tuning.checkpoint import CheckpointStore
from llm_tuning.data import PreparedData, load_splits
from thresher.build import Plan, worker_task
from thresher.comparison import compare
from thresher.config import StudyConfig
from thresher.enqueue import check_params
from thresher.manifest import check_manifest, describe_study, model_fingerprint, settle_manifest
from thresher.notebook import watching
from thresher.prepare import check_needs, keep_tokenizer, lay_groundwork, say, tokenise
from thresher.progress import StudyProgress
from thresher.record import StudyRecord
from thresher.report import final_report
from thresher.resources import available_cores
from thresher.touched import uses_of_test_set

LOCK_PATIENCE_SECONDS = 5.0  # a study that was just interrupted may still be saving
WORKER_COMMAND = (sys.executable, "-m", "llm_tuning.worker")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of a study ended.

    Attributes:
        finished: False if it was asked to stop: the same command goes on.
        was_finished: there was nothing left to do from the start.
        entries: the journal when it ended, as `Store.events` gives it.
    """

    finished: bool
    was_finished: bool
    entries: Sequence[tuple[int, float, Event]]
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
        entries = list(store.events())
        history = History.replay(
            (event for _, _, event in entries),
            seed=config.search.seed,
            objectives=plan.objectives,
            horizon=plan.budgets[-1],
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
        stopwatch = Stopwatch(active_seconds(entries))
        strategy = InTurn((Limited(plan.search, config.limits, stopwatch), plan.finalists))
        was_finished = not history.running and isinstance(strategy.next(history), Done)
        if not was_finished:
            store.append([SessionStarted()])
            history.apply(SessionStarted())
        finished = _search(config, world, console, prepared, store, history, executor, strategy, stopwatch)
        return Outcome(finished, was_finished, list(store.events()), plan, history, prepared.notes)


def prepare(config: StudyConfig, store: Store, world: World, console: Console) -> Prepared:
    """Everything before the first job, and the manifest. Raises ValueError."""
    directory = config.output.directory
    ground = lay_groundwork(config, console)
    plan = ground.plan
    surroundings = {
        "model": model_fingerprint(ground.model),
        "threads": worker_threads(config, world),
        "processes": world.size,
    }
    follows = {"defaults": dict(plan.defaults), "budgets": list(plan.budgets), "space": plan.space.to_dict()}
    manifest = describe_study(config, follows, surroundings)
    notes = [*plan.notes, *check_manifest(store, manifest), *check_needs(config, plan, None)]
    data, tokenizer = tokenise(config, ground, directory / "data", console)
    keep_tokenizer(tokenizer, directory / "tokenizer")
    # Last: what was refused up to here may be mended, and is no study yet.
    settle_manifest(store, manifest, data.fingerprint)
    notes += [*data.notes, *check_needs(config, plan, data)]
    for note in notes:
        say(console, f"note: {note}")
    return Prepared(plan, worker_task(config, plan, ground.model), data, tuple(notes))


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
    strategy: Strategy,
    elapsed: Callable[[], float],
) -> bool:
    plan = prepared.plan
    for hosted in world.hosted():
        threading.Thread(
            target=supervise,
            args=(hosted, config.resources.gpus_per_trial, WORKER_COMMAND, executor.port),
            name=f"supervisor-{hosted.rank}",
            daemon=True,
        ).start()
    executor.wait_for_supervisors()
    trials = config.search.trials
    progress_on = partial(
        StudyProgress, history, budgets=plan.budgets, max_trials=trials, limits=config.limits, elapsed=elapsed
    )
    with watching(console, lambda shown: progress_on(console=shown)) as progress:
        controller = Controller(
            strategy,
            executor,
            store,
            history,
            checkpoints=CheckpointStore(config.output.directory / "checkpoints"),
            requests=Requests(
                config.output.directory, check=lambda params: check_params(plan.space, plan.defaults, params)
            ),
            on_event=progress.on_event,
            on_progress=progress.on_progress,
            on_notice=progress.notice,
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

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
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
        max_trials=config.search.trials,
        limits=config.limits,
        wall_seconds=outcome.entries[-1][1] - outcome.entries[0][1],
        active_seconds=active_seconds(outcome.entries),
        test_uses=uses_of_test_set(outcome.entries),
        test_data=data.fingerprint,
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
        prompt, answer = split.prompt(index), split.answer(index)
        samples.append(
            (
                tokenizer.decode(prompt, skip_special_tokens=True),
                tokenizer.decode(answer, skip_special_tokens=True),
            )
        )
    return samples
