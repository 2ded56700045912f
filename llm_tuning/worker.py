"""The worker process: builds the task once, then trains job after job until the supervisor ends it.

Started by a supervisor as `python -m llm_tuning.worker SOCKET`; never by hand.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.executors.link import WorkerLink
from controller.task import Task
from controller.trial import Halt

NVIDIA_DRIVER = Path("/proc/driver/nvidia")


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


class DeviceError(ValueError):
    """This process should have a device, and sees none."""


def build_task(specification: dict[str, Any]) -> Task:
    """The fine-tuning task of a specification, with the base model and the data loaded on this process's device.

    Raises:
        ValueError, OSError: the specification, model or data cannot be used.
        DeviceError: see `check_device`.
    """
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        check_device(torch.version.cuda is not None and NVIDIA_DRIVER.exists(), os.environ)
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else a group of CPU processes looks for GPUs
    from llm_tuning.task import FineTuningTask

    return FineTuningTask.from_spec(specification)


def check_device(has_devices: bool, environment: Mapping[str, str]) -> None:
    """Refuse to fall back to the CPU where the machine has devices, of which this process was promised one.

    Its trials would take many times as long as those of the others, and end with other numbers.

    Args:
        has_devices: whether the machine and the installed torch have CUDA; this process sees no device.

    Raises DeviceError.
    """
    wants_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    promised = environment.get("CUDA_VISIBLE_DEVICES")
    if has_devices and promised and not wants_cpu:
        raise DeviceError(
            f"expected the CUDA device {promised} for this worker, got none; launch with --num_processes equal to the "
            "number of devices, or set ACCELERATE_USE_CPU=true to train on the CPU"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
