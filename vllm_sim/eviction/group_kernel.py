"""The sequential cache of several groups, over arrays: the `fast` backend of windows, chunks and states.

Faithful to vLLM 0.32 (v1/core/kv_cache_manager.py allocate_slots, single_type_kv_cache_manager.py, block_pool.py,
read), one request after the other as engine/backends/sequence.py serves them: the prompt in chunks of the budget, then
token by token; each time, group by group, blocks that left a window are released, then blocks are taken, then cached. A
block without a hash is taken before any cached one, and of those the one that group_order.py names. Misses are named as
engine/backends/group_ledger.py names them. Chunks end where v1/core/sched/scheduler.py lets them end so that a state is
kept. Not here: partial blocks, preemption.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from vllm_sim.eviction.chains import Chains
from vllm_sim.eviction.compiled import native, view
from vllm_sim.eviction.group_lookup import (
    CHUNK,
    FULL,
    STATE,
    WINDOW,
    Shape,
    find,
    find_kind,
    keeps,
    keeps_inside,
    next_tokens,
    skipped_blocks,
)
from vllm_sim.eviction.group_order import PolicyOrder, ReleaseOrder

# Columns of what is written for each request, in units but for the last three; GROUP and BY are -1 for none.
HIT, GENERATED, COLD, EVICTED, WINDOWS, ALIGNMENT, GROUP, BY, ALLOCATED = range(9)
# Places in Cache.counts.
BLANKS, EVICTIONS, KEYS = range(3)


class Cache(NamedTuple):
    """Blocks, and the keys (a node of a group: node x groups + group) that they are cached under; -1: none."""

    copies: np.ndarray
    """Blocks of a key; [keys]."""
    first: np.ndarray
    last: np.ndarray
    """Of a key's blocks the one that was cached first, and last; [keys]."""
    had: np.ndarray
    """Above 0: the key was ever cached; [keys]."""
    evictor: np.ndarray
    """The row that evicted a block of the key last; [keys]."""
    key: np.ndarray
    older: np.ndarray
    newer: np.ndarray
    """Of a block: its key, and the key's other blocks; [blocks]."""
    blank: np.ndarray
    """Idle blocks without a key; [blocks]."""
    seen: np.ndarray
    """Whether a node was ever computed; [nodes]."""
    is_generated: np.ndarray
    """Whether a generated token was in the node when it was computed last; [nodes]."""
    counts: np.ndarray


def make_cache(blocks: int, nodes: int, groups: int) -> Cache:
    """An empty cache."""
    none, none_yet = np.full(blocks, -1, np.int32), np.full(nodes * groups, -1, np.int32)
    return Cache(
        np.zeros(nodes * groups, np.int32), none_yet, none_yet.copy(), np.zeros(nodes * groups, np.int32),
        none_yet.copy(), none, none.copy(), none.copy(), np.arange(blocks, dtype=np.int32),
        np.zeros(nodes, np.bool_), np.zeros(nodes, np.bool_), np.array([blocks, 0, 0]),
    )  # fmt: skip


def serve_groups(
    chains: Chains,
    prompts: np.ndarray,
    outputs: np.ndarray,
    shape: Shape,
    order: ReleaseOrder | PolicyOrder,
    blocks: int,
    longest: int,
    chunk: int,
) -> tuple[np.ndarray, Cache]:
    """Serves all requests.

    Args:
        chains: their prefixes, a unit each.
        prompts: tokens of their prompts.
        outputs: tokens that they generate.
        shape: the groups.
        order: which block is taken next, of an empty cache.
        blocks: of the cache.
        longest: tokens; a request that computes as many or more is rejected.
        chunk: tokens of a prompt that are computed in a step.

    Returns:
        An array [requests, 9] (see its columns), and the cache as it is at the end.

    Raises:
        ValueError: a request has no room.
    """
    cache = make_cache(blocks, chains.working_set, shape.kind.size)
    out = np.full((prompts.size, 9), -1, np.int64)
    row = _serve(chains.nodes, chains.begins, prompts, outputs, shape, cache, native(order), longest, chunk, out)
    if row >= 0:
        raise ValueError(f"row {row} has no room, though vLLM's estimate says that it has")
    return out, cache


@numba.njit(cache=True)
def _serve(
    all_nodes: Any,
    begins: Any,
    prompts: Any,
    outputs: Any,
    shape: Any,
    cache: Any,
    order: Any,
    longest: int,
    chunk: int,
    out: Any,
) -> int:
    order = view(order)
    groups, unit = shape.kind.size, shape.unit_tokens
    most = 0
    for row in range(prompts.size):
        if prompts[row] + outputs[row] - 1 < longest:
            most = max(most, prompts[row] + outputs[row] - 1)
    table = np.full((groups, most // unit + 2), -1, np.int32)
    lengths, cached, gone = np.zeros(groups, np.int64), np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    for row in range(prompts.size):
        nodes = all_nodes[begins[row] : begins[row + 1]]
        prompt, computed = prompts[row], prompts[row] + outputs[row] - 1
        is_served = computed < longest
        hit, further = 0, 0
        if is_served:
            hit, further = find(shape, cache.copies, nodes, prompt - 1)
        _look(shape, cache, nodes, prompt, hit, out[row])
        out[row, ALLOCATED] = 0
        if not is_served:
            out[row, GROUP], out[row, BY] = -1, -1
            continue
        is_single = groups == 1
        ends = np.array([prompt - 1, further * unit if further > hit and not is_single else 0])
        lengths[:], cached[:], gone[:] = 0, 0, 0
        done = hit * unit
        tokens = next_tokens(shape, done, prompt, ends[1], chunk)
        is_first = True
        order.begin(row)
        while tokens > 0:
            order.allocate(is_first)
            for group in range(groups):
                _leave(shape, cache, order, group, table[group], lengths, gone, done)
            if is_first and hit:
                for group in range(groups):
                    _touch(shape, cache, order, nodes, group, table[group], lengths, hit)
                    cached[group] = lengths[group]
            is_first = False
            for group in range(groups):
                needed = -(-(done + tokens) // (shape.units[group] * unit))
                end = done + tokens
                kept = needed - 1
                if (shape.retention or end == prompt) and keeps_inside(shape, done, end):
                    kept -= 1
                if shape.kind[group] == STATE and lengths[group] < kept:
                    table[group, lengths[group] : kept] = -1
                    lengths[group] = kept
                while lengths[group] < needed:
                    block = _take(cache, order, row)
                    if block < 0:
                        return row
                    table[group, lengths[group]] = block
                    lengths[group] += 1
                    out[row, ALLOCATED] += 1
            for place in range(done // unit, (done + tokens) // unit):
                cache.seen[nodes[place]] = True
                cache.is_generated[nodes[place]] = (place + 1) * unit > prompt
            done += tokens
            for group in range(groups):
                align = shape.units[group] if is_single else shape.alignment
                full = done // unit // align * align // shape.units[group]
                for place in range(cached[group], full):
                    if table[group, place] >= 0 and keeps(shape, group, place, ends):
                        length = (place + 1) * shape.units[group]
                        _tell(order, 0)
                        order.cache(table[group, place], nodes, length, group)
                        _insert(cache, nodes[length - 1] * groups + group, table[group, place])
                cached[group] = max(cached[group], full)
            tokens = next_tokens(shape, done, prompt, ends[1], chunk) if done < prompt else min(computed - done, 1)
        for group in range(groups):
            _name_tail(shape, cache, nodes, group, (prompt - 1) // unit, cached[group] * shape.units[group])
            for place in range(lengths[group] - 1, -1, -1):
                _free(cache, order, table[group, place])
            order.settle()
    return -1


@numba.njit(cache=True)
def _name_tail(shape: Any, cache: Any, nodes: Any, group: int, end: int, known: int) -> None:
    """A full block of several hashes has a second name, of the prompt's hashes in it; nothing is found by it."""
    has_hashes = shape.units[group] > shape.units.min()  # a block of the smallest size has one
    if shape.kind[group] == FULL and has_hashes and end % shape.units[group] and end <= known:
        key = nodes[end - 1] * shape.kind.size + group
        cache.counts[KEYS] += not cache.had[key]
        cache.had[key] = 1


@numba.njit(cache=True)
def _look(shape: Any, cache: Any, nodes: Any, prompt: int, hit: int, out: Any) -> None:
    """Names what a prompt hits and misses."""
    unit = shape.unit_tokens
    limit, known = (prompt - 1) // unit, 0
    while known < limit and cache.seen[nodes[known]]:
        known += 1
    aligned, kept = known // shape.alignment * shape.alignment, hit
    if aligned > hit:
        kept = find(shape, cache.had, nodes, prompt - 1)[0]
    out[HIT], out[GENERATED] = hit, 0
    for place in range(hit):
        out[GENERATED] += cache.is_generated[nodes[place]]
    out[COLD] = limit - max(known, hit)
    out[EVICTED], out[WINDOWS], out[ALIGNMENT] = kept - hit, aligned - kept, known - aligned
    out[GROUP], out[BY] = -1, -1
    if kept > hit:
        _blame(shape, cache, nodes, kept, out)
    elif aligned > kept:
        shortest = -1
        for place in range(shape.kind.size):
            group = shape.order[place]
            found = find_kind(shape, cache.had, nodes, aligned * unit, place, place + 1)
            if shortest < 0 or found < shortest or (found == shortest and group < out[GROUP]):
                shortest, out[GROUP] = found, group


@numba.njit(cache=True)
def _blame(shape: Any, cache: Any, nodes: Any, kept: int, out: Any) -> None:
    """Names the group whose block is the first that a longer hit needs and nothing has, and its evictor."""
    groups = shape.kind.size
    for group in range(groups):
        size = shape.units[group]
        first = 0
        if shape.kind[group] in (WINDOW, STATE):
            first = max(0, kept // size - shape.last[group])
        elif shape.kind[group] == CHUNK:
            first = kept * shape.unit_tokens // shape.span[group] * shape.span[group] // shape.unit_tokens // size
        for place in range(first, kept // size):
            key = nodes[(place + 1) * size - 1] * groups + group
            if not cache.copies[key]:
                out[GROUP], out[BY] = group, cache.evictor[key]
                return


@numba.njit(cache=True)
def _leave(shape: Any, cache: Any, order: Any, group: int, table: Any, lengths: Any, gone: Any, done: int) -> None:
    """Releases the blocks that a group needs no longer, the last one first."""
    skipped = min(skipped_blocks(shape, group, done), lengths[group])
    for place in range(skipped - 1, gone[group] - 1, -1):
        _free(cache, order, table[place])
        table[place] = -1
    order.settle()
    gone[group] = max(gone[group], skipped)


@numba.njit(cache=True)
def _touch(shape: Any, cache: Any, order: Any, nodes: Any, group: int, table: Any, lengths: Any, hit: int) -> None:
    """Uses the blocks of a hit that the group still needs."""
    size, groups = shape.units[group], shape.kind.size
    skipped = skipped_blocks(shape, group, hit * shape.unit_tokens)
    _tell(order, max(0, hit // size - skipped))
    for place in range(max(hit // size, skipped)):
        table[place] = -1
        if place >= skipped:
            table[place] = cache.first[nodes[(place + 1) * size - 1] * groups + group]
            order.use(table[place])
    lengths[group] = max(hit // size, skipped)


@numba.njit(cache=True)
def _tell(order: Any, matched: int) -> None:
    if not order.is_told:
        order.tell(matched)


@numba.njit(cache=True)
def _take(cache: Any, order: Any, row: int) -> int:
    """A block to be used: a blank one, else a cached one; -1: there is none."""
    _tell(order, 0)
    if cache.counts[BLANKS]:
        cache.counts[BLANKS] -= 1
        return cache.blank[cache.counts[BLANKS]]
    block = order.take()
    if block < 0:
        return -1
    key = cache.key[block]
    older, newer = cache.older[block], cache.newer[block]
    if older >= 0:
        cache.newer[older] = newer
    else:
        cache.first[key] = newer
    if newer >= 0:
        cache.older[newer] = older
    else:
        cache.last[key] = older
    cache.copies[key] -= 1
    cache.evictor[key] = row
    cache.counts[EVICTIONS] += 1
    cache.key[block] = -1
    return block


@numba.njit(cache=True)
def _insert(cache: Any, key: int, block: int) -> None:
    """A block is cached under a key, after those that are."""
    last = cache.last[key]
    cache.key[block], cache.older[block], cache.newer[block] = key, last, -1
    if last >= 0:
        cache.newer[last] = block
    else:
        cache.first[key] = block
    cache.last[key] = block
    cache.copies[key] += 1
    cache.counts[KEYS] += not cache.had[key]
    cache.had[key] = 1


@numba.njit(cache=True)
def _free(cache: Any, order: Any, block: int) -> None:
    """A block is used no longer."""
    if block < 0:
        return
    if cache.key[block] < 0:
        cache.blank[cache.counts[BLANKS]] = block
        cache.counts[BLANKS] += 1
        return
    order.release(block)
