"""The tokens of one split: in memory one array after the other, on disk a safetensors file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_tuning.rows import DataError

_ARRAYS = ("token_ids", "offsets", "learnt")


@dataclass(frozen=True, eq=False)
class TokenizedSplit:
    """All examples of one split, end to end.

    Attributes:
        token_ids: int32 [total_tokens], the examples one after the other.
        offsets: int64 [examples + 1]; example i is `token_ids[offsets[i]:offsets[i + 1]]`.
        learnt: bool [total_tokens], the tokens that the loss is taken over. At least one in each
            example, and never its first: every learnt token has one before it to be predicted from.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    learnt: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def tokens(self, index: int) -> NDArray[np.int32]:
        """The token ids of one example, int32 [length], as a view."""
        return self.token_ids[self._slice(index)]

    def learnt_places(self, index: int) -> NDArray[np.int64]:
        """Where the learnt tokens of one example are, int64 [learnt tokens], ascending."""
        return np.flatnonzero(self.learnt[self._slice(index)])

    @cached_property
    def learnt_counts(self) -> NDArray[np.int64]:
        """The number of learnt tokens of every example, int64 [examples]."""
        until = np.concatenate(([0], np.cumsum(self.learnt, dtype=np.int64)))
        return np.diff(until[self.offsets])

    def prompt(self, index: int) -> NDArray[np.int32]:
        """The tokens of one example before the first learnt one, int32 [length >= 1]."""
        return self.tokens(index)[: self.learnt_places(index)[0]]

    def answer(self, index: int) -> NDArray[np.int32]:
        """The tokens that are learnt after the prompt, up to the next that is not, int32 [length >= 1].

        Of a conversation this is the first answer that is learnt; of a text, all but its first token.
        """
        places = self.learnt_places(index)
        run = int(np.argmax(np.diff(places, append=-1) != 1)) + 1
        return self.tokens(index)[places[0] : places[0] + run]

    @property
    def longest(self) -> int:
        """The length of the longest example in tokens; 0 for an empty split."""
        return int(np.diff(self.offsets).max(initial=0))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the content, in hex."""
        digest = hashlib.sha256()
        for array in (self.token_ids, self.offsets, self.learnt):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors; the file appears whole or not at all. Raises DataError if it cannot."""
        from safetensors.numpy import save

        write_whole(path, save({name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}))

    @classmethod
    def load(cls, path: Path) -> TokenizedSplit:
        """Read what `save` wrote. Raises DataError if the file is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise DataError(
                f"expected tokenised examples in {path}, got: {error}; "
                f"remove {path.parent}, it is made again from the same input files"
            ) from error

    def _slice(self, index: int) -> slice:
        return slice(self.offsets[index], self.offsets[index + 1])


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of a study's data that is either there in full or not at all. Raises DataError if it cannot."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # on a read-only file system even this is refused
            partial.unlink()
        raise DataError(
            f"expected to write {path}, got: {error.strerror}; "
            "free some disk space or choose a directory you may write to"
        ) from error
