"""The answers of generated sources: deterministic text of a number of words, or a number of tokens only."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_sim.workloads.distribution import Distribution, get_distribution, read_distribution
from vllm_sim.workloads.prose import prose
from vllm_sim.workloads.tables import TomlTable


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """How long answers are: words of text, or tokens of an answer that has no text."""

    length: Distribution
    is_tokens: bool = False

    def invent(self, generator: np.random.Generator) -> dict[str, Any]:
        """The response field of a record."""
        length = int(self.length.draw(generator, 1)[0])
        return {"output_length": length} if self.is_tokens else {"response": prose(generator, length)}


def read_answers(table: TomlTable, default_words: Distribution) -> AnswerSource:
    """`output_tokens`, or else `answer_words` of a table.

    Raises:
        ConfigError: a key or value that is not allowed.
    """
    if (tokens := table.table("output_tokens")) is not None:
        return AnswerSource(read_distribution(tokens, 1), is_tokens=True)
    return AnswerSource(get_distribution(table, "answer_words", 1, default_words))
