from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from controller.controller import Controller
from controller.events import Enqueued
from controller.history import History
from controller.requests import (
    Enqueue,
    Filed,
    Refused,
    Request,
    RequestError,
    Requests,
    Stop,
    file_request,
    pending_requests,
    refused_requests,
)
from controller.store import Store, writer_of
from controller.strategy import Decision, Done, Start, Wait
from controller.trial import Job, Message, Objective, Report
from search_spaces.space import Params, Space

RANK = {"lora.rank": 8}


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """The directory of a study that this process runs."""
    with Store.open(tmp_path / "study") as store:
        yield store.path.parent


def at_rank(params: Params) -> None:
    Space.from_dict({"lora.rank": {"kind": "choice", "values": [8, 16]}}).validate(params)


def requests_of(directory: Path, **options: Any) -> Requests:
    return Requests(directory, check=at_rank, **{"poll_seconds": 0.0, **options})


def put(directory: Path, content: str | bytes, name: str = "00000000000000000001-me") -> Path:
    path = directory / "requests" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def me(directory: Path) -> str:
    return writer_of(directory) or ""


class Bench:
    """A study of full trainings with a controller that heeds requests. What is not enqueued has rank 16."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notices: list[str] = []
        self.controller: Controller
        self._actions: dict[int, Callable[[], object]] = {}
        self._decisions = 0
        self._trials = 0

    @property
    def writer(self) -> str:
        return me(self.directory)

    def ask(self, *requests: Request) -> None:
        self.directory.mkdir(exist_ok=True)
        for request in requests:
            file_request(self.directory, request)

    def at_decision(self, number: int, action: Callable[[], object]) -> None:
        """Do something just before the given decision of the next run, the first being 1."""
        self._actions[number] = action

    def next(self, history: History) -> Decision:
        """See Strategy."""
        self._decisions += 1
        self._actions.pop(self._decisions, lambda: None)()
        if len(history.trials) == self._trials:
            return Wait() if history.running else Done("enough trials")
        queued = history.next_queued()
        if queued is not None:
            return Start(queued, 9, labels={"origin": "enqueued"}, enqueued=True)
        return Start({"lora.rank": 16}, 9)

    def retain(self, history: History) -> set[int]:
        """See Strategy."""
        return set()

    def run(self, trials: int, workers: int = 1) -> Done | None:
        """Run the study on workers that answer one after the other, all at the same rate."""
        self._decisions, self._trials = 0, trials
        with Store.open(self.directory) as store:
            history = self._replay(store)
            requests = Requests(self.directory, check=at_rank, poll_seconds=0.0)
            self.controller = Controller(
                self, OneByOne(workers), store, history, requests=requests, on_notice=self.notices.append
            )
            return self.controller.run()

    def replay(self) -> History:
        with Store.read_only(self.directory) as store:
            return self._replay(store)

    def _replay(self, store: Store) -> History:
        events = [event for _, _, event in store.events()]
        return History.replay(events, seed=0, objectives=[Objective("loss")], horizon=9)


class OneByOne:
    """An executor whose jobs end in the order in which they were submitted, one at every poll."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._jobs: list[Job] = []

    def has_room(self) -> bool:
        return len(self._jobs) < self._workers

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def poll(self) -> Sequence[Message]:
        job = self._jobs.pop(0)
        return [Report(job.job_id, job.to_budget, {"loss": 1.0}, seconds=1.0)]

    def stop(self) -> Sequence[Message]:
        return ()


def test_requests_come_in_the_order_in_which_they_were_made(directory: Path) -> None:
    made: list[Request] = [Enqueue(RANK), Stop(me(directory)), Enqueue({"lora.rank": 16}), Stop(me(directory), True)]
    names = [file_request(directory, request) for request in made]
    expected = [Filed(name, request) for name, request in zip(names, made, strict=True)]
    assert pending_requests(directory) == expected
    requests = requests_of(directory)
    assert requests.poll() == expected
    assert requests.poll() == expected, "nothing is forgotten before it was served"
    for name in names[:2]:
        requests.remove(name)
    assert requests.poll() == expected[2:]
    assert len(list((directory / "requests").iterdir())) == 2


def test_nobody_has_asked_for_anything(directory: Path) -> None:
    assert requests_of(directory).poll() == []
    assert pending_requests(directory) == []
    assert refused_requests(directory) == []


def test_the_disk_is_looked_at_every_now_and_then(directory: Path) -> None:
    now = 100.0
    requests = requests_of(directory, poll_seconds=0.5, clock=lambda: now)
    assert requests.poll() == []
    file_request(directory, Enqueue(RANK))
    now = 100.4
    assert requests.poll() == []
    now = 100.5
    assert len(requests.poll()) == 1


def test_a_stop_that_was_meant_for_an_earlier_run_is_forgotten(directory: Path) -> None:
    file_request(directory, Stop("process 1 on another-host"))
    assert requests_of(directory).poll() == []
    assert pending_requests(directory) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "expected a request in JSON, got: "),
        (b"\xff\xfe", "expected a request in JSON, got: "),
        ("[" * 100_000, "expected a request in JSON, got: "),
        ("[1]", r"expected a request to enqueue or to stop, got \[1\]; ask again"),
        ('{"kind": "enqueue"}', 'got {"kind": "enqueue"}'),
        ('{"kind": "enqueue", "params": {"lora.rank": [8]}}', "expected a request to enqueue"),
        ('{"kind": "enqueue", "params": {"lora.rank": NaN}}', "expected a request to enqueue"),
        ('{"kind": "enqueue", "params": {"lora.rank": 8}, "trial": 3}', "expected a request to enqueue"),
        ('{"kind": "enqueue", "params": {"lora.rank": 9}}', r"lora\.rank: expected .*, got 9"),
        ('{"kind": "stop"}', "expected a request to enqueue or to stop"),
        (json.dumps({"kind": "dance", "why": "x" * 1000}), r"x{100,}\.\.\.; ask again"),
    ],
)
def test_what_makes_no_sense_is_set_aside_with_the_reason(directory: Path, content: str | bytes, reason: str) -> None:
    path = put(directory, content)
    requests = requests_of(directory)
    (refused,) = requests.poll()
    assert isinstance(refused, Refused)
    assert re.search(reason, refused.reason)
    assert requests.poll() == []
    assert not path.exists()
    assert (directory / "requests" / "refused" / path.name).exists()
    assert [entry.name for entry in refused_requests(directory)] == [path.stem]
    assert refused_requests(directory)[0].reason == refused.reason


def test_a_refused_request_is_told_once_though_the_disk_keeps_it(directory: Path) -> None:
    put(directory, "{")
    (directory / "requests" / "refused").write_text("a file where a directory is wanted")
    requests = requests_of(directory)
    assert len(requests.poll()) == 1
    assert requests.poll() == []


def test_a_directory_among_the_requests(directory: Path) -> None:
    (directory / "requests" / "a.json").mkdir(parents=True)
    requests = requests_of(directory)
    (refused,) = requests.poll()
    assert isinstance(refused, Refused)
    assert "Is a directory" in refused.reason
    assert requests.poll() == []


def test_a_request_that_is_being_written_is_left_alone(directory: Path) -> None:
    put(directory, "{").rename(directory / "requests" / ".1.unfinished")
    put(directory, "").rename(directory / "requests" / "notes.txt")
    assert requests_of(directory).poll() == []


def test_a_directory_that_cannot_be_written(directory: Path) -> None:
    (directory / "requests").write_text("a file where a directory is wanted")
    with pytest.raises(RequestError, match=r"expected to write a request to .*/requests, got: File exists; free"):
        file_request(directory, Enqueue(RANK))


class TestController:
    """What a controller does with requests, between the jobs of a study of digits."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Bench:
        return Bench(tmp_path / "study")

    def test_enqueues_what_is_asked_for_while_it_runs(self, bench: Bench) -> None:
        bench.at_decision(2, lambda: bench.ask(Enqueue({"lora.rank": 8}), Enqueue({"lora.rank": 9})))
        assert bench.run(trials=4) == Done("enough trials")
        history = bench.replay()
        assert [trial.params["lora.rank"] for trial in history.trials] == [16, 16, 8, 16]
        assert history.trials[2].labels["origin"] == "enqueued"
        (notice,) = bench.notices
        assert re.fullmatch(r"request \d+-\w+ was refused: lora\.rank: expected .*, got 9 .*", notice)
        assert pending_requests(bench.directory) == []
        assert len(refused_requests(bench.directory)) == 1

    def test_a_kill_between_journal_and_file_enqueues_nothing_twice(self, bench: Bench) -> None:
        bench.ask(Enqueue({"lora.rank": 8}))
        (filed,) = pending_requests(bench.directory)
        with Store.open(bench.directory) as store:
            store.append([Enqueued({"lora.rank": 8}, filed.name)])
        assert bench.run(trials=3) == Done("enough trials")
        history = bench.replay()
        assert history.queue == [{"lora.rank": 8}]
        assert [trial.params["lora.rank"] for trial in history.trials] == [8, 16, 16]
        assert pending_requests(bench.directory) == []

    def test_stops_after_the_jobs_at_work(self, bench: Bench) -> None:
        bench.at_decision(3, lambda: bench.ask(Stop(bench.writer)))
        assert bench.run(trials=9, workers=3) is None
        history = bench.replay()
        assert len(history.trials) == 3
        assert not history.running
        assert all(trial.reports for trial in history.trials)
        assert bench.notices == ["asked to stop: 2 running jobs will reach the next rung first"]
        assert bench.run(trials=9, workers=2) == Done("enough trials"), "the next run goes on"
        assert len(bench.replay().trials) == 9

    def test_a_stop_during_the_last_job_ends_the_study(self, bench: Bench) -> None:
        bench.at_decision(2, lambda: bench.ask(Stop(bench.writer)))
        assert bench.run(trials=2, workers=2) == Done("enough trials")
        assert bench.notices

    def test_a_stop_before_the_first_job_starts_none(self, bench: Bench) -> None:
        with Store.open(bench.directory):
            bench.ask(Stop(bench.writer))
        assert bench.run(trials=2) is None
        assert bench.replay().trials == []

    def test_stops_now(self, bench: Bench) -> None:
        bench.at_decision(3, lambda: bench.ask(Stop(bench.writer, now=True)))
        assert bench.run(trials=9, workers=3) is None
        history = bench.replay()
        assert len(history.running) == 1, "one ended while the request was read"
        assert bench.notices == ["asked to stop now: saving what is running"]
        assert bench.run(trials=9) == Done("enough trials")

    def test_drains_when_asked_by_a_signal(self, bench: Bench) -> None:
        bench.at_decision(3, lambda: bench.controller.request_drain())
        assert bench.run(trials=9) is None
        assert not bench.replay().running
        assert len(bench.replay().trials) == 3
