"""The parts that a report is made of, on a terminal and as Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]<>|])")


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences and a table below it; `narrow` takes the place of a table that does not fit."""

    title: str
    sentences: tuple[str, ...] = ()
    table: Table | None = None
    narrow: Table | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.sentences and (self.table is None or not self.table.row_count)

    def fitting_table(self, width: int) -> Table | None:
        """The table for so many characters."""
        fits = self.table is None or Console(width=10_000).measure(self.table).maximum <= width
        return self.table if fits or self.narrow is None else self.narrow

    @property
    def markdown(self) -> str:
        """The section as Markdown."""
        parts = [f"## {self.title}"]
        if self.sentences:
            parts.append("\n".join(f"- {escaped(sentence)}" for sentence in self.sentences))
        if self.table is not None and self.table.row_count:
            parts.append(_markdown_table(self.table))
        return "\n\n".join(parts)


def counted(count: int, noun: str) -> str:
    """1 trial, 2 trials."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def escaped(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", text.replace("\n", " "))


def fenced(text: str) -> str:
    """A code block; its fence is longer than any inside."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _markdown_table(table: Table) -> str:
    lines = [[str(column.header).replace("\n", " ") for column in table.columns]]
    lines.append(["---" if column.justify == "left" else "---:" for column in table.columns])
    lines += [[escaped(str(cell)) for cell in row] for row in zip(*(c.cells for c in table.columns), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
