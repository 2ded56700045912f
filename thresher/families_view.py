"""The model families on a terminal: all of them, or one with all that it says and where that comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from search_spaces.families import Family, family_names, load_family
from search_spaces.family import BATCH_SIZE, LEARNING_RATE, LearningRatePrior, Tuning

if TYPE_CHECKING:
    from rich.console import Console


def show_families(name: str | None, console: Console) -> None:
    """Print a table of the packaged families, or one family by its name or the path of its YAML file.

    Raises FamilyError if there is no such family or its file is wrong.
    """
    if name is not None:
        _show(load_family(name), console)
        return
    table = _table("family", "model types", "what it is")
    for family in map(load_family, family_names()):
        _add(table, family.name, "\n".join(_types(family)), family.description)
    console.print(table)
    console.print(
        "\nthresher families NAME shows one of them. A family of your own is a YAML file: model.family: my_family.yaml",
        highlight=False,
    )


def _show(family: Family, console: Console) -> None:
    console.print(Text.assemble((family.name, "bold"), f"  {family.description}"), "")
    console.print("Model types of transformers: " + ", ".join(_types(family)), highlight=False, markup=False)
    _heading(console, "Architecture")
    fields = _table("size", "field of the configuration")
    for size, field in family.architecture.fields.items():
        _add(fields, size, field)
    console.print(fields)
    for rule in family.architecture.rules:
        console.print(f"  {rule}", highlight=False, markup=False)
    _heading(console, "LoRA targets")
    targets = _table("group", "layers")
    for group, modules in family.lora_targets.items():
        _add(targets, group, ", ".join(modules))
    console.print(targets)
    _show_tuning(family.lora, "Tuning with LoRA", console)
    _show_tuning(family.full, "For full fine-tuning (known, not trained yet)", console)


def _show_tuning(tuning: Tuning, title: str, console: Console) -> None:
    _heading(console, title)
    space = tuning.space_at(tuning.learning_rate.reference_hidden_size)
    table = _table("hyperparameter", "default", "searched", "likelier")
    names = [LEARNING_RATE, *(name for name in space.names if name not in (LEARNING_RATE, *tuning.defaults))]
    for name in [*names, *tuning.defaults]:
        searched = str(space.domains[name]) if name in space.domains else "no"
        default = "by width" if name == LEARNING_RATE else str(tuning.defaults.get(name, ""))
        _add(table, name, default, searched, _prior(name, tuning))
    console.print(table)
    console.print("\nWhere that comes from:", highlight=False)
    for name, source in tuning.sources.items():
        console.print(Padding(Text.assemble((name, "bold"), f": {source}"), (0, 0, 0, 2)))


def _prior(name: str, tuning: Tuning) -> str:
    if name == LEARNING_RATE:
        return _learning_rate(tuning.learning_rate, tuning.defaults.get(BATCH_SIZE))
    entry = tuning.domains.get(name)
    prior: Mapping[str, Any] | None = entry.get("prior") if isinstance(entry, Mapping) else None
    if prior is None:
        return ""
    if prior["kind"] == "weights":
        return "as " + " : ".join(f"{weight:g}" for weight in prior["weights"])
    if prior["kind"] == "normal":
        unit = " decades" if entry is not None and entry.get("log") else ""
        return f"around {prior['centre']}, ± {prior['deviation']}{unit}"
    return ""


def _learning_rate(prior: LearningRatePrior, batch_size: object) -> str:
    centre = f"{prior.value:g} × ({prior.reference_hidden_size:g} / width)^{prior.exponent:g}"
    growth = f" × (batch size / {batch_size})^{prior.batch_exponent:g}" if prior.batch_exponent else ""
    return f"around {centre}{growth}, ± {prior.deviation:g} decades"


def _types(family: Family) -> list[str]:
    """The model types, with what tells this family from others of the same type."""
    return [
        model_type
        + (
            f" with {', '.join(f'{field} {value}' for field, value in family.recognised_by[model_type].items())}"
            if model_type in family.recognised_by
            else ""
        )
        for model_type in family.model_types
    ]


def _heading(console: Console, title: str) -> None:
    console.print(Text(f"\n{title}", style="bold"))


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))  # what a user's file says is no markup


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
