import pytest

from controller.executors.world import World, WorldError, without_launcher


def launched(rank: int, size: int, local_rank: int, local_size: int) -> World:
    environment = {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(local_size),
        "MASTER_ADDR": "10.1.2.3",
        "MASTER_PORT": "29500",
    }
    return World.from_environment(environment)


def test_without_launcher_a_world_of_one() -> None:
    world = World.from_environment({})
    assert (world.rank, world.size, world.control_port) == (0, 1, 0)


def test_control_port_follows_the_launchers() -> None:
    assert launched(1, 4, 1, 4).control_port == 29501


def test_not_a_number() -> None:
    with pytest.raises(WorldError, match="WORLD_SIZE"):
        World.from_environment({"WORLD_SIZE": "many"})


def test_each_single_worker_sees_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environments = [launched(rank, 4, rank, 4).worker_environment(1, "h", 1) for rank in range(4)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["0", "1", "2", "3"]
    assert all("WORLD_SIZE" not in env for env in environments)


def test_groups_see_their_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    environments = [launched(rank, 4, rank, 4).worker_environment(2, "host", 4711) for rank in range(4)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments] == ["4,5", "4,5", "6,7", "6,7"]
    assert [env["RANK"] for env in environments] == ["0", "1", "0", "1"]
    assert [env["LOCAL_RANK"] for env in environments] == ["0", "1", "0", "1"]
    assert {(env["WORLD_SIZE"], env["MASTER_ADDR"], env["MASTER_PORT"]) for env in environments} == {
        ("2", "host", "4711")
    }


def test_groups_over_two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines of two devices: the second machine's ranks 2 and 3 have devices 0 and 1."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    second = launched(3, 4, 1, 2)
    assert second.worker_environment(1, "h", 1)["CUDA_VISIBLE_DEVICES"] == "1"
    assert second.worker_environment(2, "h", 1)["CUDA_VISIBLE_DEVICES"] == "0,1"
    over_both = second.worker_environment(4, "h", 1)
    assert (over_both["RANK"], over_both["LOCAL_RANK"], over_both["CUDA_VISIBLE_DEVICES"]) == ("3", "1", "0,1")
    assert over_both["LOCAL_WORLD_SIZE"] == "2"


def test_too_few_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(WorldError, match="--num_processes 1"):
        launched(0, 2, 0, 2).worker_environment(1, "h", 1)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices_stay_hidden(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert launched(1, 2, 1, 2).worker_environment(1, "h", 1)["CUDA_VISIBLE_DEVICES"] == ""


def test_without_launcher_drops_what_it_set() -> None:
    environment = {"RANK": "1", "TORCHELASTIC_RUN_ID": "x", "PATH": "/bin", "ACCELERATE_USE_CPU": "true"}
    environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}
    assert without_launcher(environment) == {"PATH": "/bin", "ACCELERATE_USE_CPU": "true"}


def test_a_process_hosts_its_own_rank_under_a_launcher_and_all_of_them_without() -> None:
    launched = World(1, 4, 1, 2, "10.0.0.1", 29500)
    assert launched.hosted() == [launched]
    assert World().hosted() == [World()]
    assert World(size=2, local_size=2).hosted() == [
        World(rank=0, size=2, local_rank=0, local_size=2),
        World(rank=1, size=2, local_rank=1, local_size=2),
    ]
