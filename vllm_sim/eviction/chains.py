"""What a trace asks of a cache: for each request its blocks, as numbers in order of first appearance.

Faithful to vLLM 0.32: a block is named by its content and everything before it, the cache salt included, so the same id
after another prefix is another node. Of P prompt and O generated tokens floor((P+O-1)/B) blocks are cached, as the last
generated token is never computed (a request without output computes its prompt, as one with a single token does);
floor((P-1)/B) can be hit. Raw blocks (a convention of published numbers, not vLLM's): every id is one block, a partial
tail included, outputs are left out, all can be hit.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from vllm_sim.block_rules import computed_tokens, full_blocks, hittable_blocks, needed_blocks
from vllm_sim.trace.hints import NO_HINTS

Array = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Requests(NamedTuple):
    """Requests in the order they are served; arrays of one length but for `ids`."""

    ids: Array
    """Block ids, request after request: of the full blocks of the prompt, then of the block that its partial tail and
    the generated tokens fill, and of the generated ones. Cached blocks without an id are fresh: they are never needed
    for again."""
    begins: Array
    """Where a request's ids begin; [requests + 1]."""
    prompt_tokens: Array
    output_tokens: Array
    category: Array
    """Workload and turn as one small number."""
    salt: Array
    """Requests share blocks only if their salt is the same; 0 or more."""
    arrival_ms: Floats | None = None
    """When they arrive, NaN where that is not known; None: nowhere."""
    hints: Floats | None = None
    """What their clients say, [n, 4]: the fields of `trace.hints.Hints`; None: nothing."""


class Chains(NamedTuple):
    """Requests as the kernel reads them, at one block size; counts are of blocks."""

    nodes: Array
    """Nodes of the blocks that are cached, request after request."""
    begins: Array
    need: Array
    """Blocks a request takes, hits included."""
    prompt_need: Array
    prompt: Array
    """Full blocks of the prompt."""
    hittable: Array
    category: Array
    working_set: int
    """Distinct nodes."""
    arrival_ms: Floats
    hints: Floats


def reorder(requests: Requests, order: npt.NDArray[np.intp]) -> Requests:
    """The same requests in another order."""
    lengths = np.diff(requests.begins)[order]
    ends = np.cumsum(lengths)
    places = np.repeat(requests.begins[order] - (ends - lengths), lengths) + np.arange(ends[-1])
    return Requests(
        ids=requests.ids[places],
        begins=np.concatenate([[0], ends]),
        prompt_tokens=requests.prompt_tokens[order],
        output_tokens=requests.output_tokens[order],
        category=requests.category[order],
        salt=requests.salt[order],
        arrival_ms=None if requests.arrival_ms is None else requests.arrival_ms[order],
        hints=None if requests.hints is None else requests.hints[order],
    )


def link(requests: Requests, block_size: int, raw: bool = False, named_tails: bool = False) -> Chains:
    """Numbers the blocks of requests.

    Args:
        requests: their ids stand for `block_size` tokens.
        block_size: tokens.
        raw: raw blocks instead of vLLM's rules.
        named_tails: an id after those of a prompt's full blocks is its partial tail's, as in traces of hash ids; it
            names less than the block that the tail becomes, which is fresh therefore, as all blocks after it are.

    Raises:
        ValueError: a size is out of range, or a prompt has fewer ids than full blocks.
    """
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; allowed: 1 or more")
    given = np.diff(requests.begins)
    tokens = requests.prompt_tokens
    if (tokens < 1).any():
        raise ValueError(f"prompt_tokens is {tokens.min()}; allowed: 1 or more")
    full = tokens // block_size
    short = np.flatnonzero(given < full)
    if short.size:
        row = int(short[0])
        raise ValueError(f"request {row} has {given[row]} ids; its prompt of {tokens[row]} tokens needs {full[row]}")
    if raw:
        need = prompt_need = full = cached = hittable = given
        usable = given
    else:
        computed = computed_tokens(tokens, np.maximum(requests.output_tokens, 1))
        need, prompt_need = needed_blocks(computed, block_size), needed_blocks(tokens, block_size)
        cached, hittable = full_blocks(computed, block_size), hittable_blocks(tokens, block_size)
        usable = np.minimum(np.minimum(given, full) if named_tails else given, cached)
    begins = np.concatenate([[0], np.cumsum(cached)])
    nodes, count = _number(requests.ids, requests.begins, usable, begins, requests.salt)
    arrival_ms = np.full(tokens.size, np.nan) if requests.arrival_ms is None else requests.arrival_ms
    hints = np.full((tokens.size, len(NO_HINTS)), np.nan) if requests.hints is None else requests.hints
    return Chains(nodes, begins, need, prompt_need, full, hittable, requests.category, count, arrival_ms, hints)


@numba.njit(cache=True)
def _number(ids: Any, id_begins: Any, usable: Any, begins: Any, salt: Any) -> Any:
    """Nodes of all blocks, and how many there are: an id after another parent is another node."""
    nodes = np.empty(begins[-1], np.int64)
    size = 16
    while size < 2 * usable.sum():
        size *= 2
    # A hash table with open addressing of nodes, 0: none, and each node's parent and id.
    found = np.zeros(size, np.int32)
    parents, names = np.empty(nodes.size, np.int32), np.empty(nodes.size, np.int64)
    count = 0
    for row in range(begins.size - 1):
        parent = -1 - salt[row]
        for i in range(begins[row + 1] - begins[row]):
            node = -1
            if i < usable[row]:
                name = ids[id_begins[row] + i]
                mixed = (np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(name)
                mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
                slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1))
                node = found[slot] - 1
                while node >= 0 and (parents[node] != parent or names[node] != name):
                    slot = (slot + 1) & (size - 1)
                    node = found[slot] - 1
                if node < 0:
                    parents[count], names[count], found[slot] = parent, name, count + 1
            if node < 0:
                node = count
                count += 1
            nodes[begins[row] + i] = node
            parent = node
    return nodes, count
