"""What the ledger keeps of blocks, compiled: which are known by their hashes, who cached and who evicted them.

A hash has a number, in the order in which hashes were first cached. What happens to blocks comes as a log
(block_log.py). The hashes of its CACHED entries stand apart, in their order. The table of hashes has open addressing: a
hash is as good as random, and its first bits say where the search begins.
"""

from typing import Any

import numba
import numpy as np

from vllm_sim.engine.backends.block_log import (
    BEFORE,
    BLOCKS,
    CACHED,
    HEAD,
    LOADED,
    LOADED_END,
    PROMPT,
    REQUEST,
    TAKEN,
)

WORDS = 4
"""Of 8 bytes: hashes have at most so many."""
OWNER, EVICTOR, PARENT, COPIES, CHILDREN, WAS_GENERATED, COLUMNS = range(7)
"""Of a hash: the request that cached it last; the one whose allocation evicted it last; the hash before it; in how many
blocks it is; how many hashes after it are in a block; whether its last block held a generated token when it was
evicted. -1: none."""
HELD, GENERATED = range(2)
"""Of a block: the hash that it has, or -1; whether it holds a generated token."""
HASHES, ORPHANS, MOST_ORPHANS = range(3)
"""Counts: hashes that were ever cached; those in a block whose parent is in none; the most of these at any time."""


@numba.njit(cache=True)
def read(log: Any, words: Any, hashes: int, slots: Any, names: Any, by_hash: Any, by_block: Any, counts: Any) -> Any:
    """Reads a log.

    Args:
        log: see above.
        words: of its hashes; [hashes * words of each].
        hashes: how many it has.
        slots: the table: a hash's number or -1; at least half of them -1.
        names: hashes by number; [numbers, WORDS].
        by_hash: see the names of its columns; [numbers, COLUMNS]. There is room for all hashes of the log.
        by_block: likewise; [blocks, 2].
        counts: likewise; [3].

    Returns:
        Evictions in their order, those of the same two requests together while they follow each other:
        [runs, (request that cached the blocks last, request that evicted them, blocks)].
    """
    size = words.size // max(hashes, 1)
    runs, last, word, entry = np.empty((log.size, 3), np.int64), -1, 0, 0
    while entry < log.size:
        event, request, begin = log[entry], log[entry + REQUEST], entry + HEAD
        end = begin + log[entry + BLOCKS]
        if event == TAKEN:
            for place in range(begin, end):
                block = log[place]
                number = by_block[block, HELD]
                if number < 0:
                    continue
                owner = by_hash[number, OWNER]
                if last < 0 or runs[last, 0] != owner or runs[last, 1] != request:
                    last += 1
                    runs[last, 0], runs[last, 1], runs[last, 2] = owner, request, 0
                runs[last, 2] += 1
                _evict(block, number, request, by_hash, by_block, counts)
        elif event == CACHED:
            parent = by_block[log[entry + BEFORE], HELD] if log[entry + BEFORE] >= 0 else -1
            for i in range(end - begin):
                slot = _slot(words, word, size, slots, names)
                if slots[slot] < 0:
                    _add(words, word, size, parent, slot, slots, names, by_hash, counts)
                number = slots[slot]
                word += size
                by_hash[number, OWNER] = request
                by_hash[number, COPIES] += 1
                if by_hash[number, COPIES] == 1:
                    counts[ORPHANS] -= by_hash[number, CHILDREN]
                    if parent >= 0:  # it is cached: the request has it
                        by_hash[parent, CHILDREN] += 1
                block = log[begin + i]
                by_block[block, HELD] = number
                if log[entry + LOADED] <= i < log[entry + LOADED_END]:
                    by_block[block, GENERATED] = by_hash[number, WAS_GENERATED]
                else:
                    by_block[block, GENERATED] = i >= log[entry + PROMPT]
                parent = number
        entry = end
    return runs[: last + 1]


@numba.njit(cache=True)
def _add(
    words: Any, word: int, size: int, parent: int, slot: int, slots: Any, names: Any, by_hash: Any, counts: Any
) -> None:
    """Gives a hash the next number."""
    number = counts[HASHES]
    counts[HASHES] += 1
    slots[slot] = number
    for i in range(size):
        names[number, i] = words[word + i]
    by_hash[number, EVICTOR], by_hash[number, PARENT] = -1, parent


@numba.njit(cache=True)
def _evict(block: int, number: int, request: int, by_hash: Any, by_block: Any, counts: Any) -> None:
    by_block[block, HELD] = -1
    by_hash[number, WAS_GENERATED] = by_block[block, GENERATED]
    by_hash[number, EVICTOR] = request
    by_hash[number, COPIES] -= 1
    if by_hash[number, COPIES]:
        return
    # Its children lose their parent, and if it had lost its own, there is one less of such.
    counts[ORPHANS] += by_hash[number, CHILDREN]
    parent = by_hash[number, PARENT]
    if parent >= 0:
        by_hash[parent, CHILDREN] -= 1
        counts[ORPHANS] -= int(by_hash[parent, COPIES] == 0)
    counts[MOST_ORPHANS] = max(counts[MOST_ORPHANS], counts[ORPHANS])


@numba.njit(cache=True)
def look(
    hit: Any, words: Any, hashes: int, loaded: int, slots: Any, names: Any, by_hash: Any, by_block: Any
) -> tuple[int, int, int]:
    """What a request finds.

    Args:
        hit: its blocks that are cached; [blocks].
        words: of the hashes after them, as in `read`.
        hashes: how many those are.
        loaded: so many of them, the first, come from elsewhere.
        slots, names, by_hash, by_block: see `read`.

    Returns:
        Blocks that held generated tokens, of those hit and those loaded; how many hashes after these were ever cached,
        up to the first that was not; and the request that evicted the first of them, or -1.
    """
    size, generated, known, evictor = words.size // max(hashes, 1), 0, 0, -1
    for block in hit:
        generated += by_block[block, GENERATED]
    for place in range(hashes):
        number = slots[_slot(words, place * size, size, slots, names)]
        if place < loaded:
            generated += by_hash[number, WAS_GENERATED] if number >= 0 else 0
            continue
        if number < 0:
            break
        if place == loaded:
            evictor = by_hash[number, EVICTOR]
        known += 1
    return generated, known, evictor


@numba.njit(cache=True)
def fill(slots: Any, names: Any, hashes: int) -> None:
    """Enters the first numbers into an empty table."""
    words = names.reshape(-1)
    for number in range(hashes):
        slots[_slot(words, number * WORDS, WORDS, slots, names)] = number


@numba.njit(cache=True)
def _slot(words: Any, word: int, size: int, slots: Any, names: Any) -> int:
    """Where a hash stands in the table, or would; its words begin at one of `words`."""
    slot = words[word] & (slots.size - 1)
    while slots[slot] >= 0:
        number, i = slots[slot], 0
        while i < size and names[number, i] == words[word + i]:
            i += 1
        if i == size:
            break
        slot = (slot + 1) & (slots.size - 1)
    return slot
