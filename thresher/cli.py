"""The command line. What a command needs is imported inside it: `--help` must not wait for pydantic, or torch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from thresher.config import StudyConfig
    from thresher.record import StudyRecord

EXIT_NO_RESULT = 1
EXIT_WRONG_INPUT = 2
EXIT_HALTED = 3
EXIT_INTERRUPTED = 130

PREPARE = "Prepare a study"
RUN = "Run it"
READ = "Read its results"
EXCHANGE = "Exchange with Optuna"

app = typer.Typer(
    name="thresher",
    help="Find the best way to fine-tune a language model.",
    epilog="Exit codes: 0 done, 1 no trial could be measured, 2 wrong input, 3 halted (disk full, say), "
    "130 stopped or interrupted before the end. After 3 and 130 the same command goes on where it stopped, "
    "and so does `thresher resume`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="the YAML of the study")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a study's directory, or its config")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="in place of what the config says, such as search.trials=20"),
]
StorageArgument = Annotated[
    str, typer.Argument(metavar="STORAGE", help="a .db file for SQLite, another file for Optuna's journal, or a URL")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]


def main() -> None:
    """Entry point of `thresher` and `python -m thresher`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a curve is no reason to fail where the terminal lacks a character
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        from thresher import __version__

        typer.echo(f"thresher {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Find the best way to fine-tune a language model."""


@app.command(rich_help_panel=PREPARE)
def init(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="hub id, local directory, or .gguf file")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="a data file, or a hub data set")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="where to write it")] = Path(
        "study.yaml"
    ),
    force: Annotated[bool, typer.Option("--force", help="overwrite the file if it is there")] = False,
) -> None:
    """Write a commented config for a model and data to start from."""
    with _refusals():
        from thresher.scaffold import write_config

        write_config(model, data, output, force=force, console=Console())


@app.command(rich_help_panel=PREPARE)
def validate(config: ConfigArgument, overrides: SetOption = None) -> None:
    """Check everything that can be checked without training: files, columns, template, rules, memory, disk."""
    with _refusals():
        from thresher.config import load_config
        from thresher.prepare import validate as check

        check(load_config(config, overrides or ()), Console())


@app.command(rich_help_panel=PREPARE)
def plan(
    config: ConfigArgument,
    overrides: SetOption = None,
    probe: Annotated[bool, typer.Option(help="train a few steps to measure how fast this device is")] = True,
) -> None:
    """Show what will run: rungs, jobs, disk, and with a short probe the hours on this device."""
    with _refusals():
        from thresher.config import load_config
        from thresher.forecast import show_plan

        show_plan(load_config(config, overrides or ()), Console(), probe)


@app.command(rich_help_panel=PREPARE)
def data(
    config: ConfigArgument,
    overrides: SetOption = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="examples to show of each split")] = 3,
) -> None:
    """Preview the data as the model will see it: rows, lengths, and which tokens are learnt."""
    with _refusals():
        from thresher.config import load_config
        from thresher.data_view import preview

        preview(load_config(config, overrides or ()), Console(), rows)


@app.command(rich_help_panel=PREPARE)
def families(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="one family in full; default: all")] = None,
) -> None:
    """Show the model families: which models they cover, what is searched, and the priors with their source."""
    with _refusals():
        from thresher.families_view import show_families

        show_families(name, Console())


@app.command(rich_help_panel=PREPARE)
def schema() -> None:
    """Print the JSON Schema of the config, for editors that complete and check it."""
    from thresher.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))


@app.command(rich_help_panel=RUN)
def run(config: ConfigArgument, overrides: SetOption = None) -> None:
    """Run a study, or go on with it: the same command resumes what was stopped or killed.

    On several devices: accelerate launch -m thresher run CONFIG
    """
    from thresher.config import load_config

    _launch(lambda: load_config(config, overrides or ()))


@app.command(rich_help_panel=RUN)
def resume(run: Annotated[Path, typer.Argument(metavar="RUN", help="a study's directory")]) -> None:
    """Go on with a study by its directory, with the config that it was started with."""

    def stored() -> StudyConfig:
        from thresher.record import StudyRecord

        record = StudyRecord.open(run)
        output = record.config.output.model_copy(update={"directory": record.directory})
        return record.config.model_copy(update={"output": output})

    _launch(stored)


@app.command(rich_help_panel=RUN)
def enqueue(
    run: RunArgument,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="such as lora.rank=16; the rest: default")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="the same as YAML")] = None,
) -> None:
    """Ask for a configuration of your own to be tried next, also while the study runs."""
    with _refusals():
        from thresher.enqueue import enqueue as ask
        from thresher.enqueue import read_assignments

        given = read_assignments(values or (), file)
        asked = ask(_open(run), given)
        for name, value in asked.params.items():
            typer.echo(f"  {name}: {value}{'' if name in given else '  (default)'}")
        for sentence in asked.sentences:
            typer.echo(sentence)


@app.command(rich_help_panel=RUN)
def stop(
    run: RunArgument,
    now: Annotated[bool, typer.Option("--now", help="save what is running and stop, as Ctrl-C would")] = False,
) -> None:
    """End a study that runs, after the jobs at work have reached their rungs. It can go on later."""
    with _refusals():
        from thresher.stopping import ask_to_stop

        typer.echo(ask_to_stop(run, now=now))


@app.command(rich_help_panel=READ)
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show where a study stands, also while it runs: trials, rungs, workers, pace, budget, failures."""
    with _refusals():
        from thresher.status_view import status_data, status_of, status_view

        found = status_of(_open(run), time.time())
        if as_json:
            _print_json(status_data(found))
        else:
            Console().print(status_view(found))


@app.command(rich_help_panel=READ)
def best(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show the best configuration: the winner among the finalists, or the best trial so far."""
    with _refusals():
        record = _open(run)
        winner = record.winner()
        objective = record.history.objectives[0]
        params, value = record.params(winner.trial), record.value(winner.loss)
    if as_json:
        summary = {
            "trial": winner.trial.trial_id,
            "metric": objective.metric,
            "direction": objective.direction,
            "value": value,
            "mean_of": [run.trial_id for run in winner.counted],
            "runs": [run.trial_id for run in winner.runs],
            "budget": winner.budget,
            "full_budget": record.history.horizon,
            "params": params,
            "searched": list(winner.trial.params),
        }
        _print_json(summary)
        return
    repeated = winner.counted != (winner.trial,)
    of = f"mean of {len(winner.counted)} repeat{'s'[: len(winner.counted) != 1]}" if repeated else "1 run"
    typer.echo(
        f"trial {winner.trial.trial_id}: {objective.metric} {value:.4f} ({of}) at {winner.budget} of "
        f"{record.history.horizon} examples"
    )
    for name, setting in sorted(params.items()):
        typer.echo(f"  {name}: {setting}{'' if name in winner.trial.params else '  (fixed)'}")


@app.command(rich_help_panel=READ)
def trial(
    run: RunArgument,
    number: Annotated[int, typer.Argument(metavar="N", help="the number of the trial")],
    as_json: JsonOption = False,
) -> None:
    """Show all of one trial: parameters, origin, every rung, learning curve, failures, notes, files."""
    with _refusals():
        from thresher.trial_view import find_trial, trial_data, trial_view

        record = _open(run)
        found = find_trial(record, number)
        if as_json:
            _print_json(trial_data(record, found))
        else:
            Console().print(trial_view(record, found))


@app.command(rich_help_panel=READ)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="directories of studies, or configs")],
    as_json: JsonOption = False,
) -> None:
    """Hold studies against each other: settings, winners, and a paired bootstrap on the same test set."""
    with _refusals():
        from thresher.compare_view import compare_studies, comparison_data, comparison_view

        compared = compare_studies([_open(run) for run in runs])
        if as_json:
            _print_json(comparison_data(compared))
        else:
            Console().print(comparison_view(compared))


@app.command(rich_help_panel=READ)
def importance(
    run: RunArgument,
    metric: Annotated[
        str | None, typer.Option("--metric", metavar="NAME", help="any that was reported; default: the objective")
    ] = None,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="B", help="the rung; default: the highest with enough results")
    ] = None,
    failures: Annotated[
        str, typer.Option("--failures", metavar="omit|worst", help="whether failed trials count as the worst result")
    ] = "omit",
    best_share: Annotated[
        float, typer.Option("--best-share", metavar="Q", help="0.5: the worse half counts as all alike")
    ] = 1.0,
    min_trials: Annotated[int, typer.Option("--min-trials", metavar="N", help="refuse fewer results")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="of the random forest")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show how much each parameter matters, alone and in pairs: functional ANOVA over a random forest."""
    with _refusals():
        from controller.importance import importances
        from thresher.importance_view import importance_data, importance_view
        from thresher.results import searched_space

        record = _open(run)
        found = importances(
            record.history,
            searched_space(record),
            metric=metric,
            budget=budget,
            failures=failures,  # type: ignore[arg-type]  # a wrong word is refused there
            best_share=best_share,
            min_trials=min_trials,
            seed=seed,
        )
        if as_json:
            _print_json(importance_data(found))
        else:
            unit = "examples" if record.settings is not None else "units"
            Console().print(importance_view(found, record.history.horizon, unit))


@app.command(rich_help_panel=READ)
def pareto(
    run: RunArgument,
    reference: Annotated[
        list[str] | None,
        typer.Option("--reference", metavar="METRIC=VALUE", help="the worst acceptable; default: the worst measured"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the trials that no other beats in all objectives, and the hypervolume that they cover."""
    with _refusals():
        from thresher.pareto_view import pareto_data, pareto_view, read_reference, trade_offs

        record = _open(run)
        found = trade_offs(record.history, record.entries, read_reference(reference or ()))
        if as_json:
            _print_json(pareto_data(found))
        else:
            Console().print(pareto_view(found))


@app.command(rich_help_panel=READ)
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="an empty or new directory")],
    merged: Annotated[bool, typer.Option("--merged", help="the whole model, the adapter merged into it")] = False,
) -> None:
    """Copy the winner's adapter to a directory, for PeftModel.from_pretrained; or the merged model."""
    with _refusals():
        record = _open(run)
        winner, exported = record.winner(), record.export(to, merged=merged)
    repeat = "" if exported is winner.trial else f" as repeated in trial {exported.trial_id}"
    what = "model with the adapter" if merged else "adapter"
    typer.echo(f"{what} of trial {winner.trial.trial_id}{repeat}, trained on {winner.budget} examples, written to {to}")


@app.command("to-optuna", rich_help_panel=EXCHANGE)
def to_optuna(
    run: RunArgument,
    storage: StorageArgument,
    name: Annotated[
        str | None, typer.Option("--name", help="of the study there; default: that of the directory")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="write an earlier export of this name anew")] = False,
) -> None:
    """Write a study to a storage of Optuna, for optuna-dashboard, Optuna's plots and its samplers."""
    with _refusals():
        from thresher.optuna_bridge import shown_storage
        from thresher.optuna_bridge import to_optuna as write

        record = _open(run)
        written = write(record, storage, name=name, replace=replace)
    count = len(record.history.trials) - len(record.history.repeats)
    typer.echo(f"{count} trial{'s'[: count != 1]} written to {shown_storage(storage)} as the study {written}")


@app.command("from-optuna", rich_help_panel=EXCHANGE)
def from_optuna(
    run: RunArgument,
    storage: StorageArgument,
    name: Annotated[
        str | None, typer.Option("--name", help="of the study there; not needed if the storage holds one only")
    ] = None,
    best: Annotated[int, typer.Option("--best", min=1, metavar="N", help="how many configurations")] = 1,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="THEIRS=OURS", help="a parameter that has another name there"),
    ] = None,
) -> None:
    """Ask for the best configurations of a study of Optuna to be tried next, also while the study runs."""
    with _refusals():
        from thresher.enqueue import enqueue as ask
        from thresher.optuna_bridge import from_optuna as read
        from thresher.optuna_bridge import read_renames
        from thresher.results import searched_space
        from thresher.wording import describe_params

        record = _open(run)
        found = read(
            storage, searched_space(record), name=name, rename=read_renames(rename or ()), defaults=record.defaults
        )
        for sentence in found.sentences:
            typer.echo(sentence)
        for params in found.best(best):
            asked = ask(record, params)
            typer.echo(f"asked for: {describe_params(params, params)}")
            typer.echo("\n".join(f"  {sentence}" for sentence in asked.sentences))


def _launch(load: Callable[[], StudyConfig]) -> None:
    """Run the study of a config in this process's place among the launched ones."""
    from controller.executors.world import World, WorldError

    console = Console()
    world = World()
    try:
        world = World.from_environment()
        study = load()
        if world.rank:
            from thresher.study import supervise_only

            supervise_only(study, world)
            return
        _run(study, world, console)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on", highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except ValueError as error:
        if world.rank and world.local_rank and not isinstance(error, WorldError):
            raise typer.Exit(EXIT_WRONG_INPUT) from None  # the first rank of this machine says it
        _fail(f"rank {world.rank}: {error}" if world.rank else error, EXIT_WRONG_INPUT)
    except OSError as error:
        _fail(_disk_refusal(error), EXIT_HALTED)


def _run(study: StudyConfig, world: object, console: Console) -> None:
    from controller.controller import StudyHalted
    from thresher.record import RecordError
    from thresher.study import finish_study, run_study

    try:
        outcome = run_study(study, world, console)  # type: ignore[arg-type]  # World, imported lazily above
    except StudyHalted as error:
        _fail(error, EXIT_HALTED)
    if not outcome.finished:
        console.print("stopped; what was running is saved, the same command goes on", highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED)
    try:
        finish_study(study, outcome, console)
    except RecordError as error:
        _fail(error, EXIT_NO_RESULT)


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell a person what is wrong with the input, or with the disk, and leave with the code for it."""
    try:
        yield
    except ValueError as error:
        _fail(error, EXIT_WRONG_INPUT)
    except OSError as error:
        _fail(_disk_refusal(error), EXIT_HALTED)
    except KeyboardInterrupt:
        _fail("interrupted", EXIT_INTERRUPTED)


def _open(run: Path) -> StudyRecord:
    from thresher.record import StudyRecord

    return StudyRecord.open(run)


def _print_json(data: Mapping[str, Any]) -> None:
    from thresher.comparison import plain_data

    typer.echo(json.dumps(plain_data(data), indent=2, ensure_ascii=False, allow_nan=False))


def _disk_refusal(error: OSError) -> str:
    place = f" for {error.filename}" if error.filename else ""
    return (
        f"expected files that can be read and written, got {error.strerror or error}{place}; "
        "free some space or mend permissions, then run the same command again"
    )


def _fail(error: Exception | str, code: int) -> NoReturn:
    print(f"thresher: {error}", file=sys.stderr)
    raise typer.Exit(code)
