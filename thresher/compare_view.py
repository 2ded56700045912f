"""Studies side by side: what they were asked, what won, and which winner does better on the same test set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controller.intervals import Interval, Verdict, pooled_deviation
from controller.trial import Objective, Report
from thresher.bootstrap import are_paired, bootstrap, on_test_set, percentile_interval, sample_of
from thresher.record import RecordError, StudyRecord, Winner
from thresher.section import counted
from thresher.wording import format_value, table_of

ABSENT = "–"
SEED = 0
"""Of the bootstrap: a comparison of the same studies gives the same interval."""


@dataclass(frozen=True, slots=True)
class TestDifference:
    """Test loss of the first study's winner minus that of another study's, in terms of lower is better.

    Attributes:
        value: None where the two cannot be compared.
        interval: paired over the examples, and with the spread between seeds where that is known.
        reason: why there is no value, or no interval.
    """

    __test__ = False  # not a test case, whatever a test runner makes of the name
    value: float | None = None
    interval: Interval | None = None
    reason: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """'better' or 'worse' for the first study's winner, 'tie' if the interval contains 0."""
        return None if self.interval is None else self.interval.verdict


@dataclass(frozen=True, slots=True)
class StudiesCompared:
    """Two studies or more.

    Attributes:
        settings: what differs between the configs: a dotted name, and its value in each study.
        winners: of each study; None where nothing was measured yet, for the reason in `gaps`.
        validation: why values on validation are, or are not, comparable.
        tests: the first study's winner against that of each other.
        gaps: what is missing.
    """

    records: tuple[StudyRecord, ...]
    settings: Mapping[str, tuple[Any, ...]]
    winners: tuple[Winner | None, ...]
    validation: str
    tests: tuple[TestDifference, ...]
    gaps: tuple[str, ...]


def compare_studies(records: Sequence[StudyRecord]) -> StudiesCompared:
    """Hold two studies or more against each other. Raises RecordError for fewer."""
    if len(records) < 2:
        raise RecordError(f"expected at least two studies, got {len(records)}; name another directory")
    winners: list[Winner | None] = []
    gaps = []
    for record in records:
        try:
            winners.append(record.winner())
        except RecordError as error:
            winners.append(None)
            gaps.append(str(error))
    flat = [dict(_flattened(record.manifest.get("config", {}))) for record in records]
    names = dict.fromkeys(name for settings in flat for name in settings if not name.startswith("output."))
    rows = {name: tuple(settings.get(name) for settings in flat) for name in names}
    first = records[0], winners[0]
    return StudiesCompared(
        records=tuple(records),
        settings={name: values for name, values in rows.items() if any(value != values[0] for value in values)},
        winners=tuple(winners),
        validation=_validation_sentence(records, winners),
        tests=tuple(_test_difference(first, other) for other in zip(records[1:], winners[1:], strict=True)),
        gaps=tuple(gaps),
    )


def comparison_view(compared: StudiesCompared) -> RenderableType:
    """The comparison for a person."""
    labels = labels_of([record.directory for record in compared.records])
    parts: list[RenderableType] = [Text("settings that differ", style="bold")]
    if compared.settings:
        table = table_of("<setting", *(f"<{label}" for label in labels))
        for name, values in compared.settings.items():
            table.add_row(Text(name), *(Text(_shown(value)) for value in values))
        parts += [table, Text()]
    else:
        parts += [Text("none but the output"), Text()]
    parts += [Text("winners", style="bold"), _winners_table(compared, labels), Text(), Text(compared.validation)]
    for label, difference in zip(labels[1:], compared.tests, strict=True):
        parts.append(Text(_test_sentence(labels[0], label, difference)))
    return Group(*parts, *(Text(gap) for gap in compared.gaps))


def comparison_data(compared: StudiesCompared) -> dict[str, Any]:
    """The comparison as plain data."""
    pairs = zip(compared.records, compared.winners, strict=True)
    return {
        "studies": [_study_data(record, winner) for record, winner in pairs],
        "settings": {name: list(values) for name, values in compared.settings.items()},
        "validation": compared.validation,
        "tests": [
            {
                "first": str(compared.records[0].directory),
                "other": str(record.directory),
                "difference": difference.value,
                "interval": None
                if difference.interval is None
                else [difference.interval.low, difference.interval.high],
                "verdict": difference.verdict,
                "reason": difference.reason or None,
            }
            for record, difference in zip(compared.records[1:], compared.tests, strict=True)
        ],
        "gaps": list(compared.gaps),
    }


def labels_of(directories: Sequence[Path]) -> list[str]:
    """What to call studies: the last parts of their paths, as many as it takes to tell them apart."""
    parts = [directory.absolute().parts for directory in directories]
    for count in range(1, max(map(len, parts)) + 1):
        labels = [str(Path(*path[-count:])) for path in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(directory) for directory in directories]  # a study beside itself


def _winners_table(compared: StudiesCompared, labels: Sequence[str]) -> Table:
    table = table_of("<", *(f"<{label}" for label in labels))
    pairs = list(zip(compared.records, compared.winners, strict=True))

    def row(name: str, cells: Sequence[str]) -> None:
        style = "dim" if len(set(cells)) == 1 else None
        table.add_row(Text(name), *map(Text, cells), style=style)

    row("trial", [ABSENT if winner is None else str(winner.trial.trial_id) for _, winner in pairs])
    row("metric", [record.history.objectives[0].metric for record, _ in pairs])
    row("value", [ABSENT if winner is None else f"{record.value(winner.loss):.4f}" for record, winner in pairs])
    row("mean of", [ABSENT if winner is None else counted(len(winner.counted), "run") for _, winner in pairs])
    row(
        "examples",
        [ABSENT if winner is None else f"{winner.budget}/{record.history.horizon}" for record, winner in pairs],
    )
    row("trials", [str(record.history.num_started()) for record, _ in pairs])
    row("searched on", [f"{record.history.examples:,} examples" for record, _ in pairs])
    params = [{} if winner is None else record.params(winner.trial) for record, winner in pairs]
    for name in sorted({name for entry in params for name in entry}):
        row(name, [format_value(entry[name]) if name in entry else ABSENT for entry in params])
    return table


def _validation_sentence(records: Sequence[StudyRecord], winners: Sequence[Winner | None]) -> str:
    metrics = {record.history.objectives[0].metric for record in records}
    if len(metrics) > 1:
        return f"validation: the studies optimise different metrics ({', '.join(sorted(metrics))}), do not compare them"
    hashes = {_split_hash(record, "validation") for record in records}
    if None in hashes or len(hashes) > 1:
        return "validation: the studies were not measured on the same examples, do not compare their values"
    budgets = {winner.budget for winner in winners if winner is not None}
    caution = "" if len(budgets) < 2 else ", but the winners were trained on different budgets"
    return f"validation: measured on the same examples{caution}; a winner's own value is a little flattered"


def _test_difference(
    first: tuple[StudyRecord, Winner | None], other: tuple[StudyRecord, Winner | None]
) -> TestDifference:
    """The paired bootstrap over the test examples, as in the report of a study."""
    tested = []
    for record, winner in (first, other):
        reports = [] if winner is None else _test_reports(winner)
        if not reports:
            return TestDifference(reason=f"the winner of {record.directory} was not measured on a test set")
        tested.append((record, reports))
    (one, one_reports), (two, two_reports) = tested
    hashes = [_split_hash(record, "test") for record in (one, two)]
    if None in hashes or hashes[0] != hashes[1]:
        return TestDifference(reason="their test sets are not the same examples, or not tokenised the same way")
    objective = on_test_set(one.history.objectives[0])
    if objective != on_test_set(two.history.objectives[0]):
        return TestDifference(reason="the studies optimise different metrics")
    losses = [[objective.loss(report.metrics) for report in reports] for reports in (one_reports, two_reports)]
    value = _mean(losses[0]) - _mean(losses[1])
    samples = [sample_of(reports, objective) for reports in (one_reports, two_reports)]
    if samples[0] is None or samples[1] is None or not are_paired(samples[0], samples[1]):
        return TestDifference(value, reason="results by example are missing, so there is no interval")
    means = bootstrap([samples[0], samples[1]], seed=SEED, deviation=pooled_deviation(losses))
    return TestDifference(value, percentile_interval(means[:, 0] - means[:, 1]))


def _test_reports(winner: Winner) -> list[Report]:
    """Of the runs that the winner's mean is over; failing these, of any of its runs."""
    tested = [run for run in winner.runs if winner.budget in run.tests]
    chosen = [run for run in tested if run in winner.counted] or tested
    return [run.tests[winner.budget] for run in chosen]


def _test_sentence(first: str, other: str, difference: TestDifference) -> str:
    pair = f"test set, {first} against {other}"
    if difference.value is None:
        return f"{pair}: not comparable, because {difference.reason}"
    if difference.interval is None:
        return f"{pair}: loss differs by {difference.value:+.4f}; {difference.reason}"
    low, high = difference.interval.low, difference.interval.high
    verdict = "a tie, the difference may be 0" if difference.verdict == "tie" else f"{first} is {difference.verdict}"
    return f"{pair}: {verdict}; loss {difference.value:+.4f} [{low:+.4f}, {high:+.4f}], 95 %"


def _split_hash(record: StudyRecord, split: str) -> str | None:
    """The hash of a split's tokens as they lie on disk; None if they do not."""
    path = record.directory / "data" / f"{split}.safetensors"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _study_data(record: StudyRecord, winner: Winner | None) -> dict[str, Any]:
    objective: Objective = record.history.objectives[0]
    data = {
        "directory": str(record.directory),
        "metric": objective.metric,
        "direction": objective.direction,
        "full_budget": record.history.horizon,
        "trials": record.history.num_started(),
        "examples": record.history.examples,
        "winner": None,
    }
    if winner is not None:
        data["winner"] = {
            "trial": winner.trial.trial_id,
            "value": record.value(winner.loss),
            "mean_of": [run.trial_id for run in winner.counted],
            "budget": winner.budget,
            "params": record.params(winner.trial),
        }
    return data


def _flattened(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shown(value: object) -> str:
    text = ABSENT if value is None else format_value(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
