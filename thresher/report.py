"""What a person reads about a study: the leaderboard at any time, the final report at the end."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from controller.finalists import DEFAULT_TRIAL
from controller.history import History
from controller.trial import Continue, Status, Trial
from thresher.comparison import Comparison, Difference, Interval, label_of, plain_data
from thresher.progress import (
    failure_sentence,
    format_duration,
    format_value,
    origin_of,
    printable,
    short_names,
    shown,
    table_of,
)

MAX_FAILURES_SHOWN = 5

_STYLES = {Status.FAILED: "red", Status.RUNNING: "cyan", Status.COMPLETE: "green"}
_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]<>|])")
_TEST_SENTENCES = (
    "Differences are the winner's loss minus the other's. Intervals are not corrected for the number of comparisons.",
    "The runs of a finalist include the one that it was chosen by, which favours it a little over the default.",
)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences and a table below it; `narrow` takes the place of a table that does not fit."""

    title: str
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    narrow: Table | None = None

    def fitting_table(self, width: int) -> Table | None:
        """The table for so many characters."""
        fits = self.table is None or Console(width=10_000).measure(self.table).maximum <= width
        return self.table if fits or self.narrow is None else self.narrow


@dataclass(frozen=True, slots=True)
class FinalReport:
    """The report of a finished study. Printing it on a rich Console shows it.

    Attributes:
        answers: (prompt, {who: answer}) of some test prompts, the reference answer first.
        data: all of it as plain data, with every number in full.
    """

    sections: tuple[Section, ...]
    answers: tuple[tuple[str, Mapping[str, str]], ...]
    data: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for section in self.sections:
            yield Text(section.title, style="bold cyan")
            sentences = Table.grid(padding=(0, 1, 0, 0))
            for sentence in section.sentences:
                sentences.add_row("-", Text(sentence))
            yield Padding(sentences, (0, 0, 0, 2), expand=False)
            table = section.fitting_table(options.max_width - 2)
            if table is not None:
                yield Padding(table, (1 if section.sentences else 0, 0, 0, 2), expand=False)
            yield Text()
        for number, (prompt, answers) in enumerate(self.answers, 1):
            yield Text(f"Test prompt {number}", style="bold cyan")
            yield Padding(Text(_shortened(prompt, 12), style="dim"), (0, 0, 1, 2), expand=False)
            table = Table.grid(padding=(0, 2, 0, 0))
            for who, text in answers.items():
                table.add_row(Text(who, style="bold", no_wrap=True), Text(_shortened(text, 8)))
            yield Padding(table, (0, 0, 1, 2), expand=False)

    @property
    def markdown(self) -> str:
        """The report as Markdown."""
        parts = ["# Study report"]
        for section in self.sections:
            parts.append(f"## {section.title}")
            if section.sentences:
                parts.append("\n".join(f"- {_escaped(sentence)}" for sentence in section.sentences))
            if section.table is not None:
                parts.append(_markdown_table(section.table))
        for number, (prompt, answers) in enumerate(self.answers, 1):
            parts += [f"## Test prompt {number}", _fenced(prompt)]
            for who, text in answers.items():
                parts += [f"**{_escaped(who)}**", _fenced(text)]
        return "\n\n".join(parts) + "\n"

    def write(self, directory: Path) -> None:
        """Write report.md and report.json into a directory, each whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        for name, text in (("report.md", self.markdown), ("report.json", content)):
            unfinished = directory / f".{name}.unfinished"
            with unfinished.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(directory / name)


def final_report(
    history: History,
    comparison: Comparison,
    *,
    names: Sequence[str],
    wall_seconds: float | None = None,
    notes: Sequence[str] = (),
    prompts: Sequence[tuple[str, str]] = (),
    limit: int = 10,
    budget_unit: str = "examples",
) -> FinalReport:
    """The report of a study that is over.

    Args:
        names: the parameters that were searched.
        wall_seconds: from the start of the study to its end, pauses included, if that is known.
        notes: what else the reader should know; the journal's own notes are added.
        prompts: (prompt, reference answer) of the first test examples, in the order of `Report.generations`.
        limit: how many trials of the leaderboard are shown.
    """
    effort = _effort(history, wall_seconds)
    noted = [f"trial {history.jobs[note.job_id].trial_id}: {note.text}" for note in history.notes]
    remarks = tuple(dict.fromkeys(" ".join(printable(text).split()) for text in [*notes, *noted]))
    answers = _answers(comparison, prompts)
    sections = [
        Section("Result", tuple(conclusions(comparison))),
        Section("Search", _effort_sentences(effort, budget_unit)),
        _board(history, names, limit, budget_unit),
        Section("Finalists on validation", (), _finalists_table(comparison)),
        Section("Test set", _TEST_SENTENCES, _test_table(comparison)),
        Section("Configuration", (), _configuration_table(history, comparison, names)),
        Section("Notes", (*comparison.gaps, *remarks)),
    ]
    data = {
        "objective": asdict(history.objectives[0]),
        "full_budget": history.horizon,
        "budget_unit": budget_unit,
        "conclusions": conclusions(comparison),
        "effort": effort,
        "comparison": comparison.to_json(),
        "trials": [_trial_to_json(history, trial) for trial in history.trials],
        "notes": remarks,
        "generations": [{"prompt": prompt, "answers": texts} for prompt, texts in answers],
    }
    full = (section for section in sections if (section.table.row_count if section.table else section.sentences))
    return FinalReport(tuple(full), answers, plain_data(data))


def leaderboard(history: History, *, names: Sequence[str], limit: int = 20, width: int | None = None) -> Table:
    """The trials of a study, best first: those of the highest budget before those of the next, then the failed.

    Losses at different budgets do not compare, so a line separates them. Repeats of finalists are left out.

    Args:
        names: the parameters to show.
        limit: how many trials are shown, failed ones not counted.
        width: characters at hand, by default those of the terminal. Where a column for each parameter does not
            fit, they share one.
    """
    board = _board(history, names, limit, "examples")
    table = board.fitting_table(width or Console().width) or Table()
    table.caption = Text("\n".join(board.sentences)) if board.sentences else None
    table.caption_justify = "left"
    return table


def conclusions(comparison: Comparison) -> list[str]:
    """What the comparison comes to, in sentences."""
    winner, sign, metric = comparison.winner, comparison.sign, comparison.metric
    if winner is None:
        return ["There is no winner."]
    mean = f"{metric} {_mean_and_error(sign * winner.mean, winner.standard_error)}"
    sentences = [f"The winner is {_the(winner.trial_id)}: {mean} over {_counted(len(winner.losses), 'run')}."]
    if winner.trial_id == DEFAULT_TRIAL:
        sentences.append("The search found nothing better than the default configuration.")
    if comparison.ties and any(len(contender.losses) > 1 for contender in comparison.contenders):
        tied = " and ".join(map(_the, comparison.ties))
        sentences.append(f"On validation it is tied with {tied}: no more than two standard errors apart.")
    sentences += map(_difference_sentence, comparison.differences)
    selection = comparison.selection
    if selection is not None:
        luck = f"about {-selection.value:.4f} of its lead was selection"
        sentences.append(
            f"It had {sign * selection.found:.4f} on the run it was chosen by and {sign * selection.repeated:.4f} "
            f"in its repeats: {luck if selection.value < 0 else 'no sign that the choice flattered it'}."
        )
        if selection.default_found is not None and selection.default_repeated is not None:
            leads = selection.default_found - selection.found, selection.default_repeated - selection.repeated
            sentences.append(
                f"Its lead over the default was {leads[0]:.4f} on that run and {leads[1]:.4f} in the repeats."
            )
    return sentences


def _difference_sentence(difference: Difference) -> str:
    them, verdict = _the(difference.trial_id), difference.verdict
    if difference.interval is None or verdict is None:
        return f"On the test set it differs from {them} by {difference.value:+.4f}, with no interval to judge that by."
    by = _estimate(difference.value, difference.interval, "+.4f")
    words = f"tied with {them}: the difference {by} may be 0" if verdict == "tie" else f"{verdict} than {them}: {by}"
    return f"On the test set it is {words}."


def _the(trial_id: int | None) -> str:
    return label_of(trial_id) if trial_id else f"the {label_of(trial_id)}"


def _board(history: History, names: Sequence[str], limit: int, budget_unit: str) -> Section:
    trials = [trial for trial in history.trials if trial.repeat_of is None]
    failed = [trial for trial in trials if trial.failure is not None]
    ranked = sorted((trial for trial in trials if trial.failure is None), key=lambda trial: _order(history, trial))
    first = ("#", "trial", "<origin", "<status", budget_unit, history.objectives[0].metric)
    short = short_names(names)
    wide, narrow = table_of(*first, *short, "time"), table_of(*first, "<" + " ".join(short), "time")
    listed = ranked[:limit] + failed[:MAX_FAILURES_SHOWN]
    for position, trial in enumerate(listed):
        status = trial.status(history.horizon)
        rank = str(position + 1) if trial.reports and trial.failure is None else "–"
        loss = shown(history, history.loss(trial.trial_id, trial.budget)) if trial.reports else "–"
        budget, duration = f"{trial.budget}/{history.horizon}", format_duration(_seconds(trial))
        standing = (rank, str(trial.trial_id), origin_of(trial), status.value, budget, loss)
        values = [format_value(trial.params.get(name, "–")) for name in names]
        ends = position + 1 < len(listed) and _order(history, trial)[:2] != _order(history, listed[position + 1])[:2]
        for table, cells in ((wide, values), (narrow, [" ".join(values)])):
            table.add_row(*map(Text, (*standing, *cells, duration)), style=_STYLES.get(status), end_section=ends)
    failures = [trial.failure for trial in failed if trial.failure is not None]
    sentences = [failure_sentence(history, failure, budget_unit) for failure in failures[:MAX_FAILURES_SHOWN]]
    hidden = {"more trial": len(ranked) - limit, "more failed trial": len(failed) - MAX_FAILURES_SHOWN}
    sentences += [f"{_counted(count, what)} not shown" for what, count in hidden.items() if count > 0]
    return Section("Trials", tuple(sentences), wide, narrow)


def _order(history: History, trial: Trial) -> tuple[bool, int, float, int]:
    """Where a trial stands: failed ones last, the highest budget first, then by loss."""
    budget, loss = (trial.budget, history.loss(trial.trial_id, trial.budget)) if trial.reports else (0, 0.0)
    return trial.failure is not None, -budget, loss, trial.trial_id


def _finalists_table(comparison: Comparison) -> Table:
    table = table_of("#", "<configuration", comparison.metric, "runs", "chosen by", "<repeats")
    for rank, contender in enumerate(comparison.contenders, 1):
        losses = [f"{comparison.sign * loss:.4f}" for loss in contender.losses]
        mean = _mean_and_error(comparison.sign * contender.mean, contender.standard_error)
        cells = (str(rank), label_of(contender.trial_id), mean, str(len(losses)), losses[0], ", ".join(losses[1:]))
        table.add_row(*map(Text, cells), style="green" if rank == 1 else None)
    return table


def _test_table(comparison: Comparison) -> Table:
    table = table_of("<model", "loss [95 % interval]", "difference [95 % interval]", "<winner_is")
    differences = {difference.trial_id: difference for difference in comparison.differences}
    default_first = sorted(comparison.contenders, key=lambda contender: contender.trial_id != DEFAULT_TRIAL)
    scores = [(None, comparison.base), *((contender.trial_id, contender.test) for contender in default_first)]
    for trial_id, score in ((trial_id, score) for trial_id, score in scores if score is not None):
        wins = comparison.winner is not None and trial_id == comparison.winner.trial_id
        difference = differences.get(trial_id)
        cells = (
            label_of(trial_id) + (", winner" if wins else ""),
            _estimate(score.loss, score.interval, ".4f"),
            _estimate(difference.value, difference.interval, "+.4f") if difference else "",
            (difference.verdict or "unknown") if difference else "",
        )
        table.add_row(*map(Text, cells), style="green" if wins else None)
    return table


def _configuration_table(history: History, comparison: Comparison, names: Sequence[str]) -> Table:
    table = table_of("<parameter", "default", "winner")
    if comparison.winner is not None:
        default = history.trials[DEFAULT_TRIAL].params
        for name in names:
            before, after = (format_value(params.get(name, "–")) for params in (default, comparison.winner.params))
            table.add_row(Text(name), Text(before), Text(after), style="dim" if before == after else None)
    return table


def _effort(history: History, wall_seconds: float | None) -> dict[str, Any]:
    """What the study cost. Training that a lost checkpoint made necessary again is in the notes, not in here."""
    search = [trial for trial in history.trials if trial.repeat_of is None]
    repeats = [trial for trial in history.trials if trial.repeat_of is not None]
    failures = [trial.failure for trial in history.trials if trial.failure is not None]
    tests = sum(report.seconds for trial in history.trials for report in trial.tests.values())
    return {
        "trials": len(search),
        "repeats": len(repeats),
        "jobs": len(history.jobs),
        "failures": dict(Counter(failure.kind.value for failure in failures)),
        "retried": sum(map(len, history.failed_attempts.values())),
        "search_budget": sum(map(_consumed, search)),
        "search_budget_without_early_stopping": len(search) * history.horizon,
        "repeats_budget": sum(map(_consumed, repeats)),
        "worker_seconds": tests + sum(map(_seconds, history.trials)),
        "wall_seconds": wall_seconds,
    }


def _seconds(trial: Trial) -> float:
    return trial.seconds + (trial.failure.seconds if trial.failure else 0.0)


def _consumed(trial: Trial) -> int:
    """The budget that a trial was trained for by itself, without what it took over from another."""
    start = trial.source.budget if isinstance(trial.source, Continue) else 0
    reached = [report.budget for report in trial.reports.values()] + [trial.failure.budget if trial.failure else 0]
    return max(0, max(reached) - start)


def _effort_sentences(effort: Mapping[str, Any], budget_unit: str) -> tuple[str, ...]:
    spent, full = effort["search_budget"], effort["search_budget_without_early_stopping"]
    failed = ", ".join(f"{count} {kind}" for kind, count in effort["failures"].items()) or "none"
    clock = "" if effort["wall_seconds"] is None else f"{format_duration(effort['wall_seconds'])} from first to last, "
    return (
        f"{_counted(effort['trials'], 'trial')} and {_counted(effort['repeats'], 'repeat')} of finalists, in "
        f"{_counted(effort['jobs'], 'job')}; failed: {failed}; tried again: {effort['retried']}.",
        f"The search trained on {spent:,} {budget_unit}, {spent / full if full else 0:.0%} of the {full:,} of "
        f"{_counted(effort['trials'], 'full training')}; the repeats on {effort['repeats_budget']:,} more.",
        f"It took {clock}{format_duration(effort['worker_seconds'])} of worker time.",
    )


def _answers(comparison: Comparison, prompts: Sequence[tuple[str, str]]) -> tuple[tuple[str, Mapping[str, str]], ...]:
    texts = {label_of(None): comparison.base.generations if comparison.base is not None else ()}
    for contender in comparison.contenders:
        wins = contender is comparison.winner
        if contender.test is not None and (wins or contender.trial_id == DEFAULT_TRIAL):
            texts[label_of(contender.trial_id) + (", winner" if wins else "")] = contender.test.generations
    found = []
    for place, (prompt, reference) in enumerate(prompts):
        answers = {who: generations[place] for who, generations in texts.items() if place < len(generations)}
        if answers:
            found.append((prompt, {"reference": reference, **answers}))
    return tuple(found)


def _trial_to_json(history: History, trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.trial_id,
        "params": dict(trial.params),
        "labels": dict(trial.labels),
        "repeat_of": trial.repeat_of,
        "status": trial.status(history.horizon).value,
        "metrics": {str(budget): dict(report.metrics) for budget, report in trial.reports.items()},
        "seconds": trial.seconds,
        "failure": None if trial.failure is None else asdict(trial.failure),
    }


def _markdown_table(table: Table) -> str:
    lines = [[str(column.header).replace("\n", " ") for column in table.columns]]
    lines.append(["---" if column.justify == "left" else "---:" for column in table.columns])
    lines += [[_escaped(str(cell)) for cell in row] for row in zip(*(c.cells for c in table.columns), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _estimate(value: float, interval: Interval | None, form: str) -> str:
    return f"{value:{form}}" + (f" [{interval.low:{form}}, {interval.high:{form}}]" if interval is not None else "")


def _mean_and_error(mean: float, error: float) -> str:
    return f"{mean:.4f} ± {error:.4f}" if math.isfinite(error) else f"{mean:.4f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _escaped(text: str) -> str:
    return _MARKDOWN_SIGNS.sub(r"\\\1", text.replace("\n", " "))


def _fenced(text: str) -> str:
    """A code block; its fence is longer than any inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _shortened(text: str, max_lines: int) -> str:
    lines = printable(text.strip()).splitlines()
    return "\n".join(lines[:max_lines] + ["…"] * (len(lines) > max_lines))
