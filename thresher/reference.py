"""The reference page of the config, written from the models that check it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml

from llm_tuning.formats import ROLES, FormatKind
from llm_tuning.recipe import RECIPE_DEFAULTS
from thresher.config import StudyConfig
from thresher.hyperparameters import HYPERPARAMETERS

Schema = Mapping[str, Any]

_MODEL: Final = "HuggingFaceTB/SmolLM2-360M-Instruct"
_BOUNDS: Final = {
    **{"minimum": "≥", "ge": "≥", "exclusiveMinimum": ">", "gt": ">"},
    **{"maximum": "≤", "le": "≤", "exclusiveMaximum": "<", "lt": "<"},
}
_TYPES: Final = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_FROM_FAMILY: Final = ("optimizer.learning_rate",)

_LEARNT: Final[Mapping[FormatKind, str]] = {
    "prompt_completion": "the completion; a list of alternatives counts with its first",
    "messages": "every turn of the assistant",
    "sharegpt": "every turn of the assistant (`from` and `value` in place of `role` and `content`)",
    "alpaca": "the output, to the instruction and, where it is not empty, the input",
    "preference": "the chosen answer; the rejected one is not trained on",
    "text_label": "the name of the class, to the text and a question that lists up to 20 classes",
    "text": "all of the text; what is longer than `data.max_length` becomes several examples",
}

_INTRODUCTION: Final = f"""\
# The config of a study

A YAML file. Model and data make a whole one, everything else has a default:

```yaml
model: {_MODEL}
data: data/train.jsonl
```

`thresher init MODEL DATA` writes a commented one to start from, `thresher validate CONFIG` checks it, `thresher plan
CONFIG` tells what it will run and how long that may take. Unknown keys are errors that name the nearest key. Paths are
relative to the directory that the command is started in. Numbers may be written as `1e-4`. `--set search.trials=30`
replaces single values on the command line; values are YAML, and names under `space` and `hyperparameters` are dotted
as they are (`--set space.lora.rank="[8, 16]"`).

`thresher schema > thresher.schema.json` writes the same as JSON Schema, for editors: an editor with a YAML language
server completes and checks a file that begins with `# yaml-language-server: $schema=thresher.schema.json`.

This page is generated from the code: `python scripts/make_config_reference.py`.
"""

_SEARCH_KINDS: Final = """\
The kinds of search:

- Every trial is trained in full: `random`, `grid`, `sobol`, `evolution`, `nsga2` (several objectives), `tpe`, `gp`
  (Gaussian process), `de` (differential evolution), `cma-es`.
- All are trained to a first rung, and the best on to the next: `asha`, `successive-halving`, `hyperband`,
  `async-hyperband`, `median` (stopping rule) and `mo-asha` (several objectives) with random draws; `grid-asha`,
  `evolution-asha`, `tpe-asha`; `bohb` (`tpe` with Hyperband), `priorband` (the priors of the space with Hyperband).
- Strategies of their own: `dehb`, `pbt` (population-based training) and `freeze-thaw`.

`auto` is `grid-asha` where the space has no more assignments than there are trials, else `freeze-thaw`; from 2,000
trials on `tpe-asha`, from 20,000 on `evolution-asha`. Where there is but one rung it is `grid`, `gp`, `tpe` or
`evolution`. `thresher plan` says which and why.

`sampler` and `scheduler` set the two parts by themselves, with the keys below; with `auto`, the part that is left out
is `tpe` or `asha`. `strategy` sets a strategy of its own, with its options, in place of `kind`, `sampler` and
`scheduler`. `warm_start` goes with a sampler; with `auto` it chooses one that has it.

Without `budget` a full training is an epoch of the training data, at most 50,000 examples. The lowest rung must hold at
least eight of the largest batches: fewer steps say nothing about a configuration. A limit (`max_examples`, `max_hours`,
`max_gpu_hours`) ends the search, whose finalists are then repeated and tested without limit.

```text
search: {trials: 30}                                                    # auto
search: {trials: 30, kind: bohb}                                        # a kind by its name
search: {trials: 30, sampler: {kind: gp, constraints: [{metric: token_accuracy, at_least: 0.5}]}}
search: {trials: 30, sampler: {kind: tpe}, scheduler: {kind: hyperband, reduction_factor: 4}}
search: {trials: 30, kind: tpe-asha, warm_start: {runs: [runs/first, runs/second]}}
search: {trials: 8, strategy: {kind: pbt, every: 1000}}
search: {trials: 30, strategy: {kind: coarse-to-fine, first: {sampler: {kind: sobol}}, second: {sampler: {kind: gp}}}}
```
"""

_SPACE: Final = f"""\
## `space`

What is searched, by the dotted name of a hyperparameter. The model's family brings a space (`thresher families` shows
it), which the entries here change:

```yaml
model: {_MODEL}
data: data/train.jsonl
space:
  optimizer.learning_rate: {{high: 1e-3}}                      # narrower; what is left out stays as the family has it
  lora.rank: [8, 16, 32]                                     # a choice of these
  lora.dropout: 0.05                                         # fixed, and not searched
  optimizer.weight_decay: {{kind: float, low: 1e-3, high: 0.1, log: true}}   # a domain of its own
  schedule.kind: {{kind: choice, values: [linear, wsd]}}
  schedule.decay: {{kind: float, low: 0.1, high: 0.5, when: {{schedule.kind: [wsd]}}}}   # exists only with wsd
  rules:
    - {{kind: sum, names: [schedule.warmup, schedule.decay], high: 0.6}}
```

"""

_FORMS: Final = (
    ("form", "meaning"),
    ("`{kind: float, low: A, high: B, log: true}`", "numbers from A to B, both included; `log`: even on the log scale"),
    ("`{kind: int, low: A, high: B, log: true}`", "integers from A to B"),
    ("`{kind: choice, values: [A, B]}`, or `[A, B]`", "one of these"),
    (
        "`{low: A}`, `{high: B}`, ... without `kind`",
        "the family's domain, changed; a choice keeps what is within bounds; `prior: null` makes all alike",
    ),
    ("`A`", "this value, which takes the name out of the search"),
    (
        "`prior: {kind: normal, centre: C, deviation: D}`",
        "of a float or int: where good values are expected; D in decades with `log`",
    ),
    ("`prior: {..., scaled_by: {name: N, reference: R, exponent: E}}`", "the centre is C × (N / R)^E"),
    ("`prior: {kind: weights, weights: [1, 3]}`", "of a choice: how likely each value is"),
    (
        "`when: {N: [A, B]}`, `when: {N: {at_least: A}}`",
        "there is such a parameter only if N is one of these, or at least A",
    ),
)

_RULES_INTRODUCTION: Final = """\
Two names are reserved. `only`: search nothing but these (`only: [lora.rank]`), or nothing but what is named under
`space` (`only: true`). `rules`: what several must obey together:

"""

_RULES: Final = (
    ("rule", "meaning"),
    ("`{kind: divides, divisor: A, dividend: B}`", "A divides B"),
    ("`{kind: ordered, names: [A, B, C]}`", "A ≤ B ≤ C"),
    ("`{kind: sum, names: [A, B], low: X, high: Y}`", "the sum lies between X and Y, one of which may be left out"),
    ("`{kind: product, names: [A, B], low: X, high: Y}`", "so does the product"),
)

_DATA: Final = """\
## Data

A source is a file (`.jsonl`, `.json`, `.parquet`, `.csv`, `.tsv`, `.txt`), a directory of files named after their
splits, or a data set of the hub as `owner/name`, with `:split` after it for one of its splits. `thresher data CONFIG`
shows what becomes of it.

Splits that are not given are made from `train`: disjoint by content, drawn by `search.seed`, whole groups together if
`group_by` names a column. The format is found by the names and the content of the columns; `format` and `columns`
overrule that. A column may be a template: `columns: {prompt: "{context}\\n\\n{question}", completion: answer}`.
"""

_EXIT_CODES: Final = """\
## Exit codes

0 done · 1 no trial could be measured · 2 wrong input · 3 halted by the surroundings (disk full, say) · 130 interrupted.
After 3 and 130 the same command goes on where it stopped.
"""


def config_reference() -> str:
    """The page docs/config.md, in Markdown."""
    schema = StudyConfig.model_json_schema()
    parts = [
        _INTRODUCTION,
        f"Every key with its default:\n\n```yaml\n{_all_defaults(schema)}```\n",
        *_sections(schema),
        _hyperparameters(),
        _SPACE + _table(*_FORMS),
        _RULES_INTRODUCTION + _table(*_RULES),
        _DATA + "\n" + _formats(),
        _EXIT_CODES,
    ]
    return "\n".join(parts)


def _all_defaults(schema: Schema) -> str:
    """A config in which every key has its default; what has none stands for itself."""
    content: dict[str, Any] = {}
    for name, entry in schema["properties"].items():
        section = _section(schema, entry)
        if section is None or entry.get("type") == "array":
            content[name] = entry.get("default", {})
        else:
            content[name] = {key: field.get("default") for key, field in section["properties"].items()}
    content["model"]["name"] = _MODEL
    content["data"]["train"] = "data/train.jsonl"
    content["data"] |= {name: {} for name in ("columns", "limits")}
    content["output"]["directory"] = None
    return yaml.safe_dump(content, sort_keys=False, width=110, default_flow_style=None)


def _sections(schema: Schema) -> Iterator[str]:
    """A heading and a table for each section that has keys of its own."""
    for name, entry in schema["properties"].items():
        section = _section(schema, entry)
        if section is None:
            continue
        yield f"## `{name}`\n\n{_sentence(section['description'])}\n\n{_keys(schema, section)}"
        if name == "search":
            yield _SEARCH_KINDS
            for part in ("sampler", "scheduler", "strategy"):
                for member in _members(schema, section["properties"][part]):
                    kind = member["properties"]["kind"]["const"]
                    table = _keys(schema, member) if len(member["properties"]) > 1 else "No further keys.\n"
                    yield f"### `{part}: {{kind: {kind}}}`\n\n{_sentence(member['description'])}\n\n{table}"


def _keys(schema: Schema, section: Schema) -> str:
    """The table of the keys of a section; a section inside it is told key by key."""
    rows = []
    for key, field in section["properties"].items():
        inner = _section(schema, field)
        if key == "kind" and "const" in field:
            continue
        if inner is not None:
            rows += [_row(schema, inner, f"{key}.{name}", entry) for name, entry in inner["properties"].items()]
        else:
            rows.append(_row(schema, section, key, field))
    return _table(("key", "type", "default", "meaning"), *rows)


def _row(schema: Schema, section: Schema, key: str, field: Schema) -> tuple[str, ...]:
    required = key.rpartition(".")[2] in section.get("required", ())
    default = "*required*" if required else _code(field.get("default", {}))
    if field.get("format") == "path":
        default = ""  # made from other keys, as the description says
    return (f"`{key}`", _type(schema, field), default, field.get("description", ""))


def _hyperparameters() -> str:
    rows = [
        (f"`{name}`", known.values, "by the family" if name in _FROM_FAMILY else _code(default), known.meaning)
        for (name, default), known in zip(RECIPE_DEFAULTS.items(), HYPERPARAMETERS.values(), strict=True)
    ]
    return (
        "## `hyperparameters`\n\nThe default configuration, which is trial 0, where it differs from the family's. What "
        "is not searched keeps these values.\n\n" + _table(("name", "values", "default", "meaning"), *rows)
    )


def _formats() -> str:
    rows = []
    for kind, roles in ROLES.items():
        columns = ", ".join(roles.required) + (f" ({', '.join(roles.optional)})" if roles.optional else "")
        rows.append((f"`{kind}`", columns, _LEARNT[kind]))
    return _table(("format", "columns (further ones that it may have)", "what is learnt"), *rows)


def _section(schema: Schema, entry: Schema) -> Schema | None:
    """The section that a key or the items of its list are, if they are one."""
    forms = [entry, entry.get("items", {}), *entry.get("anyOf", ())]
    reference = next((form["$ref"] for form in forms if "$ref" in form), None)
    return None if reference is None else _resolved(schema, reference)


def _members(schema: Schema, entry: Schema) -> Iterator[Schema]:
    """The sections that a key may be, told apart by their kind."""
    for member in entry.get("oneOf", ()):
        yield _resolved(schema, member["$ref"])
    for member in entry.get("anyOf", ()):
        yield from _members(schema, member)


def _resolved(schema: Schema, reference: str) -> Schema:
    definition: Schema = schema["$defs"][reference.rpartition("/")[2]]
    return definition


def _type(schema: Schema, field: Schema) -> str:
    """What a value is, in words."""
    members = list(_members(schema, field))
    if members:
        kinds = [member["properties"]["kind"]["const"] for member in members]
        return "mapping of kind " + " or ".join(kinds)
    if "anyOf" in field:
        return " or ".join(_type(schema, one) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return "list of " + ("one or more of " if "enum" in field["items"] else "") + _type(schema, field["items"])
    if field["type"] == "object":
        keys = field.get("propertyNames", {}).get("enum")
        return f"mapping: {', '.join(keys) if keys else 'text'} → {_type(schema, field['additionalProperties'])}"
    bounds = [f"{sign} {_plain(field[bound])}" for bound, sign in _BOUNDS.items() if bound in field]
    return " ".join([_TYPES[field["type"]], ", ".join(bounds)]).strip()


def _plain(number: float) -> str:
    return f"2^{number.bit_length() - 1}" if isinstance(number, int) and number >= 2**20 else f"{number:g}"


def _code(value: object) -> str:
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _sentence(docstring: str) -> str:
    return " ".join(docstring.split())


def _table(headings: Sequence[str], *rows: Sequence[str]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
