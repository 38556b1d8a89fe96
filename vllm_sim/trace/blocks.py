"""Names for the prefix blocks of a trace, as arrays: two blocks have one name where they and all before them are equal.

A prefix of tokens (or of hash ids) t_0 ... t_k has the name sum(mix(t_i) * r**i) modulo 2**64, with an odd r and a mix
that spreads its argument over 64 bits: one running sum over the whole trace gives the names at every block size. Names
of different prefixes are equal by chance only, about n**2 / 2**65 for n blocks; this is for statistics and not for
caches, and not for traces that were made to collide.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_sim.block_rules import computed_tokens, full_blocks

_RATIO = 0x9E3779B97F4A7C15
_U64 = np.uint64


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """The full blocks of all prompts and answers at one block size, those of one name in the trace's order. Blocks of
    a row that are used by the same requests are one entry with their number. b is the number of entries.
    """

    names: NDArray[np.uint64]
    """[b]."""
    rows: NDArray[np.int64]
    """[b], the request."""
    in_prompt: NDArray[np.bool_]
    """[b], whether the whole block is of the prompt."""
    counts: NDArray[np.int64]
    """[b], blocks that one stands for."""


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


def names_at(
    rows: Iterable[NDArray[Any]], step: int, chunk_units: int = 1 << 20
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Names of the prefixes of rows of units that end at multiples of `step` units: (names, offsets [rows + 1]).

    Memory: of the units of a chunk, and of the names.
    """
    found: list[NDArray[np.uint64]] = []
    counts: list[int] = []
    chunk: list[NDArray[Any]] = []

    def close() -> None:
        lengths = np.array([len(row) for row in chunk])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        of_row, index = _places(lengths // step)
        names = prefix_names(np.concatenate(chunk).astype(np.int64), offsets)
        found.append(names[offsets[of_row] + (index + 1) * step - 1])
        counts.extend((lengths // step).tolist())
        chunk.clear()

    held = 0
    for row in rows:
        chunk.append(row)
        held += len(row)
        if held >= chunk_units:
            close()
            held = 0
    if chunk:
        close()
    return np.concatenate(found), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def token_blocks(
    names: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    step: int,
    prompts: NDArray[np.int64],
    outputs: NDArray[np.int64],
    size: int,
) -> PromptBlocks:
    """Full blocks of rows of tokens.

    vLLM caches floor((P + O - 1) / size) blocks of P prompt and O generated tokens: the last one is never computed.

    Args:
        names: `names_at` of prompt and generated tokens of each row, as its offsets are.
        offsets: [rows + 1].
        step: Tokens between two names; a divisor of `size`.
        prompts: [rows], prompt tokens.
        outputs: [rows], generated tokens.
        size: Block size, in tokens.
    """
    rows, index = _places(full_blocks(computed_tokens(prompts, np.maximum(outputs, 1)), size))
    ends = offsets[rows] + (index + 1) * (size // step) - 1
    return PromptBlocks(names[ends], rows, (index + 1) * size <= prompts[rows], np.ones_like(rows))


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
    has no id: their blocks are like no other, and those of a row stand as one. The blocks that an id has in two rows
    are the same as far as both prompts have them; what lies between two such ends stands as one.

    Args:
        names: prefix_names over the ids of each row.
        offsets: [rows + 1], into the ids.
        unit_sizes: [rows], tokens an id stands for; a divisor or a multiple of `size`.
        prompts: [rows], prompt tokens.
        outputs: [rows], generated tokens.
        size: Block size, in tokens.
    """
    per_id, ids_a_block = np.maximum(unit_sizes // size, 1), np.maximum(size // unit_sizes, 1)
    in_prompt = full_blocks(prompts, size)
    named = np.minimum(in_prompt, np.diff(offsets) // ids_a_block * per_id)
    rows, index = _places(-(-named // per_id))
    names = names[offsets[rows] + (index + 1) * ids_a_block[rows] - 1]
    # Ids of other sizes are other blocks, though they be the same numbers.
    names = np.where(ids_a_block[rows] > 1, names ^ mix(unit_sizes[rows].astype(_U64)), names)
    ends = np.minimum(per_id[rows], named[rows] - index * per_id[rows])
    names, rows, counts = _pieces(names, rows, ends)
    everything = full_blocks(computed_tokens(prompts, np.maximum(outputs, 1)), size)
    fresh = np.concatenate([in_prompt - named, everything - in_prompt])
    kept = np.flatnonzero(fresh)
    return PromptBlocks(
        np.concatenate([names, mix(~kept.astype(_U64))]),
        np.concatenate([rows, kept % len(prompts)]),
        np.concatenate([np.ones(len(rows), np.bool_), kept < len(prompts)]),
        np.concatenate([counts, fresh[kept]]),
    )


def _pieces(
    names: NDArray[np.uint64], rows: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Cuts the blocks of ids where a prompt ends within an id: (names, rows, blocks of each piece).

    Args:
        names: of ids' prefixes; [n].
        rows: [n].
        ends: blocks that a row has of an id, from its first on; [n].
    """
    cut_names = np.unique(names[ends != ends.max(initial=0)])
    at = np.minimum(np.searchsorted(cut_names, names), max(len(cut_names) - 1, 0))
    is_cut = cut_names[at] == names if len(cut_names) else np.zeros(len(names), np.bool_)
    whole = names[~is_cut], rows[~is_cut], ends[~is_cut]
    cut = _cut(names[is_cut], rows[is_cut], ends[is_cut])
    joined = tuple(np.concatenate(both) for both in zip(whole, cut, strict=True))
    return mix(joined[0]), joined[1], joined[2]


def _cut(
    names: NDArray[np.uint64], rows: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """As `_pieces`, for names of which a row has a part."""
    order = np.lexsort((ends, names))
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = names[order][1:] != names[order][:-1]
    is_piece = is_new.copy()
    is_piece[1:] |= ends[order][1:] != ends[order][:-1]
    # Of the sorted ids, the piece that each ends with; those of a name stand one after the other.
    last = np.cumsum(is_piece) - 1
    first = last[np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    piece_ends = ends[order][is_piece]
    begins = np.concatenate([[0], piece_ends])[:-1]
    begins[last[is_new]] = 0
    pieces = np.empty((2, len(order)), np.int64)
    pieces[:, order] = first, last
    of, place = _places(pieces[1] - pieces[0] + 1)
    piece = pieces[0][of] + place
    return names[of] + begins[piece].astype(_U64), rows[of], (piece_ends - begins)[piece]
