"""Names for the prefix blocks of a trace, as arrays: two blocks have one name where they and all before them are equal.

A prefix of tokens (or of hash ids) t_0 ... t_k has the name sum(mix(t_i) * r**i) modulo 2**64, with an odd r and a mix
that spreads its argument over 64 bits: one running sum over the whole trace gives the names at every block size. Names
of different prefixes are equal by chance only, about n**2 / 2**65 for n blocks; this is for statistics and not for
caches, and not for traces that were made to collide.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vllm_sim.block_rules import computed_tokens, full_blocks

_RATIO = 0x9E3779B97F4A7C15
_U64 = np.uint64


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """The full blocks of all prompts and answers at one block size, in the trace's order; b is their number."""

    names: NDArray[np.uint64]
    """[b]."""
    rows: NDArray[np.int64]
    """[b], the request."""
    in_prompt: NDArray[np.bool_]
    """[b], whether the whole block is of the prompt."""


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads integers over 64 bits (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + _U64(_RATIO)
        values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
        return values ^ (values >> _U64(31))


def prefix_names(units: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The name of the prefix that ends in each unit.

    Args:
        units: Tokens or hash ids of all rows, one after the other.
        offsets: [rows + 1].

    Returns:
        [units].
    """
    lengths = np.diff(offsets)
    if not len(units):
        return np.empty(0, dtype=_U64)
    with np.errstate(over="ignore"):
        powers = np.full(int(lengths.max()), _RATIO, dtype=_U64)
        powers[0] = 1
        powers = np.multiply.accumulate(powers)
        place = np.arange(len(units)) - np.repeat(offsets[:-1], lengths)
        sums = np.cumsum(mix(units.astype(_U64)) * powers[place], dtype=_U64)
        before = np.concatenate([np.zeros(1, dtype=_U64), sums])[offsets[:-1]]
        return mix(sums - np.repeat(before, lengths))


def _places(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, index within the row) of every block, for the number of blocks of each row."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def token_blocks(
    names: NDArray[np.uint64], offsets: NDArray[np.int64], prompts: NDArray[np.int64], size: int
) -> PromptBlocks:
    """Full blocks of rows of tokens.

    vLLM caches floor((P + O - 1) / size) blocks of P prompt and O generated tokens: the last one is never computed.

    Args:
        names: prefix_names over prompt and generated tokens of each row.
        offsets: [rows + 1].
        prompts: [rows], prompt tokens.
        size: Block size, in tokens.
    """
    generated = np.maximum(np.diff(offsets) - prompts, 1)
    rows, index = _places(full_blocks(computed_tokens(prompts, generated), size))
    ends = offsets[rows] + (index + 1) * size - 1
    return PromptBlocks(names[ends], rows, (index + 1) * size <= prompts[rows])


def hash_blocks(
    names: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    unit_sizes: NDArray[np.int64],
    prompts: NDArray[np.int64],
    outputs: NDArray[np.int64],
    size: int,
) -> PromptBlocks:
    """Full blocks of rows of hash ids.

    A block is part of an id's block, or several of them. Generated tokens are fresh, and so is a prompt's tail that
    has no id: their blocks are like no other.

    Args:
        names: prefix_names over the ids of each row.
        offsets: [rows + 1], into the ids.
        unit_sizes: [rows], tokens an id stands for; a divisor or a multiple of `size`.
        prompts: [rows], prompt tokens.
        outputs: [rows], generated tokens.
        size: Block size, in tokens.
    """
    rows, index = _places(full_blocks(computed_tokens(prompts, np.maximum(outputs, 1)), size))
    units = unit_sizes[rows]
    last_token = (index + 1) * size - 1
    unit = last_token // units
    named = (last_token < prompts[rows]) & (unit < np.diff(offsets)[rows])
    result = np.empty(len(rows), dtype=_U64)
    with np.errstate(over="ignore"):
        result[named] = mix(names[(offsets[rows] + unit)[named]] + (last_token % units)[named].astype(_U64))
        fresh = rows[~named].astype(_U64) << _U64(32) | index[~named].astype(_U64)
        result[~named] = mix(~fresh)
    return PromptBlocks(result, rows, last_token < prompts[rows])
