"""The remedy for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: object, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: the nearest known one if any is near, else all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(map(repr, known))}"
