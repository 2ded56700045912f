"""Whole studies on a tiny model, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from controller.executors.launched import LaunchedExecutor
from controller.executors.world import World
from controller.store import Store, StoreError
from llm_tuning.base_model import BaseModelError
from llm_tuning.rows import DataError
from llm_tuning.tokenized_split import TokenizedSplit
from tests.thresher.tiny_study import (
    FinishedStudy,
    InterruptedStudy,
    Ran,
    StudyPlace,
    finish,
    run_here,
    start_command,
    write_jsonl,
)
from thresher import study
from thresher.config import ConfigError, parse_config

pytestmark = pytest.mark.timeout(300)  # the first test of a file may pay for a whole study


class TestFinished:
    """`python -m thresher run CONFIG`, uninterrupted."""

    def test_ends_well(self, finished: FinishedStudy) -> None:
        assert finished.ran.code == 0, finished.ran
        assert finished.ran.errors == ""
        assert "adapter: " in finished.ran.output

    def test_the_journal_tells_all(self, finished: FinishedStudy) -> None:
        kinds = Counter(kind for kind, _ in finished.place.journal())
        trials = finished.place.journal("TrialCreated")
        assert kinds["Enqueued"] == 1
        assert len([1 for _, trial in trials if trial.get("repeat_of") is None]) == 5
        assert kinds["JobCreated"] == kinds["AttemptStarted"] == kinds["Reported"]
        tests = [job for _, job in finished.place.journal("JobCreated") if job.get("split") == "test"]
        assert len({(job["trial_id"], job["to_budget"]) for job in tests}) == len(tests)
        assert any(job["to_budget"] == 0 for job in tests), "the base model is tested too"

    def test_trial_0_is_the_default(self, finished: FinishedStudy) -> None:
        _, first = finished.place.journal("TrialCreated")[0]
        assert first["params"] == {"optimizer.learning_rate": 3e-3, "lora.rank": 4}

    def test_weak_trials_are_pruned(self, finished: FinishedStudy) -> None:
        report = json.loads((finished.place.directory / "report.json").read_text())
        assert sum(trial["repeat_of"] is None for trial in report["trials"]) == 5
        jobs = [job for _, job in finished.place.journal("JobCreated") if job.get("split") != "test"]
        reached = {job["trial_id"]: job["to_budget"] for job in jobs}
        assert 8 in reached.values()
        assert 16 in reached.values()

    def test_the_report_is_written(self, finished: FinishedStudy) -> None:
        assert "# Study report" in (finished.place.directory / "report.md").read_text()
        assert json.loads((finished.place.directory / "report.json").read_text())["full_budget"] == 16

    def test_the_adapter_loads_and_has_the_loss_that_was_reported(self, finished: FinishedStudy) -> None:
        """Computed here from the model's own forward pass, not by the code under test."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        export = finished.place.directory / "export"
        details = json.loads((export / "thresher.json").read_text())
        base = AutoModelForCausalLM.from_pretrained(finished.place.content["model"]["name"], dtype=torch.float32)
        model = PeftModel.from_pretrained(base, export).eval()
        split = TokenizedSplit.load(finished.place.directory / "data" / "validation.safetensors")
        nats, count = 0.0, 0
        for index in range(len(split)):
            tokens = torch.from_numpy(split.tokens(index).astype(np.int64))
            start = len(split.prompt(index))
            with torch.no_grad():
                log_probabilities = model(tokens[None]).logits[0].log_softmax(-1)
            nats -= log_probabilities[range(start - 1, len(tokens) - 1), tokens[start:]].sum().item()
            count += len(tokens) - start
        assert nats / count == pytest.approx(details["validation_loss"], rel=1e-5)
        reports = [report for _, report in finished.place.journal("Reported")]
        assert details["validation_loss"] in [report["metrics"].get("validation_loss") for report in reports]

    def test_the_same_command_again_changes_nothing(self, finished: FinishedStudy) -> None:
        directory = finished.place.directory
        before = (finished.place.journal(), contents(directory))
        again = finished.place.run()
        assert again.code == 0, again
        assert again.output.endswith("the study was finished before: nothing was left to do\n")
        assert (finished.place.journal(), contents(directory)) == before

    def test_what_comes_after_the_last_job_is_made_up_for(
        self, finished: FinishedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed between the last job and the report, say. The directory was moved besides, to an odd name."""
        odd = tmp_path / "[bold]"
        odd.mkdir()
        place = finished.copy_to(odd)
        for name in ("report.json", "report.md"):
            (place.directory / name).unlink()
        shutil.rmtree(place.directory / "export")
        before = place.journal()
        ran = run_here("run", place.config)
        assert ran.code == 0, ran
        assert f"report: {place.directory}/report.md\nadapter: {place.directory}/export\n" in ran.output
        assert place.journal() == before
        for name in ("report.json", "report.md", "export/adapter_model.safetensors", "export/thresher.json"):
            assert (place.directory / name).read_bytes() == (finished.place.directory / name).read_bytes()


def contents(directory: Path) -> dict[str, bytes]:
    """All files but the lock, which names its last holder, and what SQLite keeps beside its file while it is open."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


class TestInterrupted:
    """Ctrl-C during `python scripts/tune.py CONFIG`."""

    def test_exits_with_the_code_for_it(self, interrupted: InterruptedStudy) -> None:
        assert interrupted.ran.code == 130, interrupted.ran
        assert "stopping: saving what is running (once more to stop at once)" in interrupted.ran.output
        assert interrupted.ran.output.endswith("stopped; what was running is saved, the same command goes on\n")
        assert interrupted.ran.errors == ""

    def test_leaves_no_process_behind(self, interrupted: InterruptedStudy) -> None:
        assert interrupted.left == frozenset()

    def test_what_was_running_is_open_in_the_journal_and_saved(self, interrupted: InterruptedStudy) -> None:
        trial_id, _ = open_job(interrupted)
        assert interrupted.journal[-1][0] == "AttemptStarted", "nothing was reported about it"
        assert any(name.startswith(f"trial-{trial_id:04d}/partial-") for name in interrupted.checkpoints)
        assert "trial-0000/rung-000000400" in interrupted.checkpoints


def open_job(interrupted: InterruptedStudy) -> tuple[int, int]:
    """(trial, job) of the one job that was running."""
    done = {report["job_id"] for kind, report in interrupted.journal if kind == "Reported"}
    created = [job for kind, job in interrupted.journal if kind == "JobCreated"]
    (job,) = [job for job in created if job["job_id"] not in done]
    return job["trial_id"], job["job_id"]


class TestResumed:
    """The interrupted study, gone on with under `accelerate launch scripts/tune.py CONFIG`."""

    def test_ends_well(self, resumed: FinishedStudy) -> None:
        assert resumed.ran.code == 0, resumed.ran
        assert "trials started before: 2, jobs interrupted: 1" in resumed.ran.output

    def test_goes_on_from_the_journal_as_it_was(self, interrupted: InterruptedStudy, resumed: FinishedStudy) -> None:
        assert resumed.place.journal()[: len(interrupted.journal)] == interrupted.journal
        _, job_id = open_job(interrupted)
        attempts = [attempt for _, attempt in resumed.place.journal("AttemptStarted")]
        assert [attempt["job_id"] for attempt in attempts if attempt["attempt"] == 2] == [job_id]

    def test_what_was_saved_is_not_lost(self, resumed: FinishedStudy) -> None:
        notes = [note["text"] for _, note in resumed.place.journal("Noted")]
        assert not any("trial 1" in note for note in notes), "only trial 0 was damaged"

    def test_nothing_was_measured_twice(self, resumed: FinishedStudy) -> None:
        reports = [report["job_id"] for _, report in resumed.place.journal("Reported")]
        assert len(reports) == len(set(reports)) == len(resumed.place.journal("JobCreated"))


@pytest.fixture
def port() -> int:
    """A port for the launcher, with the one after it, which is the controller's."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            number = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", number + 1))
            except OSError:
                continue
            return number


def launch(place: StudyPlace, processes: int, port: int) -> Ran:
    """Run a study by several processes on the CPU."""
    launcher = Path(sys.executable).with_name("accelerate")
    options = ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", str(port)]
    return finish(start_command(launcher, "launch", *options, "-m", "thresher", "run", place.config))


class TestSeveralProcesses:
    def test_two_workers(self, make_study: Callable[..., StudyPlace], port: int) -> None:
        place = make_study()
        ran = launch(place, 2, port)
        assert ran.code == 0, ran
        logs = [(place.directory / "logs" / f"worker-{rank}.log").read_text() for rank in range(2)]
        assert not any("Traceback" in log for log in logs)
        kinds = Counter(kind for kind, _ in place.journal())
        assert kinds["JobCreated"] == kinds["Reported"]
        assert "adapter: " in ran.output

    def test_wrong_input_ends_all_of_them_at_once(self, make_study: Callable[..., StudyPlace], port: int) -> None:
        place = make_study(data={"train": "nowhere/train.jsonl"})
        began = time.monotonic()
        ran = launch(place, 2, port)
        assert ran.code == 1, "the launcher's own code"
        assert ran.errors.count("expected a data file at nowhere/train.jsonl") == 1
        assert time.monotonic() - began < 28, "rank 1 kept the launcher waiting, which kills it after 30 seconds"

    @pytest.mark.slow
    def test_two_processes_train_one_trial(
        self, make_study: Callable[..., StudyPlace], finished: FinishedStudy, port: int
    ) -> None:
        place = make_study(resources={"gpus_per_trial": 2})
        ran = launch(place, 2, port)
        assert ran.code == 0, ran
        alone = {report["job_id"]: report for _, report in finished.place.journal("Reported")}
        for _, report in place.journal("Reported")[:5]:
            expected = alone[report["job_id"]]["metrics"]
            assert report["metrics"] == pytest.approx(expected, rel=0.05), "only dropout is drawn differently"

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks_per_trial", [1, 2])
    def test_two_machines(self, make_study: Callable[..., StudyPlace], port: int, ranks_per_trial: int) -> None:
        """Two launches that know each other by address and port only, as on two machines with a shared directory."""
        place = make_study(resources={"gpus_per_trial": ranks_per_trial})
        launcher = Path(sys.executable).with_name("accelerate")
        machines = []
        for machine in range(2):
            options = ["--multi_gpu", "--num_machines", "2", "--machine_rank", str(machine), "--num_processes", "2"]
            options += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port), "--rdzv_backend", "static"]
            machines.append(start_command(launcher, "launch", *options, "-m", "thresher", "run", place.config))
        first, second = (finish(process) for process in machines)
        assert (first.code, second.code) == (0, 0), (first, second)
        kinds = Counter(kind for kind, _ in place.journal())
        assert kinds["JobCreated"] == kinds["Reported"]
        assert (place.directory / "logs" / "worker-1.log").exists()
        assert "adapter: " in first.output

    def test_a_number_of_processes_that_does_not_divide(self, make_study: Callable[..., StudyPlace]) -> None:
        place = make_study(resources={"gpus_per_trial": 2})
        ran = run_here("run", place.config)
        assert ran.code == 2
        assert ran.errors == (
            "thresher: expected a number of launched processes that `resources.gpus_per_trial` (2) divides, got 1; "
            "launch with --num_processes 2\n"
        )


class TestPrepare:
    """Everything before the first job, in this process."""

    @pytest.fixture
    def prepare(self, tmp_path: Path) -> Callable[[dict[str, Any]], study.Prepared]:
        def run(content: dict[str, Any]) -> study.Prepared:
            config = parse_config(content)
            with Store.open(config.output.directory) as store, (tmp_path / "out.txt").open("a") as out:
                return study.prepare(config, store, World(), Console(file=out))

        return run

    def test_what_was_refused_can_be_mended(
        self, make_study: Callable[..., StudyPlace], prepare: Callable[[dict[str, Any]], study.Prepared], tmp_path: Path
    ) -> None:
        """No refusal binds the directory to the settings that were refused."""
        content: dict[str, Any] = dict(make_study().content)
        empty = tmp_path / "empty.jsonl"
        empty.write_text("")
        long = tmp_path / "long.jsonl"
        write_jsonl(long, [("x" * 200, "y")])
        for error, section, change in [
            (BaseModelError, "model", {"name": str(tmp_path / "none")}),
            (ConfigError, "data", {"max_length": 129}),
            (DataError, "data", {"train": str(tmp_path / "none.jsonl")}),
            (ConfigError, "search", {"budget": 4}),
            (ConfigError, "resources", {"max_checkpoint_gb": 1e-6}),
            (DataError, "data", {"train": str(empty)}),
            (DataError, "data", {"train": str(long), "too_long": "error"}),
        ]:
            with pytest.raises(error, match=r"expected .* got.*;"):
                prepare({**content, section: {**content[section], **change}})
        prepared = prepare(content)
        assert len(prepared.data.splits["train"]) == 40
        assert prepared.plan.budgets == (8, 16)

    def test_twice_is_as_once(
        self, make_study: Callable[..., StudyPlace], prepare: Callable[[dict[str, Any]], study.Prepared]
    ) -> None:
        content = dict(make_study().content)
        first = prepare(content)
        before = contents(Path(content["output"]["directory"]))
        second = prepare(content)
        assert contents(Path(content["output"]["directory"])) == before
        assert second.task == first.task
        assert second.notes == first.notes

    def test_data_that_changed_is_found_even_without_its_tokens(
        self, make_study: Callable[..., StudyPlace], prepare: Callable[[dict[str, Any]], study.Prepared], tmp_path: Path
    ) -> None:
        train = tmp_path / "train.jsonl"
        write_jsonl(train, [("a", "b")])
        content = dict(make_study(data={"train": str(train)}).content)
        prepare(content)
        write_jsonl(train, [("a", "c")])
        with pytest.raises(DataError, match="this study's data changed: the data of train was"):
            prepare(content)
        shutil.rmtree(Path(content["output"]["directory"]) / "data")
        with pytest.raises(ValueError, match=r"holds another study:\n  hash of the tokenised data: expected"):
            prepare(content)


class TestThreads:
    def test_are_divided_by_the_workers_of_this_machine(self, config_data: dict[str, Any]) -> None:
        config_data["resources"]["threads_per_worker"] = None
        config = parse_config(config_data)
        available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        assert study.worker_threads(config, World()) == available
        assert study.worker_threads(config, World(size=64, local_size=2)) == max(1, available // 2)
        assert study.worker_threads(config, World(size=999, local_size=999)) == 1

    def test_as_configured(self, config_data: dict[str, Any]) -> None:
        config_data["resources"]["threads_per_worker"] = 3
        assert study.worker_threads(parse_config(config_data), World(size=9, local_size=9)) == 3


class TestJournal:
    def test_a_disk_that_is_full_for_the_journal_halts_the_study(
        self, finished: FinishedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The workers' own files are larger, so that theirs is the error that a real full disk gives first."""

        class Full:
            def __init__(
                self, strategy: object, executor: LaunchedExecutor, *others: object, **options: object
            ) -> None:
                self.executor = executor

            def run(self) -> None:
                self.executor.stop()
                raise StoreError("expected to use the journal, got 'database or disk is full'; free some space")

        monkeypatch.setattr(study, "Controller", Full)
        ran = run_here("run", finished.copy_to(tmp_path).config)
        assert ran.code == 3
        assert ran.errors == (
            "thresher: expected to use the journal, got 'database or disk is full'; free some space\n"
        )


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_asks_to_stop_and_the_second_stops_at_once(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        stops = []
        with study._on_signals(lambda: stops.append(1)):
            signal.raise_signal(number)
            assert stops == [1]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert stops == [1]
        assert signal.getsignal(number) == before

    def test_a_supervisor_without_a_worker_leaves(self) -> None:
        """In a process of its own, because this one may have children of other tests."""
        script = (
            "import os, signal, subprocess, sys, time\n"
            "from thresher.study import _leave_unless_needed\n"
            "signal.signal(signal.SIGTERM, _leave_unless_needed)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            "os.kill(os.getpid(), signal.SIGTERM)\n"
            "print('stays', flush=True)\n"
            "child.kill(); child.wait()\n"
            "os.kill(os.getpid(), signal.SIGTERM)\n"
            "print('not reached')\n"
        )
        ran = finish(start_command(sys.executable, "-c", script))
        assert (ran.code, ran.output, ran.errors) == (128 + signal.SIGTERM, "stays\n", "")
