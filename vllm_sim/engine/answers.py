"""Which recorded response answers a prompt: an index over the tokens of a trace.

A prompt that was recorded several times gives its responses in recorded order, then starts over. Each engine process
(each data-parallel rank) counts for itself.
"""

import functools
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised, prompt_digest
from vllm_sim.trace.vocabulary import Vocabulary


class Answers:
    """The recorded responses of a trace by prompt.

    Attributes:
        path: The trace's file.
        trace: Its tokens.
        vocabulary: The tokenizer they were made with.
    """

    def __init__(self, path: Path, model: str):
        self.path = path
        self.vocabulary = _load_vocabulary(model)
        self.trace: TokenisedTrace = load_tokenised(path, self.vocabulary)
        self._given: dict[bytes, int] = {}

    @functools.cached_property
    def _rows(self) -> dict[bytes, list[int]]:
        """The rows of each prompt, by its digest; a replay, which answers each row with its own, does without."""
        rows: dict[bytes, list[int]] = {}
        for row in range(len(self.trace)):
            rows.setdefault(self.trace.digest(row), []).append(row)
        return rows

    @property
    def prompts(self) -> int:
        """Number of different prompts."""
        return len(self._rows)

    def has(self, prompt: NDArray[np.int32]) -> bool:
        """Whether a prompt (token ids) is in the trace."""
        return prompt_digest(prompt) in self._rows

    def next_row(self, prompt: NDArray[np.int32]) -> int | None:
        """The row whose response is next for a prompt, or None where the trace does not have it."""
        digest = prompt_digest(prompt)
        rows = self._rows.get(digest)
        if rows is None:
            return None
        if len(rows) == 1:
            return rows[0]
        given = self._given.get(digest, 0)
        self._given[digest] = given + 1
        return rows[given % len(rows)]


def load_answers(model: str) -> Answers:
    """The answers of the trace that the environment names; one copy a process, read again when the file has changed."""
    path = Path(os.environ[TRACE_VARIABLE])
    status = path.stat() if path.exists() else None
    return _load_answers(path, model, status and (status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)
def _load_answers(path: Path, model: str, status: tuple[int, int] | None) -> Answers:
    return Answers(path, model)


@functools.lru_cache(maxsize=1)
def _load_vocabulary(model: str) -> Vocabulary:
    return Vocabulary(model)
