"""Who is who among the launched processes, read from the environment that the launcher sets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace


class WorldError(ValueError):
    """The launched processes do not fit what the study asks for."""


@dataclass(frozen=True, slots=True)
class World:
    """The place of this process among those that `accelerate launch` started.

    Attributes:
        rank, size: this process among all, over all machines.
        local_rank, local_size: this process among those of this machine.
        address: host of rank 0.
        port: port of the launcher's own rendezvous; None if the launcher needs none (one process).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = "127.0.0.1"
    port: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> World:
        """The world of this process; without a launcher, a world of one.

        Raises WorldError if the launcher's variables are not numbers.
        """
        env = os.environ if environment is None else environment
        size = _integer(env, "WORLD_SIZE", 1)
        if size == 1:
            return cls()
        return cls(
            rank=_integer(env, "RANK", 0),
            size=size,
            local_rank=_integer(env, "LOCAL_RANK", 0),
            local_size=_integer(env, "LOCAL_WORLD_SIZE", size),
            address=env.get("MASTER_ADDR", "127.0.0.1"),
            port=_integer(env, "MASTER_PORT", 29500),
        )

    @property
    def control_port(self) -> int:
        """Where rank 0 listens for the others; 0 lets the system choose, when there are no others."""
        return 0 if self.port is None else self.port + 1

    def hosted(self) -> list[World]:
        """The ranks whose supervisors this process runs: its own, or all of them if no launcher started others."""
        if self.port is not None:
            return [self]
        return [replace(self, rank=rank, local_rank=rank) for rank in range(self.size)]

    def require_groups(self, group_size: int) -> None:
        """Raise WorldError if the ranks cannot be divided into groups of this size."""
        if group_size < 1 or self.size % group_size:
            raise WorldError(
                f"expected a number of launched processes that `resources.gpus_per_trial` ({group_size}) divides, got "
                f"{self.size}; launch with --num_processes {max(1, self.size // max(1, group_size)) * group_size}"
            )

    def group_members(self, group_size: int) -> range:
        """The ranks that train one trial together with this one."""
        first = self.rank - self.rank % group_size
        return range(first, first + group_size)

    def worker_environment(self, group_size: int, address: str, port: int) -> dict[str, str]:
        """What a worker child of this rank must have in its environment.

        Its group is a process world of its own (its ranks count from 0, its rendezvous is at
        `address`:`port`) and sees only the devices of the group's ranks on this machine.
        """
        members = self.group_members(group_size)
        first_here = self.rank - self.local_rank
        here = [rank for rank in members if first_here <= rank < first_here + self.local_size]
        devices = _visible_devices(self.local_size)
        env = {"CUDA_VISIBLE_DEVICES": ",".join(devices[rank - first_here] for rank in here)}
        if group_size > 1:
            env |= {
                "RANK": str(self.rank - members.start),
                "WORLD_SIZE": str(group_size),
                "LOCAL_RANK": str(here.index(self.rank)),
                "LOCAL_WORLD_SIZE": str(len(here)),
                "MASTER_ADDR": address,
                "MASTER_PORT": str(port),
            }
        return env


# What the launcher was configured with (mixed precision, FSDP, DeepSpeed) is not for the workers: the study's config
# says how they train.
LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "DEEPSPEED_")
KEPT_VARIABLES = ("ACCELERATE_USE_CPU",)
LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment cleared of what the launcher told the supervisors about their own world."""
    return {
        name: value
        for name, value in environment.items()
        if name not in LAUNCHER_VARIABLES and (name in KEPT_VARIABLES or not name.startswith(LAUNCHER_PREFIXES))
    }


def given_devices() -> tuple[str, ...] | None:
    """The devices that CUDA_VISIBLE_DEVICES names, as CUDA reads it: up to a negative number. None if it is not set."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return None
    devices = (device.strip() for device in given.split(","))
    return tuple(itertools.takewhile(lambda device: not device.startswith("-"), filter(None, devices)))


def _visible_devices(local_size: int) -> list[str]:
    given = given_devices()
    devices = [str(index) for index in range(local_size)] if given is None else list(given)
    if devices and len(devices) < local_size:
        raise WorldError(
            f"expected a device for each of the {local_size} launched processes of this machine, "
            f"got CUDA_VISIBLE_DEVICES={','.join(devices)}; launch with --num_processes {len(devices)}"
        )
    return devices or [""] * local_size


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name, str(default))
    if not value.isdigit():
        raise WorldError(f"expected a number in {name}, got {value!r}; start the study with accelerate launch")
    return int(value)
