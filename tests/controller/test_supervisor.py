"""The supervisor against a controller played by the test: what it tells of its child, and how it ends it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from controller.executors.channel import Channel
from controller.executors.supervisor import free_port, log_tail, supervise
from controller.executors.world import World

SECONDS = 20.0


class Controller:
    """The other end of a supervisor's control connection."""

    def __init__(self, directory: Path, script: str) -> None:
        path = directory / "child.py"
        path.write_text(script)
        self.directory = directory
        self._listener = socket.create_server(("127.0.0.1", 0))
        arguments = (World(), 1, (sys.executable, str(path)), self._listener.getsockname()[1])
        self.thread = threading.Thread(target=supervise, args=arguments, daemon=True)
        self.thread.start()
        self._listener.settimeout(SECONDS)
        connection, _ = self._listener.accept()
        connection.settimeout(SECONDS)
        self.channel = Channel(connection)
        self._heard: list[dict[str, Any]] = []
        assert "hello" in self.hear("hello")

    def spawn(self, generation: int) -> None:
        log = str(self.directory / "worker-0.log")
        spawn = {"generation": generation, "address": "h", "port": 1, "log": log, "threads": 3, "task": {"a": 1}}
        self.channel.send({"spawn": spawn})

    def hear(self, key: str) -> dict[str, Any]:
        """The next message that has a key; those before it are dropped."""
        while True:
            while self._heard:
                message = self._heard.pop(0)
                if key in message:
                    return message
            self._heard += self.channel.receive()
            assert self._heard or not self.channel.closed, f"no message with {key!r}"

    def close(self) -> None:
        self.channel.close()
        self._listener.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "a supervisor without a controller must end"


PREAMBLE = """
import json, os, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
task = json.loads(channel.makefile().readline())
def say(**message):
    channel.sendall(json.dumps(message).encode() + b"\\n")
"""


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Any]:
    made: list[Controller] = []

    def make(script: str) -> Controller:
        made.append(Controller(tmp_path, PREAMBLE + script))
        return made[-1]

    yield make
    for controller in made:
        controller.close()


def test_relays_with_the_generation_and_gives_the_child_its_settings(controllers: Any) -> None:
    controller = controllers(
        "say(task=task, threads=os.environ['OMP_NUM_THREADS'], wait=os.environ['OMP_WAIT_POLICY']); time.sleep(60)"
    )
    controller.spawn(4)
    heard = controller.hear("threads")
    assert heard == {"generation": 4, "task": {"task": {"a": 1}}, "threads": "3", "wait": "PASSIVE"}


def test_last_words_come_before_the_news_of_the_end(controllers: Any) -> None:
    controller = controllers("print('a trace'); sys.stdout.flush(); [say(n=n) for n in range(500)]; sys.exit(7)")
    controller.spawn(1)
    assert [controller.hear("n")["n"] for _ in range(500)] == list(range(500))
    exited = controller.hear("exited")
    assert exited["exited"] == {"code": 7, "tail": "a trace"}
    assert exited["port"] > 0


def test_killed_on_request_and_started_again(controllers: Any) -> None:
    controller = controllers("say(pid=os.getpid()); time.sleep(600)")
    controller.spawn(1)
    first = controller.hear("pid")["pid"]
    controller.channel.send({"kill": True})
    assert controller.hear("exited")["exited"]["code"] == -9
    controller.spawn(2)
    again = controller.hear("pid")
    assert (again["generation"], again["pid"] != first) == (2, True)


def test_a_grandchild_that_holds_the_channel_hides_no_death(controllers: Any) -> None:
    controller = controllers("say(pid=os.getpid())\nif os.fork() == 0: time.sleep(600)\nos._exit(3)")
    controller.spawn(1)
    assert controller.hear("exited")["exited"]["code"] == 3


def test_free_port_can_be_bound() -> None:
    with closing(socket.create_server(("", free_port()))) as server:
        assert server.getsockname()[1] > 0


def test_log_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert log_tail(path) == ""
    path.write_text("x" * 10_000 + "\nthe end\n")
    assert log_tail(path).endswith("x\nthe end")
    assert len(log_tail(path)) < 2000
