"""The executor with real worker processes under real supervisors, without a model."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from controller.executors.launched import LaunchedExecutor, describe_exit
from controller.executors.supervisor import free_port, supervise
from controller.executors.world import World, WorldError
from controller.trial import Failure, FailureKind, Halt, Job, Message, Report

COMMAND = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))

Launch = Callable[..., LaunchedExecutor]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start an executor and its supervisors, one thread a rank."""
    executors = []

    def start(size: int = 1, group_size: int = 1, hang_seconds: float = 60.0, **task: object) -> LaunchedExecutor:
        port = free_port() if size > 1 else None
        worlds = [World(rank, size, rank, size, "127.0.0.1", port) for rank in range(size)]
        executor = LaunchedExecutor(
            worlds[0],
            group_size=group_size,
            task={"directory": str(tmp_path), **task},
            log_directory=tmp_path / "logs",
            threads=1,
            hang_seconds=hang_seconds,
        )
        executors.append(executor)
        for world in worlds:
            arguments = (world, group_size, COMMAND, executor.port)
            threading.Thread(target=supervise, args=arguments, daemon=True).start()
        executor.wait_for_supervisors()
        return executor

    yield start
    for executor in executors:
        executor.stop()


def job(job_id: int, do: str = "report") -> Job:
    return Job(job_id, job_id, {"do": do}, 0, 0, 10, 30)


def wait_for(executor: LaunchedExecutor, kind: type[Message], count: int = 1, seconds: float = 30.0) -> list[Message]:
    """All messages up to the `count`-th of a kind."""
    seen: list[Message] = []
    deadline = time.monotonic() + seconds
    while sum(isinstance(message, kind) for message in seen) < count:
        assert time.monotonic() < deadline, f"no {kind.__name__} within {seconds} seconds, only {seen}"
        seen.extend(executor.poll())
    return seen


def reports(messages: Sequence[Message]) -> list[Report]:
    return [message for message in messages if isinstance(message, Report)]


def starts(directory: Path, at_least: int = 1) -> list[str]:
    """A line for each worker that was started, once there are so many."""
    deadline = time.monotonic() + 30
    while True:
        path = directory / "starts.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= at_least or time.monotonic() > deadline:
            return lines
        time.sleep(0.02)


def test_no_worker_starts_before_there_is_a_job(launch: Launch, tmp_path: Path) -> None:
    executor = launch()
    executor.poll()
    assert executor.has_room()
    assert not (tmp_path / "starts.txt").exists()


def test_one_worker_takes_job_after_job(launch: Launch, tmp_path: Path) -> None:
    executor = launch()
    for number in range(3):
        executor.submit(job(number))
        assert not executor.has_room()
        messages = wait_for(executor, Report)
        assert reports(messages)[0].job_id == number
    assert len(starts(tmp_path)) == 1


def test_two_workers_work_side_by_side(launch: Launch, tmp_path: Path) -> None:
    executor = launch(size=2)
    executor.submit(job(0))
    assert executor.has_room()
    executor.submit(job(1))
    assert not executor.has_room()
    messages = wait_for(executor, Report, 2)
    assert {report.job_id for report in reports(messages)} == {0, 1}
    assert len({report.metrics["pid"] for report in reports(messages)}) == 2


def test_killed_worker_is_replaced_and_the_other_untouched(launch: Launch, tmp_path: Path) -> None:
    executor = launch(size=2)
    executor.submit(job(0, "wait_for_stop"))
    executor.submit(job(1, "crash"))
    failure = next(message for message in wait_for(executor, Failure) if isinstance(message, Failure))
    assert failure.job_id == 1
    assert failure.kind is FailureKind.CRASH
    assert "SIGKILL" in failure.message
    executor.submit(job(2))
    assert reports(wait_for(executor, Report))[0].job_id == 2
    assert len(starts(tmp_path)) == 3  # two at first, one replaced


def test_hung_worker_is_killed(launch: Launch) -> None:
    executor = launch(hang_seconds=1.0)
    executor.submit(job(0))
    wait_for(executor, Report)  # the worker is warm, so that its start does not count as silence
    executor.submit(job(1, "hang"))
    failure = next(message for message in wait_for(executor, Failure) if isinstance(message, Failure))
    assert failure.kind is FailureKind.TIMEOUT
    executor.submit(job(2))
    assert reports(wait_for(executor, Report))[0].job_id == 2


def test_silence_while_loading_is_a_failed_start(launch: Launch, tmp_path: Path) -> None:
    executor = launch(hang_seconds=0.5, load_seconds=60)
    executor.submit(job(0))
    messages = wait_for(executor, Halt)
    assert not [message for message in messages if isinstance(message, Failure)]
    assert len(starts(tmp_path)) == 3


def test_a_stranger_on_the_control_port_is_turned_away(tmp_path: Path) -> None:
    executor = LaunchedExecutor(World(), group_size=1, task={}, log_directory=tmp_path, threads=1)
    for words in (b"GET / HTTP/1.0\r\n\r\n", b"[]\n", b'{"hello": {"rank": 7, "address": "x"}, "port": 1}\n'):
        with socket.create_connection(("127.0.0.1", executor.port)) as stranger:
            stranger.sendall(words)
    threading.Thread(target=supervise, args=(World(), 1, COMMAND, executor.port), daemon=True).start()
    executor.wait_for_supervisors()
    assert executor.has_room()
    executor.stop()


def test_out_of_memory_leaves_the_worker_warm(launch: Launch, tmp_path: Path) -> None:
    executor = launch()
    executor.submit(job(0, "oom"))
    failure = next(message for message in wait_for(executor, Failure) if isinstance(message, Failure))
    assert failure.kind is FailureKind.OOM
    executor.submit(job(1))
    wait_for(executor, Report)
    assert len(starts(tmp_path)) == 1


def test_worker_that_fails_to_start_once_is_started_again(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "fail-once").touch()
    executor = launch()
    executor.submit(job(0))
    messages = wait_for(executor, Report)
    assert not [message for message in messages if isinstance(message, Failure)]
    assert len(starts(tmp_path)) == 2


def test_workers_that_never_start_halt_the_study(launch: Launch) -> None:
    executor = launch(fail_start=True)
    executor.submit(job(0))
    halt = next(message for message in wait_for(executor, Halt) if isinstance(message, Halt))
    assert "no such model" in halt.text


def test_stop_lets_workers_save(launch: Launch, tmp_path: Path) -> None:
    executor = launch(size=2)
    executor.submit(job(0, "wait_for_stop"))
    executor.submit(job(1, "wait_for_stop"))
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("job-*"))) < 2 and time.monotonic() < deadline:
        executor.poll()
    executor.stop()
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-0", "saved-1"]


def test_group_is_a_world_of_its_own(launch: Launch, tmp_path: Path) -> None:
    executor = launch(size=4, group_size=2)
    executor.submit(job(0))
    executor.submit(job(1))
    messages = wait_for(executor, Report, 2)
    assert {report.metrics["rank"] for report in reports(messages)} == {0.0}
    assert sorted(line.split()[1] for line in starts(tmp_path, at_least=4)) == ["0/2", "0/2", "1/2", "1/2"]


def test_failure_on_any_rank_ends_the_job_of_its_group_alone(launch: Launch, tmp_path: Path) -> None:
    executor = launch(size=4, group_size=2)
    executor.submit(job(0))
    executor.submit(job(1))
    wait_for(executor, Report, 2)
    assert len(starts(tmp_path, at_least=4)) == 4
    executor.submit(job(2, "oom_on_rank_1"))
    failure = next(message for message in wait_for(executor, Failure) if isinstance(message, Failure))
    assert (failure.job_id, failure.kind) == (2, FailureKind.OOM)
    executor.submit(job(3))
    executor.submit(job(4))
    wait_for(executor, Report, 2)
    assert len(starts(tmp_path, at_least=6)) == 6  # the group with the failure was replaced, the other was not


def test_ranks_must_fill_groups(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="gpus_per_trial"):
        LaunchedExecutor(World(size=3), group_size=2, task={}, log_directory=tmp_path, threads=1)


def test_workers_die_with_their_supervisor(tmp_path: Path) -> None:
    """kill -9 of the process that hosts executor and supervisor leaves no worker behind."""
    code = f"""
import sys, threading
from pathlib import Path
from controller.executors.launched import LaunchedExecutor
from controller.executors.supervisor import supervise
from controller.executors.world import World
from controller.trial import Job
executor = LaunchedExecutor(World(), group_size=1, task={{"directory": {str(tmp_path)!r}}},
                            log_directory=Path({str(tmp_path)!r}), threads=1)
threading.Thread(target=supervise, args=(World(), 1, {COMMAND!r}, executor.port), daemon=True).start()
executor.wait_for_supervisors()
executor.submit(Job(0, 0, {{"do": "hang"}}, 0, 0, 10, 30))
while True:
    executor.poll()
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()})
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "job-0-0").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker = int(starts(tmp_path)[0].split()[0])
        os.kill(worker, 0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while _alive(worker):
        assert time.monotonic() < deadline, "the worker outlives its supervisor"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_describe_exit() -> None:
    assert describe_exit(3) == "exited with code 3"
    assert "SIGKILL" in describe_exit(-9)
    assert json.dumps(describe_exit(-64))
