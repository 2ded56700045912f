"""`thresher.tune`: a fine-tuning study from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.executors.processes import visible_devices
from controller.executors.world import World
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space
from thresher.api import Study
from thresher.config import ConfigError, StudyConfig, parse_config
from thresher.yaml_file import YamlError, read_yaml

if TYPE_CHECKING:
    from rich.console import Console


def tune(
    config: StudyConfig | str | Path | Mapping[str, Any] | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
    **sections: Any,
) -> Study:
    """Find the best way to fine-tune a language model; the same call goes on with a study that was stopped.

        study = thresher.tune(model="HuggingFaceTB/SmolLM2-135M", data="train.jsonl", search={"trials": 20})
        study.best, study.finalists, study.report

    The model is loaded by worker processes, never by this one, so it can be called from a script as it stands and
    from a notebook. In a script that was started with `accelerate launch`, the first process runs the study and the
    others lend it their devices: for them this call does not return.

    Args:
        config: a config, the path of its YAML, or its content. Paths in it are relative to the current directory.
        workers: how many processes train, over all groups of `resources.gpus_per_trial`; by default one for each GPU,
            or one without any.
        progress: whether to show what happens.
        sections: sections of a config by name: `model`, `data`, `objective`, `search`, ... They add to those of
            `config` and take the place of single values in them. Domains of `space` may be Float, Int and Choice.

    Returns:
        The finished study, open for reading.

    Raises:
        ValueError: anything wrong with config, data, model or directory, before training where possible.
        StudyHalted: the surroundings became unfit, such as a full disk. The same call goes on once that is mended.
        KeyboardInterrupt: it was stopped before its end. What was running is saved, and the same call goes on.
    """
    study = config_of(config, sections)
    launched = World.from_environment()
    if launched.size > 1:
        if workers is not None:
            raise ConfigError(
                f"expected no `workers` in a script started with accelerate launch, got {workers}; give "
                "--num_processes instead"
            )
        if launched.rank:
            from thresher.study import supervise_only

            supervise_only(study, launched)
            raise SystemExit(0)
        return _run(study, launched, progress=progress)
    return _run(study, own_world(study.resources.gpus_per_trial, workers), progress=progress)


def config_of(config: StudyConfig | str | Path | Mapping[str, Any] | None, sections: Mapping[str, Any]) -> StudyConfig:
    """The config that was meant. Raises ConfigError."""
    if isinstance(config, StudyConfig):
        if not sections:
            return config
        config = config.model_dump(mode="json")
    content: Any = {} if config is None else config
    path = None
    if isinstance(content, str | Path):
        path = Path(content)
        try:
            content = read_yaml(path)
        except YamlError as error:
            raise ConfigError(str(error)) from error
    if isinstance(content, Mapping):
        content = dict(content)
        for name, section in sections.items():
            before, now = content.get(name), _written(section)
            content[name] = {**before, **now} if isinstance(before, Mapping) and isinstance(now, Mapping) else now
        content = _written(content)
    try:
        return parse_config(content)
    except ConfigError as error:
        if path is None:
            raise
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def own_world(group_size: int, workers: int | None) -> World:
    """The ranks that this process hosts all by itself: `workers`, or one for each GPU in whole groups."""
    if workers is None:
        devices = len(visible_devices())
        workers = max(group_size, devices - devices % group_size)
    if workers < 1:
        raise ConfigError(f"expected workers >= 1, got {workers}; leave it out for one on each GPU")
    return World(size=workers, local_size=workers)


def _run(config: StudyConfig, world: World, *, progress: bool) -> Study:
    from thresher.study import finish_study, run_study

    console = _console(shown=progress)
    outcome = run_study(config, world, console)
    if not outcome.finished:
        raise KeyboardInterrupt("the study was stopped before its end; the same call goes on with it")
    finish_study(config, outcome, console)
    return Study.open(config.output.directory)


def _console(*, shown: bool) -> Console:
    from rich.console import Console

    return Console() if shown else Console(quiet=True, force_interactive=False)


def _written(value: Any) -> Any:
    """What may stand in YAML, instead of the objects of Python that say the same."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Space):
        return value.to_dict()
    if isinstance(value, Float | Int | Choice):
        return Space({"domain": value}).to_dict()["domain"]
    if isinstance(value, Mapping):
        return {key: _written(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_written(entry) for entry in value]
    return value
