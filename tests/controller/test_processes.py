"""The executor with real worker processes that it starts itself."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from controller.executors.processes import MAX_FAILED_STARTS, ProcessExecutor, TaskError, visible_devices
from controller.task import Emit, Inbox
from controller.trial import Failure, FailureKind, Halt, Job, Message, Report

Launch = Callable[..., ProcessExecutor]


def make_calls(call: Callable[[Job], float]) -> Callable[[], Any]:
    """A way to make a task that reports what a function of the job gives. Pickled by value, as if of a notebook."""

    def make() -> Any:
        class Calls:
            def run(self, inbox: Inbox, emit: Emit) -> None:
                while (job := inbox.get()) is not None:
                    emit(Report(job.job_id, job.to_budget, {"value": float(call(job))}, 0.1))

        return Calls()

    return make


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    executors = []

    def start(make: Callable[[], Any], workers: int = 1, **options: Any) -> ProcessExecutor:
        executors.append(ProcessExecutor(make, workers, log_directory=tmp_path / "logs", **options))
        return executors[-1]

    yield start
    pids = [pid for executor in executors for pid in executor.processes]
    for executor in executors:
        executor.stop()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def job(job_id: int, **params: Any) -> Job:
    return Job(job_id, job_id, params, 0, 0, 10, 30)


def wait_for(executor: ProcessExecutor, kind: type[Message], count: int = 1) -> list[Any]:
    seen: list[Message] = []
    deadline = time.monotonic() + 30
    while sum(isinstance(message, kind) for message in seen) < count:
        assert time.monotonic() < deadline, f"no {kind.__name__} within 30 seconds, only {seen}"
        seen.extend(executor.poll())
    return [message for message in seen if isinstance(message, kind)]


def test_jobs_run_in_other_processes_with_what_their_function_refers_to(launch: Launch) -> None:
    weights = np.arange(4)
    executor = launch(make_calls(lambda job: float(weights.sum()) + os.getpid() * 1000), workers=2)
    executor.submit(job(0))
    assert executor.has_room()
    executor.submit(job(1))
    assert not executor.has_room()
    values = [report.metrics["value"] for report in wait_for(executor, Report, 2)]
    assert {value % 1000 for value in values} == {6.0}
    assert {int(value // 1000) for value in values} == set(executor.processes)
    assert os.getpid() not in executor.processes
    assert executor.has_room()


def test_a_worker_takes_job_after_job(launch: Launch) -> None:
    executor = launch(make_calls(lambda job: os.getpid()))
    pids = set()
    for number in range(3):
        executor.submit(job(number))
        pids |= {report.metrics["value"] for report in wait_for(executor, Report)}
    assert pids == {float(pid) for pid in executor.processes}


def test_nothing_is_started_before_there_is_work(launch: Launch) -> None:
    executor = launch(make_calls(lambda job: 0.0))
    assert executor.poll() == []
    assert executor.processes == []


def test_a_worker_that_dies_fails_its_job_and_is_replaced(launch: Launch) -> None:
    def fatal(job: Job) -> float:
        if job.params.get("die"):
            print("the last words", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    executor = launch(make_calls(fatal))
    executor.submit(job(0))
    [first] = wait_for(executor, Report)
    executor.submit(job(1, die=True))
    [failure] = wait_for(executor, Failure)
    assert (failure.job_id, failure.kind) == (1, FailureKind.CRASH)
    assert "worker 0 was killed by SIGKILL" in failure.message
    assert failure.message.endswith("the last words")
    executor.submit(job(2))
    [second] = wait_for(executor, Report)
    assert second.metrics != first.metrics


def test_a_worker_that_exits_by_itself_is_a_crash_too(launch: Launch) -> None:
    executor = launch(make_calls(lambda job: os._exit(3)))
    executor.submit(job(0))
    [failure] = wait_for(executor, Failure)
    assert failure.message == "worker 0 exited with code 3"


def test_the_others_go_on_when_one_dies(launch: Launch, tmp_path: Path) -> None:
    def wait_or_die(job: Job) -> float:
        if job.params["die"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return 1.0

    executor = launch(make_calls(wait_or_die), workers=2)
    executor.submit(job(0, die=False))
    executor.submit(job(1, die=True))
    [failure] = wait_for(executor, Failure)
    assert failure.job_id == 1
    assert "SIGSEGV" in failure.message
    (tmp_path / "go").touch()
    [report] = wait_for(executor, Report)
    assert report.job_id == 0


def test_a_task_that_cannot_be_made_halts_the_study(launch: Launch) -> None:
    def make() -> Any:
        raise ModuleNotFoundError("No module named 'somebodys_module'")

    executor = launch(make)
    executor.submit(job(0))
    [halt] = wait_for(executor, Halt)
    assert "No module named 'somebodys_module'" in halt.text
    assert "must be importable in a new process" in halt.text


def test_a_worker_that_never_starts_halts_the_study(launch: Launch) -> None:
    executor = launch(functools.partial(os._exit, 7))
    executor.submit(job(0))
    [halt] = wait_for(executor, Halt)
    assert f"got {MAX_FAILED_STARTS} failed starts, in the last of which worker 0 exited with code 7" in halt.text


def test_a_task_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(TaskError, match=r"sent to worker processes, got cannot pickle .*; do not refer to open files"):
        ProcessExecutor(make_calls(lambda job: float(lock.locked())), 2, log_directory=tmp_path)


def test_it_needs_a_worker(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected workers >= 1, got 0"):
        ProcessExecutor(make_calls(lambda job: 0.0), 0, log_directory=tmp_path)


def test_stop_ends_what_cannot_stop_and_all_that_it_started(launch: Launch, tmp_path: Path) -> None:
    def hang(job: Job) -> float:
        child = subprocess.Popen(["sleep", "600"])
        (tmp_path / "child").write_text(str(child.pid))
        (tmp_path / "started").touch()
        time.sleep(600)
        return 0.0

    executor = launch(make_calls(hang))
    executor.submit(job(0))
    wait_until((tmp_path / "started").exists)
    pids = [*executor.processes, int((tmp_path / "child").read_text())]
    began = time.monotonic()
    assert executor.stop() == []
    assert time.monotonic() - began < 3
    wait_until(lambda: not any(map(lives, pids)))
    assert executor.processes == []
    assert not executor.has_room()
    assert executor.stop() == []


def test_stop_lets_a_task_save_that_can(launch: Launch, tmp_path: Path) -> None:
    def make() -> Any:
        class Saves:
            def run(self, inbox: Inbox, emit: Emit) -> None:
                job = inbox.get()
                (tmp_path / "started").touch()
                while not inbox.stopping:
                    time.sleep(0.01)
                (tmp_path / "saved").touch()
                assert job is not None

        return Saves()

    executor = launch(make, grace_seconds=20.0)
    executor.submit(job(0))
    wait_until((tmp_path / "started").exists)
    executor.stop()
    assert (tmp_path / "saved").exists()


def test_an_interrupt_while_a_worker_is_started_loses_no_process(launch: Launch) -> None:
    executor = launch(make_calls(lambda job: 0.0))
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until(lambda: bool(psutil.Process().children()))
        signal.pthread_kill(main, signal.SIGINT)

    def work() -> None:
        while True:
            executor.submit(job(0))
            executor.poll()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        work()
    thread.join()
    assert len(executor.processes) == 1
    executor.stop()
    assert not psutil.Process().children()


def test_workers_have_their_share_of_threads_and_devices(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    executor = launch(
        make_calls(lambda job: int(os.environ["CUDA_VISIBLE_DEVICES"]) * 100 + int(os.environ["OMP_NUM_THREADS"])),
        workers=3,
        threads=2,
        devices=["4", "6"],
    )
    for number in range(3):
        executor.submit(job(number))
    assert sorted(report.metrics["value"] for report in wait_for(executor, Report, 3)) == [402.0, 402.0, 602.0]


def test_modules_beside_the_script_are_importable(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_the_script.py").write_text("def value(job):\n    return 5.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside_the_script  # type: ignore[import-not-found]

    executor = launch(make_calls(beside_the_script.value))
    executor.submit(job(0))
    assert wait_for(executor, Report)[0].metrics == {"value": 5.0}


def test_a_large_task_arrives(launch: Launch) -> None:
    table = np.ones(3_000_000)  # 24 MB, far more than a pipe holds
    executor = launch(make_calls(lambda job: table.sum()))
    executor.submit(job(0))
    assert wait_for(executor, Report)[0].metrics == {"value": 3e6}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_do_not_outlive_whoever_started_them(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "script.py"  # no `if __name__ == "__main__"`: nothing is imported twice
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from pathlib import Path
            from controller.executors.processes import ProcessExecutor
            from controller.trial import Job

            here = Path(sys.argv[1])

            class Hangs:
                def run(self, inbox, emit):
                    job = inbox.get()
                    (here / f"pid-{job.job_id}").write_text(str(os.getpid()))
                    time.sleep(600)

            executor = ProcessExecutor(Hangs, 2, log_directory=here)
            try:
                for number in range(2):
                    executor.submit(Job(number, number, {}, 0, 0, 10, 30))
                while True:
                    executor.poll()
            finally:
                executor.stop()
            """
        )
    )
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            files = [tmp_path / "pid-0", tmp_path / "pid-1"]
            wait_until(lambda: all(path.exists() and path.read_text() for path in files))
            pids = [int(path.read_text()) for path in files]
            assert all(map(lives, pids))
            process.send_signal(number)
            assert process.wait(10) != 0
            wait_until(lambda: not any(map(lives, pids)))
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@pytest.mark.parametrize(
    ("given", "devices"),
    [("", ()), ("3, 5", ("3", "5")), ("GPU-1a", ("GPU-1a",)), ("-1", ()), ("2,-1,3", ("2",))],
)
def test_devices_are_those_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, given: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_devices() == devices


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)
