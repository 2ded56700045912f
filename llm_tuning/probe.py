"""Three training steps and one evaluation batch, timed: what a study's jobs will cost on this device.

The probe is a worker of its own, `python -m llm_tuning.probe RESULT`, so that nothing of it stays in memory, and trains
by the code that trains the study, on a sample of the study's tokens. Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from controller.executors.supervisor import log_tail
from controller.task import Task
from controller.trial import Continue, Failure, FailureKind, Halt, Job, Message, Progress, Report
from llm_tuning.batches import example_indices
from llm_tuning.data import PreparedData, load_splits, store_splits
from llm_tuning.tokenized_split import TokenizedSplit
from llm_tuning.worker import build_task

STEPS: Final = 3
MAX_MICRO_BATCHES: Final = 2
"""A step of the probe has no more, so that large batches do not make it long; the time per example is the same."""

_SEED: Final = 0


class ProbeError(ValueError):
    """The probe could not train or measure; the message says why."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the probe measured.

    Attributes:
        device: the name of the GPU, or `cpu`.
        load_seconds: starting a worker: libraries, base model and data.
        job_seconds: what a job takes besides its examples: adapters are put on, a checkpoint is read and written.
        training_seconds: a training example, at the lengths of the data.
        evaluation_seconds: a held-out example.
        answer_seconds: writing one answer of `max_new_tokens` for the report.
        peak_bytes: most memory in use, in training on the longest examples: of the GPU, or of the process on a CPU.
    """

    device: str
    load_seconds: float
    job_seconds: float
    training_seconds: float
    evaluation_seconds: float
    answer_seconds: float
    peak_bytes: int


def run_probe(task: Mapping[str, Any], environment: Mapping[str, str]) -> Probe:
    """Run the probe for a study in a process of its own, which is gone when this returns or raises.

    Args:
        task: the specification that the study's workers get (`FineTuningSpec.to_dict`); its tokens must be there.
        environment: of the process: which device it sees, how many threads it has.

    Raises:
        ProbeError: a training step failed (out of memory, say), or the process could not start.
        DataError: the tokens cannot be read.
    """
    batch_size = _batch_size(task)
    with tempfile.TemporaryDirectory(prefix="thresher-probe-") as place:
        directory = Path(place)
        data = Path(task["data_directory"])
        _write_sample(data, directory / "data", batch_size, int(task["evaluation_batch_size"]))
        specification = {
            **task,
            "data_directory": str(directory / "data"),
            "checkpoint_directory": str(directory / "checkpoints"),
            "generations": min(1, task["generations"]),
            "trackers": [],  # it is no trial
        }
        result, log = directory / "result.json", directory / "log"
        request = json.dumps({"task": specification, "batch_size": batch_size}) + "\n"
        code = _run_child(result, request, log, environment)
        if not result.is_file():
            raise ProbeError(
                f"expected a measurement from the probe, got exit code {code}: {log_tail(log) or 'without a word'}; "
                "see whether model, data and device work, or leave the probe out"
            )
        outcome = json.loads(result.read_text(encoding="utf-8"))
    if "failure" in outcome:
        raise ProbeError(_refusal(outcome["failure"], outcome["message"]))
    return Probe(**outcome)


def _batch_size(task: Mapping[str, Any]) -> int:
    default = int(task["defaults"]["optimizer.batch_size"])
    return min(default, MAX_MICRO_BATCHES * int(task["micro_batch_size"]))


def _refusal(kind: str, message: str) -> str:
    remedy = "correct what it names"
    if kind == FailureKind.OOM:
        remedy = "lower resources.micro_batch_size or data.max_length, or set resources.gradient_checkpointing"
    return f"expected {STEPS} training steps and an evaluation, got {kind}: {message}; {remedy}"


def _run_child(result: Path, request: str, log: Path, environment: Mapping[str, str]) -> int:
    """Run the child to its end. Its exit code. Whatever ends this ends the child."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "llm_tuning.probe", str(result)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child by itself
        )
    assert child.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it ended before it read; its log says why
            child.stdin.write(request.encode())
            child.stdin.flush()
        return child.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


# --- the sample ---------------------------------------------------------------------------------


def _write_sample(source: Path, destination: Path, batch_size: int, evaluation_batch_size: int) -> None:
    """A data directory with the examples of the probe: a first step of the longest, then steps as they will be."""
    data = load_splits(source)
    report = data.reports["train"]
    train, held_out = data.splits["train"], data.splits["validation"]
    count = STEPS * batch_size
    wanted = np.concatenate([_longest(train, batch_size), _of_all_lengths(train, count - batch_size)])
    places = example_indices(_SEED, 0, count, count)  # example places[i] is trained on as the i-th
    order = np.empty(count, dtype=np.int64)
    order[places] = wanted
    measured = _selection(held_out, _of_mean_length(held_out, evaluation_batch_size))
    sample = {"train": _selection(train, order), "validation": measured, "test": measured}
    store_splits(PreparedData(sample, dict.fromkeys(sample, report), ()), destination, {})


def _longest(split: TokenizedSplit, count: int) -> NDArray[np.int64]:
    order = np.argsort(-np.diff(split.offsets), kind="stable")
    return np.resize(order, count).astype(np.int64)


def _of_all_lengths(split: TokenizedSplit, count: int) -> NDArray[np.int64]:
    """Examples with the mean length of all, alike in both halves."""
    order = np.argsort(np.diff(split.offsets), kind="stable")
    # The middles of `count` equal parts: their mean is that of all.
    picked = order[((np.arange(count) + 0.5) / count * len(order)).astype(np.int64)]
    return np.concatenate([picked[0::2], picked[1::2]])


def _of_mean_length(split: TokenizedSplit, count: int) -> NDArray[np.int64]:
    """A batch of neighbours in length, as evaluation makes them, around the mean length."""
    lengths = np.diff(split.offsets)
    order = np.argsort(lengths, kind="stable")
    count = min(count, len(order))
    middle = int(np.searchsorted(lengths[order], lengths.mean()))
    start = min(max(0, middle - count // 2), len(order) - count)
    return order[start : start + count].astype(np.int64)


def _selection(split: TokenizedSplit, indices: NDArray[np.int64]) -> TokenizedSplit:
    """Some examples of a split, in the given order."""
    places = np.concatenate([np.arange(split.offsets[i], split.offsets[i + 1]) for i in indices])
    offsets = np.concatenate([[0], np.cumsum(np.diff(split.offsets)[indices])]).astype(np.int64)
    return TokenizedSplit(split.token_ids[places], offsets, split.learnt[places])


# --- the child ----------------------------------------------------------------------------------


def main(result: Path) -> None:
    """Read a request from the standard input, train and measure, and write the result to a file."""
    started = time.monotonic()
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        task = build_task(request["task"])
    except (ValueError, OSError) as error:
        outcome: dict[str, Any] = {"failure": "an error", "message": str(error)}
    else:
        outcome = _measure(task, request["batch_size"], request["task"], time.monotonic() - started)
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(outcome), encoding="utf-8")
    partial.replace(result)


def _end_with_parent() -> None:
    """The parent keeps the standard input open for as long as it lives."""
    sys.stdin.read()
    os._exit(1)


def _measure(task: Task, batch_size: int, specification: Mapping[str, Any], load_seconds: float) -> dict[str, Any]:
    """Train three steps and measure, then test the same weights on the same examples. A Probe or a failure as JSON."""
    budget = STEPS * batch_size
    params = {"optimizer.batch_size": batch_size}
    training = _Timeline.of(task, Job(0, 0, params, _SEED, 0, budget, budget))
    if (failure := training.failure) is not None:
        return failure
    device, peak_bytes = _memory()
    test = _Timeline.of(task, Job(1, 0, params, _SEED, budget, budget, budget, Continue(0, budget), "test"))
    if (failure := test.failure) is not None:
        return failure
    steps = [training.when("train", budget=step * batch_size) for step in range(1, STEPS + 1)]
    saving = training.when("evaluate") - training.when("save")
    evaluation = training.end - training.when("evaluate")
    attaching = test.when("evaluate") - test.start
    examples = len(load_splits(Path(specification["data_directory"])).splits["validation"])
    probe = Probe(
        device=device,
        load_seconds=load_seconds,
        job_seconds=attaching + saving,
        training_seconds=(steps[-1] - steps[0]) / (budget - batch_size),
        evaluation_seconds=evaluation / examples,
        answer_seconds=max(0.0, test.end - test.when("evaluate") - evaluation) if specification["generations"] else 0.0,
        peak_bytes=peak_bytes,
    )
    return asdict(probe)


def _memory() -> tuple[str, int]:
    """The device, and the most memory that was in use on it, in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), int(torch.cuda.max_memory_reserved())
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return "cpu", int(line.split()[1]) * 1024
    return "cpu", 0


@final
@dataclass(slots=True)
class _Timeline:
    """What a task said about one job, and when."""

    start: float
    end: float = 0.0
    said: list[tuple[float, Message]] = field(default_factory=list)

    @classmethod
    def of(cls, task: Task, job: Job) -> _Timeline:
        """Run a job to its end."""
        timeline = cls(time.monotonic())
        task.run(_Jobs(deque([job])), lambda message: timeline.said.append((time.monotonic(), message)))
        timeline.end = timeline.said[-1][0] if timeline.said else timeline.start
        return timeline

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why there is no report, if there is none."""
        match self.said[-1][1] if self.said else None:
            case Report():
                return None
            case Failure(_, kind, message):
                return {"failure": kind.value, "message": message}
            case Halt(text):
                return {"failure": "an error", "message": text}
        return {"failure": "an error", "message": "no report"}

    def when(self, phase: str, budget: int = 0) -> float:
        """When the job first was in a phase, at or past a number of examples."""
        return next(
            moment
            for moment, message in self.said
            if isinstance(message, Progress) and message.phase == phase and message.budget >= budget
        )


@final
@dataclass(slots=True)
class _Jobs:
    """An inbox with nothing to come."""

    jobs: deque[Job]
    stopping: bool = False

    def get(self) -> Job | None:
        """See Inbox."""
        return self.jobs.popleft() if self.jobs else None

    def poll(self) -> Job | None:
        """See Inbox."""
        return self.get()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
