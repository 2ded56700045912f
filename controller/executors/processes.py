"""Jobs on worker processes of this machine: fresh interpreters that this process starts and ends by itself."""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from controller.executors.channel import Channel
from controller.executors.launched import describe_exit
from controller.executors.supervisor import log_tail, open_log
from controller.executors.wire import job_to_json, message_from_json
from controller.executors.world import given_devices
from controller.task import Task
from controller.trial import Declined, Failure, FailureKind, Halt, Job, Message, Report

POLL_SECONDS = 0.2
IDLE_EXIT_SECONDS = 2.0
MAX_FAILED_STARTS = 3
WORKER_COMMAND = (sys.executable, "-P", "-m", "controller.executors.process_worker")


class TaskError(ValueError):
    """A task that cannot be sent to another process."""


@dataclass(slots=True)
class _Worker:
    """One place for a process. It starts with the first job; `process` is None while there is none."""

    number: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    channel: Channel | None = None
    ready: bool = False
    job: Job | None = None
    given_at: float = field(default=0.0)
    failed_starts: int = 0


class ProcessExecutor:
    """Runs a Task in several worker processes and replaces those that die.

    A worker is a new Python interpreter, not a fork: nothing of this process is shared, and a script needs no
    `if __name__ == "__main__"`. It receives a way to make the task, pickled by value (functions of a notebook and
    lambdas too), over a pipe that only it can read. Jobs and messages travel as JSON. When this process ends,
    by whatever means, its workers end at once; `stop` ends them with all processes that they started.

    A worker that dies fails the job that it had, as a crash; the next job starts another. One that dies
    `MAX_FAILED_STARTS` times before its task was made halts the study, since no configuration is to blame.

    Args:
        make_task: called in every worker, without arguments.
        workers: how many processes.
        log_directory: where the output of the workers goes, one file each.
        threads: CPU threads of a worker, unless the environment says OMP_NUM_THREADS.
        devices: values of CUDA_VISIBLE_DEVICES; the workers take them in turn. Empty: as this process.
        grace_seconds: how long `stop` waits for a job at work to be saved. 0 for tasks that cannot do that.

    Raises:
        TaskError: `make_task` cannot be pickled.
    """

    def __init__(
        self,
        make_task: Callable[[], Task],
        workers: int,
        *,
        log_directory: Path,
        threads: int = 1,
        devices: Sequence[str] = (),
        grace_seconds: float = 0.0,
    ) -> None:
        if workers < 1:
            raise ValueError(f"expected workers >= 1, got {workers}; a study needs one to train anything")
        self._task = _pickled(make_task)
        self._workers = [_Worker(number, log_directory / f"worker-{number}.log") for number in range(workers)]
        self._threads = threads
        self._devices = tuple(devices)
        self._grace_seconds = grace_seconds
        self._queue: deque[Job] = deque()
        self._messages: list[Message] = []
        self._stopping = False

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers that are alive."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]

    def has_room(self) -> bool:
        """See Executor."""
        free = sum(worker.job is None for worker in self._workers)
        return not self._stopping and len(self._queue) < free

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._queue.append(job)
        self._hand_out()

    def poll(self) -> Sequence[Message]:
        """See Executor."""
        self._listen(POLL_SECONDS)
        self._hand_out()
        return self._take_messages()

    def stop(self) -> Sequence[Message]:
        """See Executor. What is at work after `grace_seconds` is killed; its job is done again another time."""
        self._stopping = True
        self._queue.clear()
        began = time.monotonic()
        try:
            for worker in self._workers:
                if worker.channel is not None:
                    worker.channel.send({"stop": True})
            while any(self._may_still_leave(worker, time.monotonic() - began) for worker in self._workers):
                self._listen(POLL_SECONDS)
        finally:
            with _uninterrupted():
                for worker in self._workers:
                    self._end(worker)
        return self._take_messages()

    def _may_still_leave(self, worker: _Worker, waited: float) -> bool:
        if worker.process is None:
            return False
        busy = worker.job is not None or not worker.ready
        return waited < (self._grace_seconds if busy else IDLE_EXIT_SECONDS)

    def _take_messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def _hand_out(self) -> None:
        """Give queued jobs to workers that have none, running ones first."""
        free = [worker for worker in self._workers if worker.job is None]
        for worker in sorted(free, key=lambda worker: (worker.process is None, worker.number)):
            if not self._queue or self._stopping:
                return
            if worker.process is None:
                with _uninterrupted():
                    self._spawn(worker)
            worker.job = self._queue.popleft()
            worker.given_at = time.monotonic()
            assert worker.channel is not None
            worker.channel.send({"job": job_to_json(worker.job)})

    def _spawn(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs, open_log(worker.log) as output:
            undo.callback(ours.close)
            worker.process = subprocess.Popen(
                [*WORKER_COMMAND, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=self._environment(worker.number),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for this process, which then ends its workers
            )
            undo.pop_all()
        worker.channel, worker.ready = Channel(ours), False
        # In a thread: a task with much data fills the pipe, and a worker that does not read must not stop the study.
        threading.Thread(target=_feed, args=(worker.process, self._task), name="task-feed", daemon=True).start()

    def _environment(self, number: int) -> dict[str, str]:
        """That of this process, with its import path, so that what is importable here is importable there."""
        env = dict(os.environ)
        env["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        env.setdefault("OMP_NUM_THREADS", str(self._threads))
        # Threads that spin while they wait for each other stand still when anything else wants the cores.
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if self._devices:
            env["CUDA_VISIBLE_DEVICES"] = self._devices[number % len(self._devices)]
        return env

    def _listen(self, timeout: float) -> None:
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.channel is not None:
                    selector.register(worker.channel, selectors.EVENT_READ, worker)
            if not selector.get_map():
                time.sleep(0 if self._queue else timeout)
                return
            ready: list[_Worker] = [key.data for key, _ in selector.select(timeout)]
        for worker in ready:
            assert worker.channel is not None
            for message in worker.channel.receive():
                self._hear(worker, message)
            if worker.channel.closed:
                self._bury(worker)
        for worker in self._workers:
            if worker.process is not None and worker not in ready and worker.process.poll() is not None:
                self._bury(worker)  # it is gone, though something that it started may hold its end of the channel

    def _hear(self, worker: _Worker, message: dict[str, object]) -> None:
        if "ready" in message:
            worker.ready, worker.failed_starts = True, 0
        elif "message" in message:
            content = message_from_json(message["message"])  # type: ignore[arg-type]  # plain data from our worker
            if isinstance(content, Report | Failure | Declined):
                worker.job = None
            self._messages.append(content)

    def _bury(self, worker: _Worker) -> None:
        """A worker has gone: take what it still said, and fail the job that it had."""
        code = self._end(worker, patience=IDLE_EXIT_SECONDS)
        job, worker.job = worker.job, None
        if job is None or self._stopping or any(isinstance(message, Halt) for message in self._messages):
            return
        reason, tail = f"worker {worker.number} {describe_exit(code)}", log_tail(worker.log)
        if tail:
            reason = f"{reason}; the end of its log:\n{tail}"
        if worker.ready:
            seconds = time.monotonic() - worker.given_at
            self._messages.append(Failure(job.job_id, FailureKind.CRASH, reason, seconds=seconds))
            return
        worker.failed_starts += 1
        if worker.failed_starts < MAX_FAILED_STARTS:
            self._queue.appendleft(job)
        else:
            text = f"expected worker {worker.number} to start, got {worker.failed_starts} failed starts"
            self._messages.append(Halt(f"{text}, in the last of which {reason}"))

    def _end(self, worker: _Worker, patience: float = 0.0) -> int:
        """Make sure that a worker and all that it started are gone. Its exit code; 0 if there was none."""
        process, channel = worker.process, worker.channel
        if process is None or channel is None:
            return 0
        try:
            if patience:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            for message in channel.drain(0.2):
                self._hear(worker, message)
            channel.close()
            worker.process = worker.channel = None
        return code


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put an interrupt off to the end of the block, or a process that was just started would be known to nobody."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received:
            before(*received[0])


def _pickled(make_task: Callable[[], Task]) -> bytes:
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(make_task))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise TaskError(
            f"expected a function that can be sent to worker processes, got {error}; do not refer to open files, locks "
            "or connections in it (open them inside), or run with workers=1"
        ) from error


def _feed(process: subprocess.Popen[bytes], task: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin as pipe:  # a worker that died early is noticed elsewhere
        pipe.write(task)


def visible_devices() -> tuple[str, ...]:
    """The GPUs that this process may use, as values of CUDA_VISIBLE_DEVICES, found without any library of CUDA."""
    if (given := given_devices()) is not None:
        return given
    nodes = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    return tuple(str(place) for place in range(len(nodes)))  # CUDA counts from 0, whatever the nodes are called
