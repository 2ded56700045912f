"""The final report of a study: for a person, as Markdown, and as data."""

from __future__ import annotations

import json
import os
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
from controller.limits import Limits
from controller.pareto import front_of
from controller.trial import Trial
from thresher.bootstrap import on_test_set
from thresher.budget_use import budget_use
from thresher.budget_use import sentence as sentence_of
from thresher.comparison import Comparison, TestScore, label_of, plain_data
from thresher.conclusions import conclusions, estimate, estimates_sentences
from thresher.effort import effort_of, effort_sentences, failure_sentences, failures_to_json
from thresher.leaderboard import ABSENT, leaderboard_section, param_cells, trade_offs_section
from thresher.section import Section, escaped, fenced
from thresher.touched import TestUses
from thresher.wording import printable, table_of


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
            if table is not None and table.row_count:
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
        parts = ["# Study report", *(section.markdown for section in self.sections)]
        for number, (prompt, answers) in enumerate(self.answers, 1):
            parts += [f"## Test prompt {number}", fenced(prompt)]
            for who, text in answers.items():
                parts += [f"**{escaped(who)}**", fenced(text)]
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
    max_trials: int | None = None,
    limits: Limits | None = None,
    wall_seconds: float | None = None,
    active_seconds: float | None = None,
    test_uses: TestUses | None = None,
    test_data: str | None = None,
    notes: Sequence[str] = (),
    prompts: Sequence[tuple[str, str]] = (),
    limit: int = 10,
) -> FinalReport:
    """The report of a study that is over.

    Args:
        names: the parameters that were searched.
        max_trials: how many trials the search could start.
        limits: what else bounded the search.
        wall_seconds: from the start of the study to its end, pauses included, if that is known.
        active_seconds: without the pauses, see `controller.limits.active_seconds`.
        test_uses: when the test set was used, see `thresher.touched.uses_of_test_set`.
        test_data: hash of the data, so that studies on the same test set can be told.
        notes: what else the reader should know; the journal's own notes are added.
        prompts: (prompt, reference answer) of the first test examples, in the order of `Report.generations`.
        limit: how many trials of the leaderboard are shown.
    """
    effort = effort_of(history, wall_seconds, active_seconds)
    limits = limits or Limits()
    uses = budget_use(history, limits, max_trials=max_trials, seconds=active_seconds or 0.0)
    uses = [use for use in uses if use.what != "hours" or active_seconds is not None]
    noted = [f"trial {history.jobs[note.job_id].trial_id}: {note.text}" for note in history.notes]
    remarks = tuple(dict.fromkeys(" ".join(printable(text).split()) for text in [*notes, *noted]))
    answers = _answers(comparison, prompts)
    sections = (
        Section("Result", tuple(conclusions(comparison))),
        Section("Search", (f"Budget used: {sentence_of(uses)}.", *effort_sentences(effort))),
        leaderboard_section(history, names, limit),
        trade_offs_section(history, names),
        Section("Finalists on validation", estimates_sentences(comparison), _finalists_table(comparison)),
        Section("Test set", _test_sentences(comparison, test_uses), _test_table(comparison)),
        Section("All test metrics", (), _metrics_table(comparison)),
        Section("Configuration", (), _configuration_table(history, comparison, names)),
        Section("Failures", failure_sentences(history)),
        Section("Notes", (*comparison.gaps, *remarks)),
    )
    used = [{"what": use.what, "used": use.used, "limit": use.limit} for use in uses]
    data = {
        **_study_to_json(history, comparison),
        "budget": {"max_trials": max_trials, "limits": asdict(limits), "used": used},
        "effort": effort,
        "test_set": {"data": test_data, **({} if test_uses is None else test_uses.to_json())},
        "notes": remarks,
        "generations": [{"prompt": prompt, "answers": texts} for prompt, texts in answers],
    }
    return FinalReport(tuple(section for section in sections if not section.is_empty), answers, plain_data(data))


def _finalists_table(comparison: Comparison) -> Table:
    others = [objective.metric for objective in comparison.objectives[1:]]
    table = table_of("#", "<configuration", f"{comparison.metric} [95 %]", "found with", "<repeats", *others)
    for rank, contender in enumerate(comparison.contenders, 1):
        losses = [f"{comparison.value(loss):z.4f}" for loss in contender.losses]
        mean = estimate(comparison, contender.mean, contender.interval)
        cells = (str(rank), label_of(contender.trial_id), mean, losses[0], ", ".join(losses[1:]) or ABSENT)
        values = [f"{contender.values[metric]:z.4f}" for metric in others]
        table.add_row(*map(Text, (*cells, *values)), style="green" if rank == 1 else None)
    return table


def _test_sentences(comparison: Comparison, uses: TestUses | None) -> tuple[str, ...]:
    scores = [contender.test for contender in comparison.contenders]
    sentences = () if uses is None else (uses.sentence,)
    if not any(scores):
        return sentences if uses is not None and uses.uses else ()
    metric, better = on_test_set(comparison.objectives[0]).metric, "below" if comparison.sign == 1 else "above"
    return (
        *sentences,
        f"Differences are the winner's {metric} minus the other's: {better} 0 the winner is better.",
        "Means are over the repeats, where there are some. Intervals are over the examples and the seeds, and not "
        "corrected for the number of comparisons.",
    )


def _test_table(comparison: Comparison) -> Table:
    metric = on_test_set(comparison.objectives[0]).metric
    table = table_of("<model", f"{metric} [95 %]", "difference [95 %]", "<winner_is")
    differences = {difference.trial_id: difference for difference in comparison.differences}
    for trial_id, score in _scores(comparison):
        wins = comparison.winner is not None and trial_id == comparison.winner.trial_id
        difference = differences.get(trial_id)
        cells = (
            label_of(trial_id) + (", winner" if wins else ""),
            estimate(comparison, score.loss, score.interval),
            estimate(comparison, difference.value, difference.interval, "+z.4f") if difference else "",
            (difference.verdict or "unknown") if difference else "",
        )
        table.add_row(*map(Text, cells), style="green" if wins else None)
    return table


def _metrics_table(comparison: Comparison) -> Table | None:
    """Everything that was measured on the test set, since the objective is not always what counts in the end."""
    scores = _scores(comparison)
    names = list(dict.fromkeys(name for _, score in scores for name in score.metrics if name.startswith("test_")))
    if len(names) < 2:
        return None
    table = table_of("<model", "runs", *names)
    for trial_id, score in scores:
        cells = [f"{score.metrics[name]:z.4f}" if name in score.metrics else ABSENT for name in names]
        table.add_row(*map(Text, (label_of(trial_id), str(score.runs), *cells)))
    return table


def _scores(comparison: Comparison) -> list[tuple[int | None, TestScore]]:
    """What was tested: the base model, the default, then the finalists, best on validation first."""
    default_first = sorted(comparison.contenders, key=lambda contender: contender.trial_id != DEFAULT_TRIAL)
    scores = [(None, comparison.base), *((contender.trial_id, contender.test) for contender in default_first)]
    return [(trial_id, score) for trial_id, score in scores if score is not None]


def _configuration_table(history: History, comparison: Comparison, names: Sequence[str]) -> Table:
    table = table_of("<parameter", "default", "winner")
    if comparison.winner is not None:
        default = param_cells(history.trials[DEFAULT_TRIAL].params, names)
        winner = param_cells(comparison.winner.params, names)
        for name, before, after in zip(names, default, winner, strict=True):
            if before != ABSENT or after != ABSENT:
                table.add_row(Text(name), Text(before), Text(after), style="dim" if before == after else None)
    return table


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


def _study_to_json(history: History, comparison: Comparison) -> dict[str, Any]:
    return {
        "objectives": [asdict(objective) for objective in history.objectives],
        "full_budget": history.horizon,
        "conclusions": conclusions(comparison),
        "comparison": comparison.to_json(),
        "trials": [_trial_to_json(history, trial) for trial in history.trials],
        "pareto_front": [trial.trial_id for trial in front_of(history)],
        "failures": failures_to_json(history),
    }


def _trial_to_json(history: History, trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.trial_id,
        "params": dict(trial.params),
        "seed": trial.seed,
        "labels": dict(trial.labels),
        "source": None if trial.source is None else {"kind": type(trial.source).__name__, **asdict(trial.source)},
        "repeat_of": trial.repeat_of,
        "status": trial.status(history.horizon).value,
        "metrics": {str(budget): dict(report.metrics) for budget, report in trial.reports.items()},
        "tests": {str(budget): dict(report.metrics) for budget, report in trial.tests.items()},
        "seconds": trial.seconds,
        "failure": None if trial.failure is None else asdict(trial.failure),
    }


def _shortened(text: str, max_lines: int) -> str:
    lines = printable(text.strip()).splitlines()
    return "\n".join(lines[:max_lines] + ["…"] * (len(lines) > max_lines))
