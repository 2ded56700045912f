"""YAML, read strictly: a key that is given twice is an error, not a silent choice of the last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml


class YamlError(ValueError):
    """A file that cannot be read as YAML: one line that says where, what was expected, what came, and the remedy."""


def read_yaml(path: Path) -> object:
    """The content of a YAML file. Raises YamlError if it is missing, no UTF-8, no YAML, or gives a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise YamlError(f"expected a config file at {path}, got {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: expected UTF-8 text, got byte {_byte(error)}; save it as UTF-8") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        repeated = next(_repeated_keys(root, "", set()), None)
        if repeated is None:
            return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"{path}{place}: expected YAML, got an error {problem}; correct this line") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2026-13-01 is a plain ValueError
        reason = " ".join(str(error).split())
        raise YamlError(f"{path}: expected YAML, got {type(error).__name__}: {reason}; correct the file") from error
    raise YamlError(f"{path}:{repeated}")


def _byte(error: UnicodeDecodeError) -> str:
    """The byte that could not be decoded, in hex, with its place."""
    return f"0x{error.object[error.start]:02x} at offset {error.start}"


def _repeated_keys(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    """A message for each key that a mapping gives twice. `seen`: nodes visited, for an alias may close a circle."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, f"{path}{index}.", seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and name in lines:
            yield f"{line}: {path}{name}: expected the key once, got it in line {lines[name]} too; remove one of them"
        lines.setdefault(name, line)
        yield from _repeated_keys(value, f"{path}{name}.", seen)
