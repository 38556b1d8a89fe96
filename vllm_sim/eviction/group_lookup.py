"""vLLM's lookup over several cache groups, compiled: what a prompt hits, and what is kept of it.

Faithful to vLLM 0.32 (v1/core/kv_cache_coordinator.py find_longest_cache_hit of both coordinators, those of the
managers in single_type_kv_cache_manager.py, and _mamba_block_aligned_split in v1/core/sched/scheduler.py, read),
without EAGLE, context parallelism and partial blocks. Lengths are in units, of which every block is a multiple.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

FULL, WINDOW, CHUNK, STATE = range(4)
"""What a group keeps: everything, the last tokens, those of a chunk, a state after some of the tokens."""


class Shape(NamedTuple):
    """The groups of a cache, [groups] each, in the order of vLLM's configuration."""

    kind: np.ndarray
    units: np.ndarray
    """Of a block."""
    span: np.ndarray
    """Tokens of a window or a chunk, else 0."""
    last: np.ndarray
    """Blocks that a window needs before a boundary, 1 of a state, else 0."""
    order: np.ndarray
    """The groups in the order in which they are looked up: those that keep the same stand together."""
    ends: np.ndarray
    """Where, in `order`, those that keep the same end."""
    unit_tokens: int
    alignment: int
    """Units of which every hit is a multiple."""
    retention: int
    """Tokens between two places whose window is kept; 0: only the ends of prompts; -1: everywhere."""
    state_tokens: int
    """Of a block of states, at whose ends chunks of a prompt end; 0: there are none."""
    inner_tokens: int
    """Above 0: a chunk of a prompt may keep the state at the last boundary inside it too, where it begins at a boundary
    and so many tokens, or a multiple, are between the two (Mamba 2). The last chunk does; the others where states are
    kept at more places than the ends of prompts."""
    is_simple: bool
    """A full group and one other kind: they are looked up once."""


@numba.njit(cache=True)
def find(shape: Any, present: Any, nodes: Any, most_tokens: int) -> Any:
    """What a prompt hits, and the longest that a step of the search found, in units.

    Args:
        shape: the groups.
        present: above 0 where a node is cached for a group; [nodes x groups].
        nodes: of the prompt, a unit each.
        most_tokens: that may be hit.
    """
    unit = shape.unit_tokens
    hit, longest, full = most_tokens, 0, -1
    while True:
        now, begin = hit, 0
        for end in shape.ends:
            if shape.kind[shape.order[begin]] == FULL and full >= 0:
                now = min(now, full)
            else:
                now = unit * find_kind(shape, present, nodes, now, begin, end)
                if shape.kind[shape.order[begin]] == FULL:
                    full = now
                longest = max(longest, now)
            begin = end
        if now >= hit:
            break
        hit = now
        if shape.is_simple or shape.ends.size == 1:
            break
    return min(hit, now) // unit, longest // unit


@numba.njit(cache=True)
def find_kind(shape: Any, present: Any, nodes: Any, most_tokens: int, begin: int, end: int) -> int:
    """What groups that keep the same, `order[begin:end]`, hit together up to a length; units."""
    group = shape.order[begin]
    kind, size, align = shape.kind[group], shape.units[group], shape.alignment
    most = most_tokens // shape.unit_tokens // size
    blocks = 0
    if kind == FULL:
        while blocks < most and has(shape, present, nodes, (blocks + 1) * size, begin, end):
            blocks += 1
    elif kind == WINDOW:
        row = 0
        for place in range(most, 0, -1):
            if not has(shape, present, nodes, place * size, begin, end):
                row = 0
            elif row or place * size % align == 0:
                row += 1
                if row >= shape.last[group]:
                    return (place - 1 + row) * size
        blocks = row
    elif kind == STATE:
        blocks = most
        while blocks and (blocks * size % align or not has(shape, present, nodes, blocks * size, begin, end)):
            blocks -= 1
    else:
        blocks = most_tokens // shape.span[group] * shape.span[group] // shape.unit_tokens // size
        while blocks < most and has(shape, present, nodes, (blocks + 1) * size, begin, end):
            blocks += 1
    return blocks * size // align * align


@numba.njit(cache=True)
def has(shape: Any, present: Any, nodes: Any, length: int, begin: int, end: int) -> bool:
    """Whether all of some groups have the block that ends at a length."""
    first = nodes[length - 1] * shape.kind.size
    found = True
    for place in range(begin, end):
        found &= present[first + shape.order[place]] > 0
    return found


@numba.njit(cache=True)
def keeps(shape: Any, group: int, block: int, ends: Any) -> bool:
    """Whether vLLM caches a block of a group: the mask of sparse retention.

    Args:
        shape: the groups.
        group: of the block.
        block: its place in the request.
        ends: tokens at which a later request may resume.
    """
    kind = shape.kind[group]
    if kind in (FULL, CHUNK) or (kind == STATE and shape.retention < 0):
        return True
    size, need = shape.units[group] * shape.unit_tokens, shape.last[group]
    align = shape.alignment * shape.unit_tokens
    if shape.retention:
        segment = (align if shape.retention < 0 else shape.retention) // size
        if need >= segment or block % segment >= segment - need:
            return True
    if shape.retention >= 0:
        for tokens in ends:
            end = tokens // align * align // size
            if end - need <= block < end:
                return True
    return False


@numba.njit(cache=True)
def next_tokens(shape: Any, start: int, prompt: int, junction: int, most: int) -> int:
    """Tokens of a prompt that the next step computes: where there are states, up to a place where one is kept."""
    end, size = min(prompt, start + most), shape.state_tokens
    if not size:
        return end - start
    aligned = end // size * size
    if end < prompt and (aligned > start or size <= most):
        end = aligned
    first = end
    if start % size:
        first = min(first, (start // size + 1) * size)
    last = (prompt - 1) // size * size
    if last > start and not (end == prompt and keeps_inside(shape, start, end)):
        first = min(first, last)
    shared = start + (junction - start) // size * size
    if shared > start and junction < end:
        first = min(first, shared)
    return first - start


@numba.njit(cache=True)
def keeps_inside(shape: Any, start: int, end: int) -> bool:
    """Whether a step that computes the tokens from start to end may keep the state at a boundary between them."""
    size = shape.state_tokens
    if not shape.inner_tokens or start % size:
        return False
    last = (end - 1) // size * size
    return start + size <= last and (last - start) % shape.inner_tokens == 0


@numba.njit(cache=True)
def skipped_blocks(shape: Any, group: int, tokens: int) -> int:
    """Blocks that a group needs no longer once so many tokens are computed."""
    kind, span = shape.kind[group], shape.span[group]
    if kind == FULL:
        return 0
    skipped = tokens // span * span if kind == CHUNK else max(0, tokens - span + 1)
    return skipped // (shape.units[group] * shape.unit_tokens)
