"""Which system finds a good configuration with the least training? Ours beside Optuna, Syne Tune, DEHB and random.

Every problem is a table of learning curves (see tables.py). What is spent counts in full trainings; a configuration
that is resumed pays `--switch-cost` epochs each time. A peer's every epoch is seen, ours are seen where a job ends.
With several workers the budget is what all of them together have, idle or not.

Regret is 0 for the best value of a table and 1 for the median one after full training; `mean_test_regret` is that of
the configuration that validation chose. `regret_low` and `regret_high` are a 95 % interval of the mean over problems
and seeds. Runs are kept in `--out`, so what was interrupted goes on where it was; those of ours are done again when
our code has changed.
"""

from __future__ import annotations

import argparse
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import reporting
import tables
from quality import plot, runs, summary, synthetic, systems
from quality.trace import Setting, Trace
from rich.console import Console
from rich.progress import Progress


def main() -> None:
    """Run what is missing, and write the rows."""
    args = _options().parse_args()
    setting = reporting.machine()
    console = Console(width=None if Console().is_terminal else 160)
    with tempfile.TemporaryDirectory() as made_up:
        paths = _tables(args, Path(made_up))
        chosen = _systems(args, console)
        seeds = range(args.seed, args.seed + (args.seeds or (2 if args.quick else 10)))
        traces = _traces(args, chosen, paths, seeds, console)
        problems = [tables.load(path) for path in paths]
    by_system = {
        system.name: {(path.stem, seed): traces[system.name, path.stem, seed] for path in paths for seed in seeds}
        for system in chosen
    }
    run_under = Setting(args.seed, args.workers, args.switch_cost)
    rows = [row for name in by_system for row in summary.rows_of(name, by_system[name], problems, seeds, run_under)]
    reporting.write(rows, args, setting)
    for table in summary.overview(rows):
        console.print(table)
    picture = args.out / f"search_quality-workers{args.workers}-switch{args.switch_cost:g}.svg"
    try:
        plot.plot(by_system, problems, seeds, picture)
        console.print(f"picture: {picture}", style="dim")
    except ImportError as error:
        console.print(f"no picture: {error}")


def _options() -> argparse.ArgumentParser:
    options = reporting.parser(__doc__)
    options.add_argument("--tables", type=Path, metavar="DIR", help="the .npz tables; without, --quick makes some up")
    options.add_argument("--seeds", type=int, metavar="N", help="runs for each problem (default: 10; --quick: 2)")
    options.add_argument("--workers", type=int, default=1, metavar="W", help="at work at the same time (default: 1)")
    options.add_argument(
        "--switch-cost", type=float, default=0.0, metavar="EPOCHS", help="for resuming a configuration (default: 0)"
    )
    options.add_argument("--only", nargs="+", metavar="SYSTEM", help="patterns such as thresher-auto 'optuna-*'")
    options.add_argument("--problems", nargs="+", metavar="NAME", help="patterns such as 'taskset-*'")
    options.add_argument(
        "--half", type=int, choices=(1, 2), help="every other problem of each family, from its first or its second"
    )
    options.add_argument(
        "--add",
        nargs="+",
        default=[],
        metavar="NAME=MODULE:FUNCTION",
        help="systems of your own: the function makes a strategy from (space, rungs, max_trials, workers)",
    )
    options.add_argument(
        "--out", type=Path, default=Path("runs/search_quality"), metavar="DIR", help="where runs are kept"
    )
    options.add_argument("--stale", action="store_true", help="take runs that were kept whatever the code was")
    options.add_argument("--jobs", type=int, default=1, metavar="PROCESSES", help="runs at the same time (default: 1)")
    return options


def _tables(args: argparse.Namespace, made_up: Path) -> list[Path]:
    """The files of the problems that are asked for."""
    directory = args.tables
    if directory is None:
        if not args.quick:
            raise SystemExit("expected --tables DIR, got none; see benchmarks/README.md for the format")
        directory = made_up
        for number in range(2):
            synthetic.write_table(directory / f"synthetic-{number}.npz", number)
    paths = sorted(directory.glob("*.npz"))
    if args.half is not None:
        seen: dict[str, int] = {}
        for path in list(paths):
            family = path.stem.partition("-")[0]
            seen[family] = seen.get(family, 0) + 1
            if seen[family] % 2 != args.half % 2:
                paths.remove(path)
    paths = [path for path in paths if any(fnmatch(path.stem, pattern) for pattern in args.problems or ["*"])]
    if not paths:
        raise SystemExit(f"expected tables (.npz) in {directory}, got none of those asked for")
    return paths


def _systems(args: argparse.Namespace, console: Console) -> list[systems.System]:
    """Those that are asked for and can run here."""
    added = dict(entry.split("=", 1) for entry in args.add)
    known = systems.known_systems(added)
    patterns = args.only or ["*"]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            raise SystemExit(f"expected systems among {', '.join(known)}, got {pattern!r}")
    found = []
    for name, system in known.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            missing = systems.why_missing(system)
            if missing is None:
                found.append(system)
            else:
                console.print(f"left out: {missing}")
    return found


def _traces(
    args: argparse.Namespace, chosen: list[systems.System], paths: list[Path], seeds: range, console: Console
) -> dict[tuple[str, str, int], Trace]:
    """By system, problem and seed: what was kept, and what is run now."""
    versions = {system.name: system.version for system in chosen}
    digests = {path: runs.digest_of(path) for path in paths}
    wanted = [
        runs.Run(system, path, Setting(seed, args.workers, args.switch_cost), versions[system.name], digests[path])
        for seed in seeds
        for path in paths
        for system in chosen
    ]
    found = {run: runs.kept(run, args.out, stale=args.stale) for run in wanted}
    missing = [run for run, trace in found.items() if trace is None]
    console.print(f"{len(wanted)} runs, {len(wanted) - len(missing)} of them kept in {args.out}", style="dim")
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("runs", total=len(missing))
        for run, trace in runs.play(missing, args.out, args.jobs):
            found[run] = trace
            progress.advance(task)
    return {
        (run.system.name, run.path.stem, run.setting.seed): trace for run, trace in found.items() if trace is not None
    }


if __name__ == "__main__":
    main()
