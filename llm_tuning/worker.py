"""The worker process: builds the task once, then trains job after job until the supervisor ends it.

Started by a supervisor as `python -m llm_tuning.worker SOCKET`; never by hand.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from controller.executors.link import WorkerLink
from controller.task import Task
from controller.trial import Halt


def main(descriptor: int) -> None:
    """Serve the supervisor at the other end of the socket `descriptor`."""
    link = WorkerLink(descriptor)
    specification = link.specification()
    try:
        task = build_task(specification)
    except (ValueError, OSError) as error:
        # Wrong input or surroundings, which another start would not mend.
        link.emit(Halt(str(error)))
        raise
    link.ready()
    task.run(link, link.emit)


def build_task(specification: dict[str, Any]) -> Task:
    """The fine-tuning task of a specification, with the base model and the data loaded on this process's device."""
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else a group of CPU processes looks for GPUs
    from llm_tuning.task import FineTuningTask

    return FineTuningTask.from_spec(specification)


if __name__ == "__main__":
    main(int(sys.argv[1]))
