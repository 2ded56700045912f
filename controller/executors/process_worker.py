"""`python -m controller.executors.process_worker SOCKET`: a worker of the ProcessExecutor.

The task comes pickled on standard input, from the process that started this one and nobody else; its jobs come as
JSON over the socket. Not to be started by hand.
"""

from __future__ import annotations

import sys
import traceback

from controller.executors.link import WorkerLink
from controller.task import Task
from controller.trial import Halt


def main() -> None:
    """Make the task and run it until the socket closes or the executor says stop."""
    link = WorkerLink(int(sys.argv[1]))
    payload = sys.stdin.buffer.read()
    try:
        import cloudpickle

        task: Task = cloudpickle.loads(payload)()
    except Exception as error:
        traceback.print_exc()
        remedy = "what it uses must be importable in a new process: an installed package, or a file beside the script"
        last = traceback.format_exception_only(error)[-1].strip()
        link.emit(Halt(f"expected a task that a worker process can make, got {last}; {remedy}, or run with workers=1"))
        return
    del payload
    link.ready()
    task.run(link, link.emit)


if __name__ == "__main__":
    main()
