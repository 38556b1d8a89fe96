"""One run of a policy over chains, and LRU's hits at every capacity."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Array, Chains
from vllm_sim.eviction.compiled import is_compiled, native
from vllm_sim.eviction.future import future
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.prefix_index import EVICTED, ORPHANS, PrefixIndex
from vllm_sim.eviction.registry import make_policy


@dataclass(frozen=True, slots=True)
class Run:
    """What a cache did; arrays are counts of blocks per request."""

    hit: Array
    hit_generated: Array
    """Hit blocks that were cached with a generated token in them."""
    cold: Array
    """Blocks that could have been hit, were they not new."""
    missed: Array
    """Blocks that an unlimited cache would have hit."""
    evicted_by: Array
    """The row that evicted the first missed block, -1: none."""
    allocated: Array
    rejected: npt.NDArray[np.bool_]
    evicted_blocks: int
    orphan_blocks: int


def simulate(
    chains: Chains, policy: str, capacity: int | None, params: dict[str, Any] | None = None, seed: int = 0
) -> Run:
    """Runs the requests through a cache.

    Args:
        chains: the requests.
        policy: a name or `module:Class`; a class that is not compiled runs as plain Python, all of it.
        capacity: usable blocks, None for a cache that never evicts.
        params: the policy's parameters.
        seed: for policies that draw.

    Raises:
        ValueError: a value is out of range.
    """
    if capacity is None:
        # Copies of a node take room as well: the sum of all blocks is always enough.
        capacity = max(1, int(chains.need.sum()))
    if capacity < 1:
        raise ValueError(f"capacity is {capacity} blocks; allowed: 1 or more")
    ranker = make_policy(policy, make_context(chains, policy, capacity, seed), params)
    index = PrefixIndex(capacity, chains.working_set, ranker, recycle=False)
    out = np.zeros((chains.need.size, 6), np.int64)
    if is_compiled(type(ranker)):
        kernel.serve(native(index), native(ranker), chains, capacity, out)
    else:
        kernel.serve.py_func(index, ranker, chains, capacity, out)
    hit, generated, cold, missed, by, allocated = (np.ascontiguousarray(column) for column in out.T)
    evicted, orphans = int(index.counts[EVICTED]), int(index.counts[ORPHANS])
    return Run(hit, generated, cold, missed, by, allocated, chains.need > capacity, evicted, orphans)


def make_context(chains: Chains, policy: str, capacity: int, seed: int = 0) -> PolicyContext:
    """What a policy is made for; only `belady` gets the future."""
    categories = int(chains.category.max(initial=0)) + 1
    context = PolicyContext(capacity, chains.working_set, categories, seed)
    if policy != "belady":
        return context
    uses, first_use = future(chains, capacity)
    return context._replace(uses=uses, first_use=first_use)
