"""What all benchmarks share: their options, the machine that they ran on, and the way results are shown and kept.

A benchmark is a script with a `main` that makes flat rows and hands them to `write`:

    args = reporting.parser(__doc__).parse_args()
    reporting.write([{"system": "thresher", "seconds": 0.4}], args)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

Value = str | int | float | None
Row = Mapping[str, Value]

PACKAGES = (
    "accelerate",
    "cmaes",
    "dehb",
    "numpy",
    "optuna",
    "peft",
    "scikit-learn",
    "scipy",
    "sqlalchemy",
    "syne-tune",
    "torch",
    "transformers",
)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--quick", action="store_true", help="less of everything: under 2 minutes on 2 cores")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE as well")
    options.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    return options


def machine() -> dict[str, Value]:
    """Where and with what a benchmark runs, as columns of its rows."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
    }


def write(rows: Sequence[Row], args: argparse.Namespace, setting: Mapping[str, Value] | None = None) -> None:
    """Print rows as tables, and write them to `args.json` with the columns of `machine` if that is given.

    Args:
        rows: the results. Those with the same columns are shown in one table.
        args: what `parser` gave.
        setting: `machine()` as it was before the benchmark began, which tells the load of others from its own.
    """
    console = Console(width=None if Console().is_terminal else 160)
    tables: dict[tuple[str, ...], Table] = {}
    for row in rows:
        table = tables.setdefault(tuple(row), Table(*row))
        table.add_row(*map(_text, row.values()))
    for table in tables.values():
        console.print(table)
    after = {"load_average_after": round(os.getloadavg()[0], 2)} if setting else {}
    setting = {**(setting or machine()), **after, "seed": args.seed, "quick": args.quick}
    console.print(", ".join(f"{name}: {value}" for name, value in setting.items()), style="dim", highlight=False)
    if args.json is not None:
        args.json.write_text(json.dumps([{**row, **setting} for row in rows], indent=1) + "\n")


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
