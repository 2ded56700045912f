"""Per-layer lists: one parameter for each layer of a network, named `architecture.ffn.0`, `.1` and so on.

Where the number of layers is itself a parameter, each exists only while there are enough of them.
"""

from __future__ import annotations

from typing import Final

from search_spaces.conditions import AtLeast
from search_spaces.domains import Choice, Domain, Int, Params, ParamValue, SpaceError, shown

MOST_LAYERS: Final = 1024


def per_layer(
    name: str, item: Domain, length: Int | Choice | int, parent: str | None = None
) -> tuple[dict[str, Domain], tuple[AtLeast, ...]]:
    """The domains and conditions of a list with one value of `item` for each layer.

    Args:
        length: how many layers, or the domain of the parameter that says it.
        parent: the name of that parameter.

    Raises SpaceError if the length is not from 1 to MOST_LAYERS, or a domain comes without its name.
    """
    if isinstance(length, int) != (parent is None):
        raise SpaceError(f"{name}: expected a parent for a length that varies, and only then; name num_layers, say")
    names = layer_names(name, longest(length, name))
    conditions = () if parent is None else tuple(AtLeast(each, parent, i + 1) for i, each in enumerate(names))
    return dict.fromkeys(names, item), conditions


def layer_names(name: str, count: int) -> tuple[str, ...]:
    """The names of the first layers of a list."""
    return tuple(f"{name}.{layer}" for layer in range(count))


def layer_values(params: Params, name: str) -> tuple[ParamValue, ...]:
    """The values of a per-layer list, from layer 0 on; empty if `params` have none."""
    values: list[ParamValue] = []
    while (each := f"{name}.{len(values)}") in params:
        values.append(params[each])
    return tuple(values)


def longest(length: Domain | int, name: str) -> int:
    """The largest number of layers that a list may have.

    Raises SpaceError unless that is from 1 to MOST_LAYERS and the length counts something.
    """
    most: object = length
    if isinstance(length, Int):
        most = length.high
    elif isinstance(length, Choice) and all(type(value) is int for value in length.values):
        most = max(length.values)
    if type(most) is int and 1 <= most <= MOST_LAYERS:
        return most
    raise SpaceError(
        f"{name}: expected a length from 1 to {MOST_LAYERS}, or the name of an int or a choice of ints, got "
        f"{shown(length) if isinstance(length, int) else length}; correct it"
    )
