"""Jobs on worker processes that supervisors keep alive: one machine or several, one device a trial or a group."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.executors.channel import Channel
from controller.executors.wire import job_to_json, message_from_json
from controller.executors.world import World, WorldError
from controller.trial import Declined, Failure, FailureKind, Halt, Job, Message, Report

POLL_SECONDS = 0.2
HELLO_SECONDS = 300.0
STOP_SECONDS = 25.0
MAX_FAILED_STARTS = 3


@dataclass(slots=True)
class WorkerGroup:
    """The ranks that train one trial together, as the executor sees them.

    Attributes:
        ranks: their numbers; the first leads, and its messages are the group's.
        generation: counts how often the workers were started; messages of an older one are ignored.
        living: the ranks whose worker of this generation has not exited.
        ready: the leader has built its task.
        jobs: what was given to the group and not answered yet, by job id.
        last_word: when the group was last heard of (monotonic seconds).
        failed_starts: how often in a row the workers died before they were ready.
    """

    ranks: range
    generation: int = 0
    living: set[int] = field(default_factory=set)
    ready: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)
    given_at: float = 0.0
    last_word: float = 0.0
    failed_starts: int = 0
    lost: bool = False


class LaunchedExecutor:
    """Gives jobs to the workers of the launched ranks and replaces workers that crash or hang.

    Workers are started with their first job, so a study that has nothing left to do starts none. A worker
    that dies takes only its own job down; one that says nothing for `hang_seconds` is killed. A worker that
    dies `MAX_FAILED_STARTS` times before it is ready halts the study: no configuration is to blame.

    Args:
        world: the place of this process (rank 0) among the launched ones.
        group_size: how many ranks train one trial together.
        task: what a worker builds its Task from, as plain data.
        log_directory: where the workers' output goes, one file a rank.
        threads: CPU threads of a worker.
        hang_seconds: silence after which a busy worker counts as hung.

    Raises:
        WorldError: the ranks cannot be divided into such groups, or the control port is taken.
    """

    def __init__(
        self,
        world: World,
        *,
        group_size: int,
        task: dict[str, Any],
        log_directory: Path,
        threads: int,
        hang_seconds: float = 1800.0,
    ) -> None:
        world.require_groups(group_size)
        self._task = task
        self._log_directory = log_directory
        self._threads = threads
        self._hang_seconds = hang_seconds
        self._world = world
        self._group_size = group_size
        self.groups = [WorkerGroup(range(first, first + group_size)) for first in range(0, world.size, group_size)]
        self._listener = _listen(world)
        self.port: int = self._listener.getsockname()[1]
        self._channels: dict[int, Channel] = {}
        self._addresses: dict[int, str] = {}
        self._ports: dict[int, int] = {}
        self._queue: deque[Job] = deque()
        self._messages: list[Message] = []
        self._stopping = False

    def wait_for_supervisors(self) -> None:
        """Wait until every launched rank has called in.

        Raises WorldError naming the ranks that have not within five minutes.
        """
        deadline = time.monotonic() + HELLO_SECONDS
        self._listener.settimeout(POLL_SECONDS)
        while len(self._channels) < self._world.size:
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                connection.settimeout(POLL_SECONDS * 10)
                self._greet(connection)
            if time.monotonic() > deadline:
                missing = sorted(set(range(self._world.size)) - set(self._channels))
                raise WorldError(
                    f"expected {self._world.size} launched processes to call in, got none from ranks {missing}; "
                    "check that every machine was launched with the same --main_process_ip and port"
                )

    def has_room(self) -> bool:
        """See Executor."""
        free = sum(1 for group in self.groups if not group.jobs and not group.lost)
        return not self._stopping and len(self._queue) < free

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._queue.append(job)
        self._hand_out()

    def poll(self) -> Sequence[Message]:
        """See Executor."""
        self._listen_to_supervisors(POLL_SECONDS)
        self._kill_hung()
        self._hand_out()
        if all(group.lost for group in self.groups) and not self._stopping:
            self._messages.append(Halt("expected at least one live supervisor, got none; run the same command again"))
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> Sequence[Message]:
        """See Executor. Workers that have not left after 25 seconds are killed."""
        self._stopping = True
        self._queue.clear()
        deadline = time.monotonic() + STOP_SECONDS
        try:
            self._broadcast({"stop": True})
            while any(group.living for group in self.groups) and time.monotonic() < deadline:
                self._listen_to_supervisors(POLL_SECONDS)
        finally:
            self._broadcast({"kill": True})
            self._broadcast({"exit": True})
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()
            self._listener.close()
        messages, self._messages = self._messages, []
        return messages

    def _greet(self, connection: socket.socket) -> None:
        channel = Channel(connection)
        try:
            first = channel.receive()[0]
            hello, port = first["hello"], int(first["port"])
            rank, address = int(hello["rank"]), str(hello["address"])
        except (ValueError, LookupError, TypeError):
            channel.close()  # a stranger, not a supervisor
            return
        if rank in self._channels or not 0 <= rank < self._world.size:
            channel.close()
            return
        connection.settimeout(None)
        if hello.get("group_size") != self._group_size:
            channel.close()
            raise WorldError(
                f"expected the same `resources.gpus_per_trial` ({self._group_size}) on every rank, "
                f"got {hello.get('group_size')} on rank {rank}; launch all with the same config"
            )
        self._channels[rank] = channel
        self._addresses[rank] = address
        self._ports[rank] = port

    def _broadcast(self, message: dict[str, Any], ranks: Sequence[int] | range | None = None) -> None:
        for rank in list(self._channels) if ranks is None else ranks:
            if rank in self._channels:
                self._channels[rank].send(message)

    def _hand_out(self) -> None:
        """Give queued jobs to groups that host nothing, warm ones first."""
        free = [group for group in self.groups if not group.jobs and not group.lost]
        for group in sorted(free, key=lambda group: (not group.ready, group.ranks.start)):
            if not self._queue or self._stopping:
                return
            job = self._queue.popleft()
            group.jobs[job.job_id] = job
            group.given_at = time.monotonic()
            if not group.living:
                self._spawn(group)
            self._broadcast({"job": job_to_json(job)}, group.ranks)
            group.last_word = time.monotonic()

    def _spawn(self, group: WorkerGroup) -> None:
        group.generation += 1
        group.living = set(group.ranks)
        group.ready = False
        group.last_word = time.monotonic()
        leader = group.ranks.start
        for rank in group.ranks:
            spawn = {
                "generation": group.generation,
                "address": self._addresses[leader],
                "port": self._ports[leader],
                "log": str(self._log_directory / f"worker-{rank}.log"),
                "threads": self._threads,
                "task": self._task,
            }
            self._broadcast({"spawn": spawn}, [rank])

    def _listen_to_supervisors(self, timeout: float) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, channel in self._channels.items():
                selector.register(channel, selectors.EVENT_READ, rank)
            if not self._channels:
                time.sleep(timeout)
            ready = [key.data for key, _ in selector.select(timeout)] if self._channels else []
        for rank in ready:
            group = self.groups[rank // self._group_size]
            for message in self._channels[rank].receive():
                self._hear(rank, group, message)
            if self._channels[rank].closed:
                self._lose(rank, group)

    def _hear(self, rank: int, group: WorkerGroup, message: dict[str, Any]) -> None:
        if "port" in message:
            self._ports[rank] = int(message["port"])
        if message.get("generation") != group.generation:
            return
        group.last_word = time.monotonic()
        if "exited" in message:
            group.living.discard(rank)
            self._worker_left(rank, group, message["exited"])
        elif "ready" in message:
            if rank == group.ranks.start:
                group.ready = True
                group.failed_starts = 0
        elif "message" in message:
            self._take(rank, group, message_from_json(message["message"]))

    def _take(self, rank: int, group: WorkerGroup, message: Message) -> None:
        leads = rank == group.ranks.start
        if isinstance(message, Failure) and message.job_id in group.jobs:
            # The others of a group may be stuck in a collective that the failed one has left.
            if self._group_size > 1 and message.kind is not FailureKind.DIVERGED:
                self._retire(group)
            elif not leads:
                return
            del group.jobs[message.job_id]
            self._messages.append(message)
        elif leads or isinstance(message, Halt):
            if isinstance(message, Report | Declined):
                group.jobs.pop(message.job_id, None)
            self._messages.append(message)

    def _worker_left(self, rank: int, group: WorkerGroup, exited: dict[str, Any]) -> None:
        if self._stopping:
            return
        reason = f"worker {rank} {describe_exit(exited['code'])}; the end of its log:\n{exited['tail']}"
        if group.jobs and not group.ready:
            self._start_failed(group, reason)
        else:
            self._retire(group)
            self._fail_jobs(group, FailureKind.CRASH, reason)

    def _start_failed(self, group: WorkerGroup, reason: str) -> None:
        """Workers that went before they had loaded anything are no result about a configuration: start others."""
        self._retire(group)
        group.failed_starts += 1
        if group.failed_starts < MAX_FAILED_STARTS:
            self._queue.extendleft(group.jobs.values())
            group.jobs.clear()
            return
        text = f"expected worker {group.ranks.start} to load the model, got {group.failed_starts} failed starts"
        self._messages.append(Halt(f"{text}, in the last of which {reason}"))

    def _retire(self, group: WorkerGroup) -> None:
        """Kill what is left of a group's workers; the next job starts new ones."""
        self._broadcast({"kill": True}, group.ranks)
        group.generation += 1
        group.living.clear()
        group.ready = False

    def _fail_jobs(self, group: WorkerGroup, kind: FailureKind, reason: str) -> None:
        seconds = time.monotonic() - group.given_at
        for job_id in group.jobs:
            self._messages.append(Failure(job_id, kind, reason, seconds=seconds))
        group.jobs.clear()

    def _kill_hung(self) -> None:
        now = time.monotonic()
        for group in self.groups:
            if not group.jobs or now - group.last_word <= self._hang_seconds:
                continue
            reason = f"worker {group.ranks.start} said nothing for {self._hang_seconds:.0f} seconds and was killed"
            if not group.ready:
                self._start_failed(group, f"{reason} (resources.hang_minutes must be longer than loading takes)")
            else:
                self._retire(group)
                self._fail_jobs(group, FailureKind.TIMEOUT, reason)

    def _lose(self, rank: int, group: WorkerGroup) -> None:
        self._channels.pop(rank).close()
        group.living.discard(rank)
        group.lost = True
        self._retire(group)
        self._fail_jobs(group, FailureKind.CRASH, f"the supervisor of rank {rank} is gone")


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        hint = " (often the system's own out-of-memory killer)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"was killed by signal {-code}"


def _listen(world: World) -> socket.socket:
    host = "127.0.0.1" if world.port is None or world.address in ("127.0.0.1", "localhost") else ""
    try:
        listener = socket.create_server((host, world.control_port), backlog=max(16, world.size))
    except OSError as error:
        raise WorldError(
            f"expected port {world.control_port} (the one after the launcher's) to be free, got {error.strerror}; "
            "launch with another --main_process_port"
        ) from error
    return listener
