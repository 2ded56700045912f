"""What training data is made of, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class DataError(ValueError):
    """The data cannot be used as it is; the message says what was expected, what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """What the model is given, and what it should answer."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Several turns, of which the last is the assistant's. All turns of the assistant are learnt."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of which is learnt. Longer text than a model takes at once is cut into pieces.

    `continues`: the document does not end here, but goes on in another row.
    """

    text: str
    continues: bool = False


Row = Example | Conversation | Text
