"""What the sections of a config are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from search_spaces.domains import is_scientific


def _yaml_number(value: object) -> object:
    """YAML reads 1e4 as a string, and yes as True, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("bool_for_number", "Input should be a number")
    if isinstance(value, str) and is_scientific(value):
        return float(value)
    return value


def _named(value: object) -> object:
    """An empty path would be the directory that the command is started in."""
    if value == "":
        raise PydanticCustomError("empty_path", "a path")
    return value


def expanded(path: Path) -> Path:
    """A path with the home that `~` stands for. Refused if there is none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise PydanticCustomError("no_home", "a path in a home that exists") from error


Integer = Annotated[int, BeforeValidator(_yaml_number)]
Number = Annotated[float, BeforeValidator(_yaml_number)]
UserPath = Annotated[Path, BeforeValidator(_named), AfterValidator(expanded)]


class ConfigSection(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
