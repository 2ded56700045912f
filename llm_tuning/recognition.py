"""What the columns of a table mean, found out by looking at their names and at their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llm_tuning.formats import FORMAT_KINDS, MAX_LISTED_CLASSES, ROLES, Format, FormatKind, columns_line
from llm_tuning.rows import DataError
from llm_tuning.sources import names_beside
from llm_tuning.table import Table, value_of
from llm_tuning.template import Template, listed, type_word
from search_spaces.suggestion import suggest

PROMPTS = (
    *("prompt", "question", "problem", "query", "instruction", "inputs", "input", "input_text", "user", "request"),
    *("utterance", "source", "source_text", "src", "mr", "meaning_representation", "command", "nl"),
    *("natural_language", "dialogue", "dialog", "article", "document", "passage", "context", "content", "code"),
    *("function", "sentence", "text"),
)
COMPLETIONS = (
    *("completion", "response", "answer", "answers", "output", "outputs", "target", "targets", "target_text", "tgt"),
    *("sql", "summary", "highlights", "reply", "ref", "reference", "references", "human_reference", "solution"),
    *("translation", "docstring", "abstract", "headline", "paraphrase", "simplification", "simplified"),
    *("correction", "corrected", "bash", "cmd", "code", "query", "final_answer", "long_answer", "canonical_solution"),
    "generated_solution",
)
"""Names of what is given and of what is learnt, the better ones first."""

_CONTEXTS = ("context", "passage", "background", "paragraph", "story", "article", "document", "knowledge", "schema")
_ASKING = ("question", "query", "problem")
_CHOICES = ("choices", "options", "endings")
_INPUTS = ("input", "inputs", "context")
_CONVERSATIONS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "turns")
_TEXTS = ("text", "sentence", "review", "content", "body", "tweet", "comment", "utterance", "document", "question")
_PLAIN_TEXTS = ("text", "content", "document", "raw_content", "body", "article", "story", "markdown", "page_content")
_LABELS = (
    *("label", "labels", "class", "category", "sentiment", "intent", "emotion", "topic", "coarse_label"),
    *("fine_label", "gold_label", "rating", "stars", "target"),
)
_LABEL_NAMES = ("label_name", "label_text", "label_names", "class_name", "label_str", "category_name", "intent_name")
_SYSTEMS = ("system", "system_prompt")
_IDENTIFIER = re.compile(r"(?:.*_)?(?:id|ids|idx|index|uuid|guid|hash|sha|url|uri|timestamp)|unnamed.*|__index.*|")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
_FEW_CLASSES = 50
_GUESSABLE = ("prompt_completion", "text_label", "text")


@dataclass(frozen=True, slots=True)
class _Column:
    """What a sample of a column's values looks like. `kind` is that of most of them, `keys` those of messages."""

    name: str
    kind: Literal["text", "number", "truth", "list", "turns", "mapping", "empty", "other"]
    filled: int
    distinct: int
    spaced: float
    longest: int
    example: object
    keys: tuple[str, ...]

    @property
    def word(self) -> str:
        """The name as it is compared with known ones."""
        return re.sub(r"[\s-]+", "_", self.name.strip().lower())

    @property
    def is_identifier(self) -> bool:
        unique = self.kind == "text" and self.filled >= 20 and self.distinct == self.filled
        return bool(_IDENTIFIER.fullmatch(self.word)) or (unique and self.spaced == 0 and self.longest <= 80)

    @property
    def is_constant(self) -> bool:
        return self.filled > 1 and self.distinct == 1

    @property
    def is_learnable(self) -> bool:
        return self.kind in ("text", "number", "truth", "list")

    @property
    def repeats(self) -> bool:
        """Few short values again and again, as the classes of a classification."""
        return self.filled >= 20 and self.distinct <= min(_FEW_CLASSES, self.filled / 5) and self.longest <= 60


def _look_at(name: str, values: Sequence[object]) -> _Column:
    filled = [value for value in values if value is not None]
    kinds = Counter(map(_kind, filled))
    turns = next((value for value in filled if _kind(value) == "turns"), None)
    texts = [str(value) for value in filled]
    return _Column(
        name,
        kinds.most_common(1)[0][0] if kinds else "empty",  # type: ignore[arg-type]  # of the words in _kind
        filled=len(filled),
        distinct=len(set(texts)),
        spaced=sum(1 for text in texts if re.search(r"\s", text.strip())) / max(1, len(texts)),
        longest=max(map(len, texts), default=0),
        example=filled[0] if filled else None,
        keys=tuple(turns[0]) if isinstance(turns, list) else (),
    )


def _kind(value: object) -> str:
    match value:
        case str():
            return "text"
        case bool():
            return "truth"
        case int() | float():
            return "number"
        case [{**first}, *_] if ("role" in first or "from" in first) and ("content" in first or "value" in first):
            return "turns"
        case list():
            return "list"
        case dict():
            return "mapping"
    return "other"


class _Sheet:
    """The columns of a table, and the roles that the user has given away already."""

    def __init__(self, table: Table, given: Mapping[str, str], kind: str) -> None:
        self.table = table
        self.given = given
        self.kind = kind
        sample = table.sample
        looked = [_look_at(name, [value_of(record, name) for record in sample]) for name in table.all_columns]
        self._columns = {column.name: column for column in looked}
        taken = {name for text in given.values() for name in Template.parse(text, table.all_columns).columns}
        self.free = [self._columns[name] for name in table.columns if name not in taken]

    def named(self, names: Sequence[str], accept: Callable[[_Column], bool], without: str | None = None) -> str | None:
        """The first free column that has one of the names, the first name first, and that fits."""
        for name in names:
            for column in self.free:
                if column.word == name and column.name != without and accept(column):
                    return column.name
        return None

    @property
    def choices(self) -> str | None:
        """The column with the answers to choose from, if there is one."""
        return self.named(_CHOICES, lambda column: column.kind in ("list", "mapping"))

    def column(self, name: str) -> _Column:
        return self._columns[name]

    def texts(self, without: Sequence[str | None] = ()) -> list[_Column]:
        """The free columns that may be text to learn from: no identifiers, no constants."""
        return [
            column
            for column in self.free
            if column.kind == "text"
            and not column.is_identifier
            and not column.is_constant
            and column.name not in without
        ]

    def made(self, kind: FormatKind, columns: Mapping[str, str | None], why: str) -> Format:
        """A format out of the columns that were found and those that the user gave, which win."""
        wanted = {**columns, **self.given}
        found = {role: wanted[role] for role in ROLES[kind].all if wanted.get(role) is not None}
        used = {name for text in found.values() for name in Template.parse(str(text), self.table.all_columns).columns}
        whole = {name.split(".")[0] for name in used} | used
        unused = tuple(name for name in self.table.columns if name not in whole)
        if self.given:
            why = "set in the config" if set(found) == set(self.given) else f"partly set in the config, else {why}"
        return Format(kind, {role: str(text) for role, text in found.items()}, why=why, unused=unused)


_BY_NAME = "known names of columns"


def recognise(table: Table, kind: str = "auto", columns: Mapping[str, str] | None = None) -> Format:
    """Find out what the columns of a table mean.

    Args:
        kind: `auto`, or one of `FORMAT_KINDS` where it is known.
        columns: role -> column, or template such as "{context}\\n\\n{question}", for the roles that are known.

    Raises:
        DataError: a role or column that does not exist, or columns of which several readings are as good; the
            message shows each column with a value, and the line to write into the config.
    """
    given = dict(columns or {})
    kinds = _possible_kinds(kind, given)
    try:
        sheet = _Sheet(table, given, kind)
    except DataError as error:
        raise DataError(f"data.columns: {error}") from None
    if table.documents and not given and kind in ("auto", "text"):
        return Format("text", {"text": "text"}, why="a text file")
    for name, find in _FINDERS:
        if name in _GUESSABLE and not given and sheet.choices is not None:
            continue  # the prompt would lack what there is to choose from
        if name in kinds and (found := find(sheet)) is not None:
            return _with_classes(table, found) if found.kind == "text_label" else found
    for name in kinds:
        if set(ROLES[name].required) <= set(given):
            found = sheet.made(name, {}, "")
            return _with_classes(table, found) if name == "text_label" else found
    raise _unclear(sheet, kinds)


def _possible_kinds(kind: str, given: Mapping[str, str]) -> list[FormatKind]:
    if kind != "auto" and kind not in FORMAT_KINDS:
        raise DataError(f"data.format: expected auto or a known format, got {kind!r}; {suggest(kind, FORMAT_KINDS)}")
    kinds = [name for name in FORMAT_KINDS if kind in ("auto", name)]
    fitting = [name for name in kinds if set(given) <= set(ROLES[name].all)]
    if fitting:
        return fitting
    roles = list(dict.fromkeys(role for name in kinds for role in ROLES[name].all))
    unknown = [role for role in given if role not in roles]
    if unknown:
        raise DataError(f"data.columns: expected the name of a role, got {unknown[0]!r}; {suggest(unknown[0], roles)}")
    raise DataError(
        f"data.columns: expected the roles of one format, got {listed(given)}; use those of one of: "
        + "; ".join(f"{name} ({', '.join(ROLES[name].all)})" for name in kinds)
    )


def _find_preference(sheet: _Sheet) -> Format | None:
    chosen = sheet.given.get("chosen") or sheet.named(("chosen",), _is_said)
    rejected = sheet.given.get("rejected") or sheet.named(("rejected",), _is_said)
    if chosen is None or rejected is None:
        return None
    instruction = sheet.named(("instruction",), _is_text)
    more = sheet.named(_INPUTS, _is_text)
    if instruction and more:
        prompt: str | None = f"{{{instruction}}}\n\n{{{more}}}"
    else:
        prompt = sheet.named(PROMPTS, _is_said)
    columns = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "system": sheet.named(_SYSTEMS, _is_text)}
    return sheet.made("preference", columns, _BY_NAME)


def _find_conversations(kind: FormatKind, key: str) -> Callable[[_Sheet], Format | None]:
    """Finds lists of messages: those with a `role` are `messages`, those with a `from` are `sharegpt`."""

    def find(sheet: _Sheet) -> Format | None:
        (role,) = ROLES[kind].required

        def is_such(column: _Column) -> bool:
            return column.kind == "turns" and (key in column.keys or sheet.kind == kind)

        such = [column.name for column in sheet.free if is_such(column)]
        column = sheet.given.get(role) or sheet.named(_CONVERSATIONS, is_such) or (such[0] if len(such) == 1 else None)
        if column is None:
            return None
        # With a conversation under `prompt` the answer stands in a column of its own.
        if column not in sheet.given.values() and sheet.column(column).word == "prompt":
            return None
        return sheet.made(kind, {role: column, "system": sheet.named(_SYSTEMS, _is_text)}, "lists of messages")

    return find


def _find_alpaca(sheet: _Sheet) -> Format | None:
    columns = {
        "instruction": sheet.named(("instruction",), _is_text),
        "input": sheet.named(_INPUTS, _is_text),
        "output": sheet.named(("output", "outputs", "response", "completion", "answer", "target"), _is_learnable),
        "system": sheet.named(_SYSTEMS, _is_text),
    }
    return _if_complete(sheet, "alpaca", columns, _BY_NAME)


def _find_prompts(sheet: _Sheet) -> Format | None:
    translation = sheet.named(("translation",), lambda column: column.kind == "mapping")
    if translation and (found := _translation(sheet, translation)) is not None:
        return found
    prompt = None if "prompt" in sheet.given else sheet.named(PROMPTS, _is_said)
    completion = None if "completion" in sheet.given else sheet.named(COMPLETIONS, _is_answer, without=prompt)
    if completion is None and "completion" not in sheet.given:  # `code` and `query` may be either
        completion = sheet.named(COMPLETIONS, _is_answer)
        prompt = prompt and sheet.named(PROMPTS, _is_said, without=completion)
    if prompt is not None and sheet.column(prompt).word in _ASKING:
        prompt = _with_context(sheet, prompt, completion)
    if completion is not None and sheet.column(completion).kind == "mapping":
        completion = _answer_parts(sheet.column(completion))[0]
    columns = {"prompt": prompt, "completion": completion, "system": sheet.named(_SYSTEMS, _is_text)}
    return _if_complete(sheet, "prompt_completion", columns, _BY_NAME)


def _translation(sheet: _Sheet, column: str) -> Format | None:
    parts = [name for name in sheet.table.all_columns if name.startswith(f"{column}.")]
    languages = [name for name in parts if _LANGUAGE.fullmatch(name.removeprefix(f"{column}."))]
    if len(languages) < 2 or not all(sheet.column(name).kind == "text" for name in languages):
        return None
    columns = {"prompt": languages[0], "completion": languages[1]}
    return sheet.made("prompt_completion", columns, "a translation, in the order of the languages")


def _with_context(sheet: _Sheet, prompt: str, completion: str | None) -> str:
    """The template of a question below the text it is about, if there is such a text."""
    context = sheet.named(_CONTEXTS, lambda column: column.kind == "text" and column.name not in (prompt, completion))
    if context is None or "{" in context + prompt:
        return prompt
    return f"{{{context}}}\n\n{{{prompt}}}"


def _find_labels(sheet: _Sheet) -> Format | None:
    name = sheet.given.get("label_name") or sheet.named(_LABEL_NAMES, _is_text)
    label = sheet.given.get("label") or sheet.named(_LABELS, _is_learnable) or name
    if label is None:
        return None
    columns = {"text": _labelled_text(sheet, (label, name)), "label": label, "label_name": name}
    return _if_complete(sheet, "text_label", columns, _BY_NAME)


def _labelled_text(sheet: _Sheet, taken: Sequence[str | None]) -> str | None:
    if "text" in sheet.given:
        return sheet.given["text"]
    texts = sheet.texts(without=taken)
    plain = sheet.named(("text",), lambda column: column.kind == "text")
    if plain is not None or len(texts) == 1:
        return plain or texts[0].name
    if not texts:
        return sheet.named(_TEXTS, _is_text)
    # Two sentences, a title and its text: the class belongs to all of them together.
    return "\n".join(f"{column.name}: {{{column.name}}}" for column in texts) if len(texts) <= 3 else None


def _find_text(sheet: _Sheet) -> Format | None:
    return _if_complete(sheet, "text", {"text": sheet.named(_PLAIN_TEXTS, _is_text)}, _BY_NAME)


def _guess_completion(sheet: _Sheet) -> Format | None:
    texts = sheet.texts()
    if sheet.given:  # one of the two is known
        other = texts[0].name if len(texts) == 1 else None
        return _if_complete(sheet, "prompt_completion", {"prompt": other, "completion": other}, "the other text")
    if len(texts) != 2:
        return None
    first, second = texts
    if first.repeats != second.repeats:
        text, label = (second, first) if first.repeats else (first, second)
        return sheet.made("text_label", {"text": text.name, "label": label.name}, f"{label.name!r} has few values")
    columns = {"prompt": first.name, "completion": second.name}
    return sheet.made("prompt_completion", columns, "a guess from the order of the two texts")


def _guess_text(sheet: _Sheet) -> Format | None:
    texts = sheet.texts()
    if len(texts) != 1:
        return None
    few = [column for column in sheet.free if column.kind in ("number", "truth") and column.repeats]
    few = [column for column in few if not column.is_constant and not column.is_identifier]
    if len(few) == 1 and not sheet.given:
        columns = {"text": texts[0].name, "label": few[0].name}
        return sheet.made("text_label", columns, f"{few[0].name!r} has few values")
    return _if_complete(sheet, "text", {"text": texts[0].name}, "the only column with text")


def _if_complete(sheet: _Sheet, kind: FormatKind, columns: Mapping[str, str | None], why: str) -> Format | None:
    wanted = {**columns, **sheet.given}
    complete = all(wanted.get(role) is not None for role in ROLES[kind].required)
    return sheet.made(kind, columns, why) if complete else None


_FINDERS: Sequence[tuple[FormatKind, Callable[[_Sheet], Format | None]]] = (
    ("preference", _find_preference),
    ("messages", _find_conversations("messages", "role")),
    ("sharegpt", _find_conversations("sharegpt", "from")),
    ("alpaca", _find_alpaca),
    ("prompt_completion", _find_prompts),
    ("text_label", _find_labels),
    ("text", _find_text),
    ("prompt_completion", _guess_completion),
    ("text", _guess_text),
)


def _is_text(column: _Column) -> bool:
    return column.kind == "text"


def _is_said(column: _Column) -> bool:
    return column.kind in ("text", "turns")


def _is_learnable(column: _Column) -> bool:
    return column.is_learnable


def _is_answer(column: _Column) -> bool:
    """Also a mapping that has it inside, as in reading comprehension sets. Not the few numbers of a `target`."""
    if column.word in _LABELS and column.kind in ("number", "truth") and column.repeats:
        return False
    return column.is_learnable or column.kind == "turns" or bool(_answer_parts(column))


def _answer_parts(column: _Column) -> list[str]:
    """The parts of a mapping that hold an answer: `text` in SQuAD, `value` in TriviaQA."""
    value = column.example if column.kind == "mapping" else None
    return [f"{column.name}.{part}" for part in ("text", "value") if isinstance(value, dict) and part in value]


def _with_classes(table: Table, form: Format) -> Format:
    """The names of the classes, from the source or the labels.json beside it, and which of them a prompt lists."""
    label = form.columns["label"]
    if "label_name" in form.columns or "{" in label:
        label = form.columns.get("label_name", label)
        values = list(_values(table, label)) if label in table.all_columns else []
        return replace(form, choices=_few(values))
    values = list(_values(table, label))
    names = table.class_names.get(label, ())
    numbers = all(isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) for value in values)
    if not names and numbers and table.path is not None:
        names = names_beside(table.path)
    if names:
        return replace(form, class_names=names, choices=names if len(names) <= MAX_LISTED_CLASSES else ())
    return replace(form, choices=_few(values))


def _values(table: Table, column: str) -> Iterator[object]:
    for record in table.records:
        value = value_of(record, column)
        yield from value if isinstance(value, list) else () if value is None else (value,)


def _few(values: Sequence[object]) -> tuple[str, ...]:
    names = {str(value).lower() if isinstance(value, bool) else str(value) for value in values}
    if len(names) > MAX_LISTED_CLASSES:
        return ()
    return tuple(sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (0, name)))


def _unclear(sheet: _Sheet, kinds: Sequence[FormatKind]) -> DataError:
    kind = sheet.kind
    shown = "; ".join(f"{name!r}: {_shortened(sheet.column(name).example)}" for name in sheet.table.columns)
    names = [column.name for column in sheet.texts()] or list(sheet.table.columns) or ["..."]
    if sheet.choices is not None:
        names = [names[0], sheet.choices, sheet.named((*COMPLETIONS, *_LABELS), _is_learnable) or "..."]
    if kind == "auto" or kind == "prompt_completion":
        last = names[-1] if len(names) > 1 else "..."
        first = f"{{{names[0]}}}\n\n{{{names[1]}}}" if len(names) > 2 else names[0]
        examples = [{"prompt": first, "completion": last}]
        if kind == "auto":
            examples.append({"text": names[0]})
    else:
        examples = [{role: names[min(place, len(names) - 1)] for place, role in enumerate(ROLES[kinds[0]].required)}]
    wanted = "columns that are known" if kind == "auto" else f"the columns of the format {kind}"
    return DataError(
        f"{sheet.table.origin}: expected {wanted}, got {shown or 'none'}; say under data: what they mean, as in "
        + " or ".join(columns_line(example) for example in examples)
    )


def _shortened(value: object) -> str:
    if isinstance(value, list | dict):
        text = f"{type_word(value)} {value!r}"
    else:
        text = "nothing" if value is None else repr(value)
    return text if len(text) <= 50 else text[:47] + "..."
