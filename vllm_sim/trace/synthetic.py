"""Deterministic token ids for what a trace does not spell out: hash ids, output lengths, prompts that are not in it.

The tokens are ordinary words, so that text made of them decodes and re-encodes without surprises. Prompts and
generated text take them from two disjoint halves of the word list, each as digits in the base of the half's size:

- A block of hash id h holds the pair (h mod V, h div V) over and over. Any two neighbouring tokens name the id, so two
  prompts share a prefix of tokens exactly where they share a prefix of ids, at every block size from 2 up that
  divides the trace's.
- Fresh tokens of a stream (a row of the trace) are its digits plus a stride. No prompt block equals them, and no two
  streams agree in two neighbouring tokens.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"[Ġ▁]?[A-Za-z]{2,}")
_FEWEST_WORDS = 1000
_STRIDE = 7919
_FIRST_FREE_ID = 2**24
"""Where tokens begin that are in no vocabulary; none has so many."""
_FREE_IDS = 2**21


@dataclass(frozen=True, slots=True)
class Filler:
    """Two disjoint arrays of token ids (int32) of the same length V."""

    prompt_ids: NDArray[np.int32]
    fresh_ids: NDArray[np.int32]

    @classmethod
    def from_vocabulary(cls, vocabulary: Mapping[str, int], special_ids: Collection[int]) -> "Filler":
        """Takes the words of a vocabulary; all ordinary tokens where it has fewer than 1,000 words."""
        ordinary = {text: i for text, i in vocabulary.items() if i not in special_ids}
        words = [i for text, i in ordinary.items() if _WORD.fullmatch(text)]
        return cls.from_ids(words if len(words) >= _FEWEST_WORDS else ordinary.values())

    @classmethod
    def without_vocabulary(cls) -> "Filler":
        """Takes tokens that no vocabulary has: they equal none that a trace gives as ids."""
        return cls.from_ids(range(_FIRST_FREE_ID, _FIRST_FREE_ID + _FREE_IDS))

    @classmethod
    def from_ids(cls, token_ids: Iterable[int]) -> "Filler":
        """Takes these tokens.

        Raises:
            ValueError: there are fewer than 4.
        """
        ids = np.array(sorted(token_ids), dtype=np.int32)
        half = len(ids) // 2
        if half < 2:
            raise ValueError(f"a vocabulary of {len(ids)} ordinary tokens is too small; allowed: 4 or more")
        # Odd and even ranks, so that both halves have short and long words alike.
        return cls(ids[0 : 2 * half : 2], ids[1 : 2 * half : 2])

    @property
    def largest_id(self) -> int:
        """The largest hash id, or stream number, that has tokens of its own."""
        return len(self.prompt_ids) ** 2 - 1

    def hash_prompt(self, hash_ids: list[int], block_size: int, length_tokens: int, row: int) -> NDArray[np.int32]:
        """Tokens of a prompt given as hash ids.

        Args:
            hash_ids: One id a block; the tail that no id covers is fresh.
            block_size: Tokens an id stands for.
            length_tokens: Tokens of the prompt.
            row: Number of the row in the trace, the stream of fresh tokens.

        Returns:
            int32 array of shape (length_tokens,).

        Raises:
            ValueError: an id that is too large to have tokens of its own.
        """
        base = len(self.prompt_ids)
        ids = np.array(hash_ids, dtype=object if max(hash_ids, default=0) > 2**62 else np.int64)
        if len(ids) and ids.max() > self.largest_id:
            raise ValueError(f"hash id {ids.max()} does not fit; allowed: 0 to {self.largest_id}")
        digits = np.stack([ids % base, ids // base], axis=1).astype(np.int64)
        position = np.arange(block_size) % 2
        covered = self.prompt_ids[digits[:, position].reshape(-1)] if len(ids) else self.prompt_ids[:0]
        covered = covered[:length_tokens]
        tail = self.fresh(row, len(covered), length_tokens - len(covered))
        return np.concatenate([covered, tail])

    def fresh(self, stream: int, start: int, count: int) -> NDArray[np.int32]:
        """Tokens `start` to `start + count` of a stream: int32 array of shape (count,)."""
        base = len(self.fresh_ids)
        place = np.arange(start, start + count, dtype=np.int64)
        stream %= base * base
        digit = np.where(place % 2 == 0, stream % base, stream // base)
        return self.fresh_ids[(digit + place * _STRIDE) % base]
