"""A Python function as what a study trains and measures."""

from __future__ import annotations

import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from controller.executor import Executor
from controller.history import History
from controller.task import Emit, Inbox
from controller.trial import Failure, FailureKind, Halt, Job, Message, Notice, Progress, Report
from thresher.trial_directories import TrialDirectories

Outcome = float | Mapping[str, float]
"""What a function returns: the metric, or several by name."""

OFFERED: Final = ("params", "budget", "checkpoint_dir", "seed")
MAX_TRACEBACK_LINES: Final = 16
MAX_MESSAGE: Final = 4000  # characters
MAX_SHOWN: Final = 200


class ObjectiveError(RuntimeError):
    """The function of a study cannot be called as it is written, or failed before any trial was measured."""


@final
@dataclass(frozen=True)
class FunctionObjective:
    """A function with what it wants to be told.

    Attributes:
        function: called with the parameters first, or by the name `params`.
        metric: the name of the number that it returns.
        wanted: which others of OFFERED it takes, by name.
        params_by_name: whether it takes `params` by that name.
    """

    function: Callable[..., Any]
    metric: str
    wanted: tuple[str, ...]
    params_by_name: bool

    @classmethod
    def of(cls, function: Callable[..., Any], metric: str) -> FunctionObjective:
        """Find out from its signature what a function wants.

        Its first argument receives the parameters, whatever its name; `budget`, `checkpoint_dir` and `seed` are
        passed if it has arguments of these names, or `**` ones.

        Raises ObjectiveError if it cannot be called so.
        """
        if not callable(function):
            raise ObjectiveError(f"expected a function as objective, got {function!r}; give the function itself")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some functions of C
            return cls(function, metric, (), params_by_name=False)
        arguments = list(signature.parameters.values())
        keywords = any(argument.kind is argument.VAR_KEYWORD for argument in arguments)
        named = [argument.name for argument in arguments if argument.kind is not argument.POSITIONAL_ONLY]
        by_name = "params" in named
        first = arguments[0] if arguments else None
        if not by_name and (first is None or first.name in OFFERED or first.kind is first.KEYWORD_ONLY):
            raise ObjectiveError(
                f"expected an objective whose first argument receives the parameters, got {_shown(function)}; "
                "write def objective(params, budget, checkpoint_dir), of which the last two may be left out"
            )
        wanted = tuple(name for name in OFFERED[1:] if name in named or keywords)
        given = {*wanted, "params" if by_name or first is None else first.name}
        plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for argument in arguments:
            if argument.name not in given and argument.default is argument.empty and argument.kind not in plain:
                raise ObjectiveError(
                    f"expected an objective that takes {', '.join(OFFERED)} or some of them, got {_shown(function)} "
                    f"with {argument.name!r}; give it a default, or bind it with functools.partial"
                )
        return cls(function, metric, wanted, by_name)

    @property
    def takes_budget(self) -> bool:
        """Whether it can train to less than the full budget."""
        return "budget" in self.wanted

    @property
    def takes_directory(self) -> bool:
        """Whether it keeps checkpoints."""
        return "checkpoint_dir" in self.wanted

    def __call__(self, job: Job, directory: object) -> dict[str, float]:
        """Call the function for a job. Raises whatever it raises, and TypeError if it returns no number."""
        offered = {"budget": job.to_budget, "checkpoint_dir": directory, "seed": job.seed}
        arguments = {name: offered[name] for name in self.wanted}
        params = dict(job.params)
        if self.params_by_name:
            return read_outcome(self.function(params=params, **arguments), self.metric)
        return read_outcome(self.function(params, **arguments), self.metric)


def read_outcome(outcome: object, metric: str) -> dict[str, float]:
    """What a function returned, as metrics by name: numbers of any library that `float` understands.

    Raises TypeError if it is neither a number nor a mapping of names to numbers.
    """
    measured: Mapping[Any, Any] = outcome if isinstance(outcome, Mapping) else {metric: outcome}
    metrics = {}
    for name, value in measured.items():
        if not isinstance(name, str) or isinstance(value, str | bytes | None):
            raise _no_number(outcome, name)
        try:
            metrics[name] = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _no_number(outcome, name) from None
    return metrics


def failure_of(error: BaseException, job: Job, seconds: float) -> Failure:
    """What a function raised, as data: the last lines of its traceback, and what kind of failure it is."""
    kind = FailureKind.OOM if _is_out_of_memory(error) else FailureKind.CRASH
    return Failure(job.job_id, kind, _last_lines(error), job.from_budget, seconds)


@final
class FunctionTask:
    """Calls a function for one job after the other.

    Attributes:
        error: what the function raised, as long as it has never returned.
    """

    def __init__(self, objective: FunctionObjective, directories: TrialDirectories) -> None:
        self._objective = objective
        self._directories = directories
        self._returned = False
        self.error: BaseException | None = None

    def run(self, inbox: Inbox, emit: Emit) -> None:
        """See Task. A function cannot be interrupted: `stopping` is heeded between two jobs."""
        while (job := inbox.get()) is not None:
            emit(Progress(job.job_id, job.from_budget, "run"))
            message = self._serve(job, emit)
            emit(message)
            if isinstance(message, Halt):
                return

    def _serve(self, job: Job, emit: Emit) -> Message:
        if job.split == "test":
            return Failure(job.job_id, FailureKind.CRASH, "expected no test of a function, which has no test set")
        began = time.monotonic()
        staged = None
        try:
            if self._objective.takes_directory:
                staged, complete = self._directories.stage(job)
                if not complete:
                    emit(Notice(job.job_id, missing_notice(job)))
            metrics = self._call(job, staged)
            if isinstance(metrics, BaseException):
                return self._failed(metrics, job, time.monotonic() - began)
            if staged is not None:
                self._directories.publish(job, staged)
        except OSError as error:  # ours: those of the function came as a value
            return Halt(f"expected to write the checkpoints of trial {job.trial_id}, got {error}; free some space")
        return Report(job.job_id, job.to_budget, metrics, time.monotonic() - began)

    def _call(self, job: Job, staged: object) -> dict[str, float] | BaseException:
        process = os.getpid()
        try:
            metrics = self._objective(job, staged)
        except (Exception, SystemExit) as error:  # `sys.exit` ends a script, and this call, but not a study
            return error
        finally:
            if os.getpid() != process:  # a fork that the function forgot to end would go on with the study as well
                os._exit(1)
        self._returned = True
        return metrics

    def _failed(self, error: BaseException, job: Job, seconds: float) -> Failure:
        failure = failure_of(error, job, seconds)
        if self._returned or failure.kind is FailureKind.OOM:
            # The exception holds the frames of the failed call, and these hold its arrays.
            traceback.clear_frames(error.__traceback__)
            self.error = None
        else:
            self.error = error
        if failure.kind is FailureKind.OOM and (torch := sys.modules.get("torch")) is not None:
            torch.cuda.empty_cache()  # does nothing where no device is in use
        return failure


@final
class FailFast:
    """An executor whose first failure, as long as nothing was ever measured, is an error: a mistake in the function.

    Twenty failed trials tell no more than one. The job stays open in the journal and is done again when the study
    is run again.

    Args:
        executor: what runs the jobs.
        history: of the study.
        cause: what the function raised, if it did so in this process.
    """

    def __init__(self, executor: Executor, history: History, cause: Callable[[], BaseException | None]) -> None:
        self._executor = executor
        self._cause = cause
        self._measured = any(trial.reports for trial in history.trials)

    def has_room(self) -> bool:
        """See Executor."""
        return self._executor.has_room()

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._executor.submit(job)

    def poll(self) -> Sequence[Message]:
        """See Executor. Raises ObjectiveError."""
        messages = self._executor.poll()
        self._measured = self._measured or any(isinstance(message, Report) for message in messages)
        for message in messages:
            if not self._measured and isinstance(message, Failure) and message.kind is FailureKind.CRASH:
                raise ObjectiveError(
                    f"expected the objective to measure a first trial, got\n{message.message}\n"
                    "mend it and run the study again; with fail_fast=False such a trial counts as failed"
                ) from self._cause()
        return messages

    def stop(self) -> Sequence[Message]:
        """See Executor."""
        return self._executor.stop()


def missing_notice(job: Job) -> str:
    """What to tell when the files that a job should build on are gone."""
    return f"the files of budget {job.from_budget} are gone: the directory is empty and all is trained again"


def _no_number(outcome: object, name: object) -> TypeError:
    got = f"{outcome[name]!r} for {name!r}" if isinstance(outcome, Mapping) else repr(outcome)
    if len(got) > MAX_SHOWN:
        got = f"{got[:MAX_SHOWN]}..."
    return TypeError(
        f"expected the objective to return a number, or a mapping of names to numbers, got {got}; "
        "return the metric of the study"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # without it nobody can have raised its error
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _last_lines(error: BaseException) -> str:
    """The end of a traceback, without the frames of this module; its last line says what was raised."""
    report = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in report.stack if frame.filename != __file__]
    report.stack = traceback.StackSummary.from_list(frames)
    lines = "".join(report.format()).rstrip().splitlines()
    header = "Traceback (most recent call last):"
    kept = [line for line in lines if line != header][-MAX_TRACEBACK_LINES:]
    return "\n".join(kept)[-MAX_MESSAGE:].strip()


def _shown(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name}({', '.join(inspect.signature(function).parameters)})"
