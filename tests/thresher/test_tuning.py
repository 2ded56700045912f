"""Fine-tuning from Python."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import psutil
import pytest
import yaml

import thresher
from controller.executors.world import World
from tests.thresher.tiny_study import StudyPlace, wait_until
from thresher import Choice, Float, Int, Space, Study, StudyError
from thresher.config import ConfigError, parse_config
from thresher.tuning import config_of, own_world

pytestmark = pytest.mark.timeout(300)

SMALL = {
    "search": {"trials": 2, "budget": 16, "seed": 1, "scheduler": {"kind": "full"}},
    "finalists": {"count": 1, "repeats": 0},
}


class TestConfig:
    def test_keywords_are_the_sections_of_the_yaml(self, config_data: dict[str, Any]) -> None:
        assert config_of(None, config_data) == parse_config(config_data)
        assert config_of(config_data, {}) == parse_config(config_data)

    def test_model_data_and_objective_are_enough(self) -> None:
        config = config_of(None, {"model": "somebody/model", "data": "train.jsonl", "objective": "exact_match"})
        assert config.model.name == "somebody/model"
        assert config.metric == "exact_match"
        assert config == parse_config(
            yaml.safe_load("{model: somebody/model, data: train.jsonl, objective: exact_match}")
        )

    def test_a_path_is_read(self, config_data: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(config_data))
        assert config_of(path, {}) == config_of(str(path), {}) == parse_config(config_data)

    def test_keywords_change_what_is_there_and_keep_the_rest(self, config_data: dict[str, Any]) -> None:
        for config in (config_data, parse_config(config_data)):
            changed = config_of(config, {"search": {"trials": 40}, "objective": "token_accuracy"})
            assert changed.search.trials == 40
            assert changed.search.seed == 1
            assert changed.metric == "token_accuracy"
        assert config_data["search"]["trials"] == 5

    def test_paths_and_domains_may_be_objects(self, config_data: dict[str, Any]) -> None:
        written = {
            "optimizer.learning_rate": {"kind": "float", "low": 1e-3, "high": 1e-2, "log": True},
            "lora.rank": {"kind": "choice", "values": [4, 8]},
        }
        objects = {"optimizer.learning_rate": Float(1e-3, 1e-2, log=True), "lora.rank": Choice((4, 8))}
        expected = parse_config({**config_data, "space": written})
        content = {name: section for name, section in config_data.items() if name != "space"}
        content["output"] = {**content["output"], "directory": Path(content["output"]["directory"])}
        assert config_of(content, {"space": objects}) == expected
        assert config_of(content, {"space": Space(objects)}) == expected

    def test_integers_are_domains_too(self, config_data: dict[str, Any]) -> None:
        content = {name: section for name, section in config_data.items() if name != "space"}
        config = config_of(content, {"space": {"lora.rank": Int(2, 8)}})
        assert config.space["lora.rank"]["high"] == 8

    def test_what_is_wrong_is_told_as_for_the_yaml(self, config_data: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"search\.trails"):
            config_of(config_data, {"search": {"trails": 3}})
        with pytest.raises(ConfigError, match="did you mean"):
            config_of(config_data, {"serach": {}})
        path = tmp_path / "study.yaml"
        with pytest.raises(ConfigError, match=str(path)):
            config_of(path, {})
        path.write_text("model: 3")
        with pytest.raises(ConfigError, match=f"{path}: "):
            config_of(path, {})
        with pytest.raises(ConfigError, match="expected a mapping"):
            config_of([1], {})  # type: ignore[arg-type]


class TestWorld:
    def test_it_uses_every_device_in_whole_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
        assert own_world(1, None) == World(size=5, local_size=5)
        assert own_world(2, None) == World(size=4, local_size=4)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert own_world(1, None) == World()
        assert own_world(1, 3) == World(size=3, local_size=3)

    def test_it_needs_a_worker(self) -> None:
        with pytest.raises(ConfigError, match="expected workers >= 1, got 0"):
            own_world(1, 0)

    def test_groups_must_come_out_even(self, config_data: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"resources\.gpus_per_trial"):
            thresher.tune(config_data, resources={"gpus_per_trial": 2}, workers=3, progress=False)

    def test_a_launcher_says_how_many(self, config_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="expected no `workers` in a script started with accelerate launch"):
            thresher.tune(config_data, workers=2)


def test_a_study_in_this_process(make_study: Callable[..., StudyPlace], capsys: pytest.CaptureFixture[str]) -> None:
    """In a thread other than the main one, as in a web server or some notebooks, and with two workers."""
    place, found = make_study(**SMALL), []
    thread = threading.Thread(target=lambda: found.append(thresher.tune(place.config, workers=2)))
    thread.start()
    thread.join()
    [study] = found
    assert isinstance(study, Study)
    assert list(study.trials.status) == ["complete", "complete"]
    assert study.best.metric == "validation_loss"
    assert study.finished
    assert "validation_loss" in study.trials
    assert set(study.finalists.trial) <= {0, 1}
    assert "validation" in study.report
    assert study.export(place.directory / "copy") == study.best.trial
    assert (place.directory / "copy" / "adapter_model.safetensors").is_file()
    assert len(list((place.directory / "logs").iterdir())) == 2
    wait_until(lambda: not psutil.Process().children(recursive=True), "the end of all workers")
    assert "trial 0" in capsys.readouterr().out
    with pytest.raises(StudyError, match="open for reading"):
        study.run()


@pytest.mark.slow
def test_a_plain_script(make_study: Callable[..., StudyPlace], tmp_path: Path) -> None:
    """No `if __name__ == "__main__"`, and the same script again finds all done."""
    place = make_study(**SMALL)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import thresher
            study = thresher.tune({dict(place.content)!r}, progress=False)
            print(study.best.trial, len(study.trials))
            """
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.endswith(" 2\n")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of ipykernel, about its sockets
def test_a_notebook(make_study: Callable[..., StudyPlace]) -> None:
    cells = (f"import thresher\nstudy = thresher.tune({dict(make_study(**SMALL).content)!r})", "study")
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(notebook, timeout=200).execute()
    first, second = notebook.cells
    shown = "".join(str(output.get("data", output)) for output in first.outputs)
    assert "2/2 trials started" in shown
    assert "base model" in shown
    assert "<table>" in second.outputs[0].data["text/html"]
    wait_until(lambda: not psutil.Process().children(recursive=True), "the end of all processes")
