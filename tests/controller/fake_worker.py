"""A worker process for the tests of executor and supervisor: the real link, a task without a model.

A job's parameters tell it what to do: {"do": "report" | "crash" | "hang" | "stop" | "oom" | "fail_start"}.
"""

import os
import signal
import sys
import time
from pathlib import Path

from controller.executors.link import WorkerLink
from controller.trial import Failure, FailureKind, Notice, Progress, Report


def main() -> None:
    link = WorkerLink(int(sys.argv[1]))
    task = link.specification()
    directory = Path(task["directory"])
    with (directory / "starts.txt").open("a") as stream:
        stream.write(f"{os.getpid()} {os.environ.get('RANK', '-')}/{os.environ.get('WORLD_SIZE', '-')}\n")
    print(f"worker {os.getpid()} starts")
    if task.get("fail_start") or (directory / "fail-once").exists():
        (directory / "fail-once").unlink(missing_ok=True)
        sys.exit("no such model")
    time.sleep(task.get("load_seconds", 0))
    link.ready()
    while (job := link.get()) is not None:
        marker = directory / f"job-{job.job_id}-{os.environ.get('RANK', '0')}"
        again = marker.exists()
        marker.touch()
        link.emit(Progress(job.job_id, job.from_budget, "train", 1.5))
        do = job.params["do"]
        if do == "crash" or (do == "crash_once" and not again):
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "hang" or (do == "hang_once" and not again):
            time.sleep(600)
        if do == "wait_for_stop":
            while not link.stopping:
                time.sleep(0.01)
            (directory / f"saved-{job.job_id}").touch()
            return
        if do == "oom":
            link.emit(Failure(job.job_id, FailureKind.OOM, "no memory left"))
        elif do == "oom_on_rank_1" and os.environ.get("RANK") == "1":
            link.emit(Failure(job.job_id, FailureKind.OOM, "no memory left on rank 1"))
        elif do == "oom_on_rank_1":
            time.sleep(600)  # stuck in a collective
        else:
            link.emit(Notice(job.job_id, "about to report"))
            rank = os.environ.get("RANK", "0")
            environment = {"rank": float(rank), "pid": float(os.getpid())}
            link.emit(Report(job.job_id, job.to_budget, environment, 0.1))


if __name__ == "__main__":
    main()
