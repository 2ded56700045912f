"""How much each parameter of a study matters, for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from controller.importance import Importances
from thresher.section import counted
from thresher.wording import table_of

MOST_SHOWN = 15
BAR = 20  # characters for a share of 1
LITTLE = 0.25
"""Below this share of what a forest explains of trials that it has not seen, its importances are not to be trusted."""


def importance_view(found: Importances, full_budget: int, unit: str = "examples") -> RenderableType:
    """The importances as a table, the largest first, with what they rest on.

    Args:
        unit: what budgets count.
    """
    table = table_of("<parameter", "importance", "std", "<")
    for part in found.parts[:MOST_SHOWN]:
        cells = (" × ".join(part.names), f"{part.share:.1%}", f"{part.std:.1%}", "█" * round(BAR * part.share))
        table.add_row(*map(Text, cells))
    return Group(
        Text(f"what explains {found.metric}", style="bold"), table, *map(Text, _sentences(found, full_budget, unit))
    )


def importance_data(found: Importances) -> dict[str, Any]:
    """The importances as plain data."""
    return {
        "metric": found.metric,
        "budget": found.budget,
        "trials": found.trials,
        "failed": found.failed,
        "explained": found.explained,
        "importances": [
            {"parameters": list(part.names), "importance": part.share, "std": part.std} for part in found.parts
        ],
    }


def _sentences(found: Importances, full_budget: int, unit: str) -> list[str]:
    hidden = found.parts[MOST_SHOWN:]
    lines = []
    if hidden:
        lines.append(f"{counted(len(hidden), 'more row')} not shown, none above {hidden[0].share:.1%}")
    failed = f", {found.failed} of them failed and counted as the worst" if found.failed else ""
    lines.append(f"{counted(found.trials, 'trial')} at {found.budget} of {full_budget} {unit}{failed}")
    lines.append(
        f"the forest explains {found.explained:.0%} of the variance between trials that it has not seen (R² out of the "
        "bag)"
    )
    if found.explained < LITTLE:
        lines.append("that is little: these importances may be noise; more trials would tell")
    return lines
