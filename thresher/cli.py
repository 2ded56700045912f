"""The command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from thresher.config import StudyConfig
    from thresher.record import StudyRecord

EXIT_NO_RESULT = 1
EXIT_WRONG_INPUT = 2
EXIT_HALTED = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="thresher",
    help="Find the best way to fine-tune a language model.",
    epilog="Exit codes: 0 done, 1 no trial could be measured, 2 wrong input, 3 halted (disk full, say), "
    "130 interrupted. After 3 and 130 the same command goes on where it stopped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a study's directory, or its config")]


def main() -> None:
    """Entry point of `thresher` and `python -m thresher`."""
    app()


@app.command()
def run(config: Annotated[Path, typer.Argument(metavar="CONFIG", help="the YAML of the study")]) -> None:
    """Run a study, or go on with it: the same command resumes what was stopped or killed.

    On several devices: accelerate launch -m thresher run CONFIG
    """
    from controller.executors.world import World, WorldError
    from thresher.config import load_config

    console = Console()
    world = World()
    try:
        world = World.from_environment()
        study = load_config(config)
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
        place = f" for {error.filename}" if error.filename else ""
        _fail(
            f"expected files that can be read and written, got {error.strerror or error}{place}; "
            "free some space or mend permissions, then run the same command again",
            EXIT_HALTED,
        )


@app.command()
def status(run: RunArgument) -> None:
    """Show where a study stands, also while it runs."""
    from controller.store import writer_of
    from thresher.report import leaderboard

    record = _open(run)
    history = record.history
    console = Console()
    names = history.trials[0].params if history.trials else ()
    console.print(leaderboard(history, names=tuple(names), limit=20))
    failed = sum(trial.failure is not None for trial in history.trials)
    writer = writer_of(record.directory)
    console.print(
        f"{history.num_started()} of {record.config.search.trials} trials started, {failed} failed, "
        f"{len(history.running)} jobs open; {f'run by {writer}' if writer else 'nobody is running it'}",
        highlight=False,
    )


@app.command()
def best(run: RunArgument, as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show the best configuration: the winner among the finalists, or the best trial so far."""
    record = _open(run)
    try:
        winner = record.winner()
    except ValueError as error:
        _fail(error, EXIT_WRONG_INPUT)
    params = record.params(winner.trial)
    metric = record.config.objective.metric
    if as_json:
        summary = {
            "trial": winner.trial.trial_id,
            metric: winner.loss,
            "runs": len(winner.runs),
            "budget": winner.budget,
            "params": params,
        }
        typer.echo(json.dumps(summary, indent=2))
        return
    runs = f"mean of {len(winner.runs)} runs" if len(winner.runs) > 1 else "1 run"
    typer.echo(
        f"trial {winner.trial.trial_id}: {metric} {winner.loss:.4f} ({runs}) at {winner.budget} of "
        f"{record.history.horizon} examples"
    )
    for name, value in sorted(params.items()):
        typer.echo(f"  {name}: {value}{'' if name in winner.trial.params else '  (fixed)'}")


@app.command()
def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="an empty or new directory")],
) -> None:
    """Copy the winner's adapter to a directory, for PeftModel.from_pretrained."""
    record = _open(run)
    try:
        winner, exported = record.winner(), record.export(to)
    except ValueError as error:
        _fail(error, EXIT_WRONG_INPUT)
    repeat = "" if exported is winner.trial else f" as repeated in trial {exported.trial_id}"
    typer.echo(
        f"adapter of trial {winner.trial.trial_id}{repeat}, trained on {winner.budget} examples, written to {to}"
    )


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


def _open(run: Path) -> StudyRecord:
    from thresher.record import StudyRecord

    try:
        return StudyRecord.open(run)
    except ValueError as error:
        _fail(error, EXIT_WRONG_INPUT)


def _fail(error: Exception | str, code: int) -> NoReturn:
    print(f"thresher: {error}", file=sys.stderr)
    raise typer.Exit(code)
