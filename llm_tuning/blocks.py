"""Long texts cut into blocks, where paragraphs or lines end."""

from __future__ import annotations

import re

BLOCK_CHARACTERS = 2000

_BREAKS = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s"), re.compile(r"\s"))


def cut_into_blocks(text: str, characters: int = BLOCK_CHARACTERS) -> list[str]:
    """Cut a text into blocks of at most `characters`, which joined give the text back.

    A block ends after the last paragraph that fits and fills at least half of it; else after the last line,
    sentence or word that does so; else anywhere.
    """
    blocks = []
    start = 0
    while len(text) - start > characters:
        end = _end_of_block(text, start, characters)
        blocks.append(text[start:end])
        start = end
    if start < len(text):
        blocks.append(text[start:])
    return blocks


def _end_of_block(text: str, start: int, characters: int) -> int:
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, start + characters // 2, start + characters)]
        if ends:
            return ends[-1]
    return start + characters
