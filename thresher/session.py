"""The study of a function, open for writing: its directory, its journal, and the loop over it."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final
from weakref import WeakValueDictionary

from rich.console import Console

from controller.controller import Controller
from controller.events import Enqueued, SessionStarted
from controller.executor import Executor
from controller.executors.inline import InlineExecutor
from controller.executors.processes import ProcessExecutor, visible_devices
from controller.history import History
from controller.limits import Stopwatch, active_seconds
from controller.requests import Requests
from controller.store import Store
from controller.strategy import Done, InTurn, Strategy
from controller.trial import MetricError, Objective
from search_spaces.space import Params, Space, SpaceError
from thresher import __version__
from thresher.asking import Asking, MustWait, OpenTrial, Told
from thresher.functions import FailFast, FunctionObjective, FunctionTask
from thresher.notebook import silent_console, watching
from thresher.progress import StudyProgress
from thresher.results import FUNCTION_KEY, Snapshot, StudyError, function_finalists, replay
from thresher.strategies import make_strategy
from thresher.trial_directories import TrialDirectories

CHECKPOINTS_NAME = "checkpoints"
LOGS_NAME = "logs"
REFUSALS = (StudyError, MustWait, SpaceError, MetricError, TypeError)
"""What is raised before anything was changed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the study of a function is made of.

    Attributes:
        budgets: the rungs, lowest first; the last is the full budget.
        strategy: a word of make_strategy, or an object.
        max_trials: how many trials the search starts; may grow later, and so may `finalists` and `repeats`.
        default: the configuration that is tried first, if any.
    """

    space: Space
    objective: Objective
    budgets: tuple[int, ...]
    strategy: str | Strategy
    max_trials: int
    seed: int = 0
    reduction_factor: int = 3
    finalists: int = 0
    repeats: int = 2
    default: Params | None = None

    def identity(self) -> dict[str, Any]:
        """What makes it this study and no other, in terms of JSON."""
        strategy = self.strategy if isinstance(self.strategy, str) else type(self.strategy).__qualname__
        identity = {
            "space": self.space.to_dict(),
            "metric": self.objective.metric,
            "direction": self.objective.direction,
            "budgets": list(self.budgets),
            "strategy": strategy,
            "seed": self.seed,
            "default": None if self.default is None else dict(self.default),
        }
        return dict(json.loads(json.dumps(identity)))

    def make_strategy(self) -> Strategy:
        """The search, and the finalists after it. Raises ValueError."""
        search = self.strategy
        if isinstance(search, str):
            search = make_strategy(
                search,
                self.space,
                self.budgets,
                self.max_trials,
                keep=max(1, self.finalists),
                reduction_factor=self.reduction_factor,
            )
        finalists = function_finalists(self.finalists, self.repeats)
        return search if finalists is None else InTurn((search, finalists))


@final
class Session:
    """Holds the lock of a study's directory until it is closed.

    Of two sessions of one process in the same directory the newer takes over: whoever runs a cell of a notebook
    again means the new study object, and the old one may live on unseen.

    Args:
        directory: where journal and checkpoints lie; None makes a temporary one, which goes with the session.

    Raises:
        StudyError: the directory holds another study.
        StoreError: another process writes to it, or the disk refuses.
        ValueError: the settings do not make a strategy.
    """

    def __init__(self, settings: Settings, directory: Path | None) -> None:
        self._strategy = settings.make_strategy()
        self.settings = settings
        self._temporary = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="thresher-", ignore_cleanup_errors=True)
            directory = Path(self._temporary.name)
        self.directory = directory.absolute()
        self._directories = TrialDirectories(self.directory / CHECKPOINTS_NAME)
        self._lock = threading.RLock()
        self._running = False
        self._closed = False
        self._asking: Asking | None = None
        older = _OPEN.get(self.directory)
        if older is not None and not older._running:
            older.close()
        self._store, self.history = self._load()
        _OPEN[self.directory] = self

    def snapshot(self) -> Snapshot:
        """Where the study stands."""
        settings = self.settings
        finalists = function_finalists(settings.finalists, settings.repeats)
        finished = not self.history.running and isinstance(self._strategy.next(self.history), Done)
        return Snapshot(self.directory, self.history, settings.budgets, settings.max_trials, finalists, finished)

    def extend(self, settings: Settings) -> None:
        """Go on with more trials or finalists. Raises StudyError if the study is running."""
        with self._writing():
            self._strategy = settings.make_strategy()
            self.settings = settings
            self._asking = None
            self._store.write_manifest({**self._manifest(), "finished": False})

    def enqueue(self, params: Params) -> None:
        """Have a configuration tried before any that the strategy thinks of. Raises SpaceError."""
        self.settings.space.validate(params)
        with self._writing():
            event = Enqueued(dict(params))
            self._store.append([event])
            self.history.apply(event)

    def ask(self) -> OpenTrial | None:
        """See Asking.ask."""
        with self._writing():
            if self._asking is None:
                self._note_start()
                self._asking = Asking(self._strategy, self._store, self.history, self._directories)
            trial = self._asking.ask()
            if trial is None:
                self._store.write_manifest({"finished": True})
            return trial

    def tell(self, trial: OpenTrial, outcome: Told) -> None:
        """See Asking.tell."""
        with self._writing():
            if self._asking is None:
                raise StudyError(f"expected a trial that is open, got {trial!r}; ask for it again")
            self._asking.tell(trial, outcome)

    def run(
        self,
        objective: FunctionObjective,
        *,
        workers: int,
        timeout: float | None,
        progress: bool,
        budget_unit: str,
        retries: int,
        fail_fast: bool,
        devices: Sequence[str] | None,
    ) -> None:
        """Run the study until it is finished, the time is up, or somebody asks it to stop. See Study.run."""
        with self._writing():
            self._asking = None  # what was asked and not told is run here instead
            task = FunctionTask(objective, self._directories)
            executor = self._executor(objective, task, workers, devices)
            if fail_fast:
                executor = FailFast(executor, self.history, lambda: task.error)
            self._note_start()
            self._running = True
            try:
                console = Console() if progress else silent_console()
                with watching(console, partial(self._progress, budget_unit)) as view:
                    controller = Controller(
                        self._strategy,
                        executor,
                        self._store,
                        self.history,
                        checkpoints=self._directories,
                        max_retries=retries,
                        requests=Requests(self.directory, check=self.settings.space.validate),
                        on_event=view.on_event,
                        on_progress=view.on_progress,
                        on_notice=view.notice,
                    )
                    with _after(timeout, controller.request_drain):
                        done = controller.run()
                    self._store.write_manifest({"finished": done is not None})
            finally:
                self._running = False

    def close(self) -> None:
        """Give the lock back, and delete the directory if it is a temporary one. Raises StudyError while it runs."""
        if self._running:
            raise StudyError("expected a study that is not running, got one that is; interrupt it first")
        if not self._closed:
            self._closed = True
            self._store.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _note_start(self) -> None:
        """What lies between this entry and the one before was a pause."""
        if not self.snapshot().finished:
            self._store.append([SessionStarted()])
            self.history.apply(SessionStarted())

    def _progress(self, budget_unit: str, console: Console) -> StudyProgress:
        settings = self.settings
        return StudyProgress(
            self.history,
            budgets=settings.budgets,
            max_trials=settings.max_trials,
            budget_unit=budget_unit,
            elapsed=Stopwatch(active_seconds(self._store.events())),
            console=console,
        )

    def _executor(
        self, objective: FunctionObjective, task: FunctionTask, workers: int, devices: Sequence[str] | None
    ) -> Executor:
        if workers == 1:
            return InlineExecutor(task)
        from thresher.resources import available_cores

        return ProcessExecutor(
            partial(FunctionTask, objective, self._directories),
            workers,
            log_directory=self.directory / LOGS_NAME,
            threads=max(1, available_cores() // workers),
            devices=visible_devices() if devices is None else devices,
        )

    def _load(self) -> tuple[Store, History]:
        """Take the lock and read the journal; start one if there is none."""
        settings = self.settings
        store = Store.open(self.directory)
        try:
            manifest = store.manifest()
            if manifest:
                _check_identity(self.directory, manifest, settings.identity())
            new = not manifest
            if new and next(store.events(), None) is not None:
                raise StudyError(f"expected the study of a function, or no study, in {self.directory}; choose another")
            self._directories.tidy()
            store.write_manifest(self._manifest())
            history = replay(store, seed=settings.seed, objective=settings.objective, horizon=settings.budgets[-1])
            if settings.default is not None and not history.queue:
                event = Enqueued(dict(settings.default))
                store.append([event])
                history.apply(event)
        except BaseException:
            store.close()
            raise
        return store, history

    def _manifest(self) -> dict[str, Any]:
        settings = self.settings
        return {
            FUNCTION_KEY: settings.identity(),
            "trials": settings.max_trials,
            "finalists": settings.finalists,
            "repeats": settings.repeats,
            "version": __version__,
        }

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Only one thread at a time, on an open study; afterwards memory holds what the journal does.

        An interrupt may come between the two. So after anything but a refusal the journal is read again.
        """
        if self._closed:
            raise StudyError(
                f"expected an open study, got one that was closed ({self.directory}); make it again with the same "
                "arguments to go on"
            )
        if not self._lock.acquire(blocking=False):
            raise StudyError("expected a study that nobody is using, got one that another thread runs; wait for it")
        try:
            if self._running:
                raise StudyError("expected a study that is not running, got one that is; wait for its run() to return")
            yield
        except REFUSALS:
            raise
        except BaseException:
            self._reload()
            raise
        finally:
            self._lock.release()

    def _reload(self) -> None:
        self._store.close()
        self._asking = None
        self._closed = True
        self._store, self.history = self._load()
        self._closed = False


_OPEN: WeakValueDictionary[Path, Session] = WeakValueDictionary()


@contextmanager
def _after(seconds: float | None, call: Callable[[], None]) -> Iterator[None]:
    """Call once the time is up, unless the block was left before."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _check_identity(directory: Path, manifest: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises StudyError naming each setting that makes it another study."""
    before = manifest.get(FUNCTION_KEY)
    if before is None:
        raise StudyError(
            f"expected the study of a function in {directory}, got one of fine-tuning; choose another directory, or "
            "read it with Study.open"
        )
    changes = []
    for key, value in now.items():
        if before.get(key) != value:
            changes.append(f"{key}: expected {before.get(key)!r}, as the study was started with, got {value!r}")
    if changes:
        raise StudyError(
            "\n  ".join([f"{directory} holds another study:", *changes])
            + "\ngive the same settings to go on with it, or choose another directory"
        )
