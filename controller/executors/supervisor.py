"""A launched process that keeps one worker child alive and passes messages between it and the controller.

The launched ranks never touch a device: if a worker crashes, hangs or is killed, only its child process is
replaced, and the launcher (which ends all ranks when one dies) sees nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from controller.executors.channel import Channel
from controller.executors.world import World, WorldError, without_launcher

CONNECT_SECONDS = 3600.0  # rank 0 may be downloading a model; if it dies, the launcher ends the others
POLL_SECONDS = 0.2
EXIT_GRACE_SECONDS = 5.0
LOG_TAIL_BYTES = 1500


def supervise(world: World, group_size: int, command: Sequence[str], port: int | None = None) -> None:
    """Serve the controller until it says that the study is over, or is gone.

    Args:
        world: the place of this process among the launched ones.
        group_size: how many ranks train one trial together.
        command: starts a worker; the number of its socket is appended.
        port: where the controller listens; None: where the world says.

    Raises:
        WorldError: nobody listens there.
    """
    control = _connect(world.address, world.control_port if port is None else port)
    supervisor = _Supervisor(world, group_size, command, control)
    try:
        supervisor.serve()
    finally:
        supervisor.kill()
        control.close()


class _Supervisor:
    def __init__(self, world: World, group_size: int, command: Sequence[str], control: Channel) -> None:
        self._world = world
        self._group_size = group_size
        self._command = list(command)
        self._control = control
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._generation = 0
        self._log = Path(os.devnull)
        self._over = False

    def serve(self) -> None:
        hello = {"rank": self._world.rank, "group_size": self._group_size, "address": self._control.local_address}
        self._control.send({"hello": hello, "port": free_port()})
        while not self._over and not self._control.closed:
            with selectors.DefaultSelector() as selector:
                selector.register(self._control, selectors.EVENT_READ, self._control)
                if self._channel is not None:
                    selector.register(self._channel, selectors.EVENT_READ, self._channel)
                ready = [key.data for key, _ in selector.select(POLL_SECONDS)]
            if self._channel is not None and self._channel in ready:
                self._relay()
            elif self._child is not None and self._child.poll() is not None:
                self.kill()  # it is gone, though something that it started may hold its end of the channel
            if self._control in ready:
                for message in self._control.receive():
                    self._obey(message)

    def kill(self) -> int | None:
        """Kill the child's whole process group. Its exit code, if there was a child."""
        if self._child is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._reap()

    def _relay(self) -> None:
        assert self._channel is not None
        assert self._child is not None
        for message in self._channel.receive():
            self._control.send({"generation": self._generation, **message})
        if self._channel.closed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(EXIT_GRACE_SECONDS)
            self.kill()

    def _obey(self, message: dict[str, Any]) -> None:
        if "spawn" in message:
            self.kill()
            self._spawn(**message["spawn"])
        elif "kill" in message:
            self.kill()
        elif "exit" in message:
            self._over = True
        elif self._channel is not None:
            self._channel.send(message)

    def _spawn(self, generation: int, address: str, port: int, log: str, threads: int, task: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        env = without_launcher(os.environ) | self._world.worker_environment(self._group_size, address, port)
        env["OMP_NUM_THREADS"] = str(threads)
        # Threads that spin while they wait for each other stand still when anything else wants the cores: measured
        # 30 times slower beside two busy processes, against 9 % lost on a quiet machine.
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self._log = Path(log)
        with theirs, open_log(self._log) as output:
            self._child = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the controller, which then asks the workers to save
            )
        self._generation = generation
        self._channel = Channel(ours)
        self._channel.send({"task": task})

    def _reap(self) -> int:
        """Collect a child that has exited or was killed, and tell the controller."""
        assert self._channel is not None
        assert self._child is not None
        code = self._child.wait()
        for message in self._channel.drain(EXIT_GRACE_SECONDS):
            self._control.send({"generation": self._generation, **message})
        self._channel.close()
        exited = {"code": code, "tail": log_tail(self._log)}
        self._control.send({"generation": self._generation, "exited": exited, "port": free_port()})
        self._child = None
        self._channel = None
        return code


def free_port() -> int:
    """A port of this machine that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def log_tail(path: Path) -> str:
    """The last lines of a worker's log; empty if it has none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        return stream.read().decode(errors="replace").strip()


def open_log(path: Path) -> BinaryIO:
    """The log, opened to append; the null device if the disk refuses, since a log must not stop a study."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError:
        return open(os.devnull, "ab")


def _connect(address: str, port: int) -> Channel:
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=10)
        except OSError as error:
            if time.monotonic() > deadline:
                raise WorldError(
                    f"expected the study's controller at {address}:{port}, got {error}; check that rank 0 is "
                    "running and that the port after the launcher's --main_process_port is reachable"
                ) from error
            time.sleep(POLL_SECONDS)
        else:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Channel(connection)
