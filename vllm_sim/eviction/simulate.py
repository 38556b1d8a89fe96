"""One run of a policy over chains, and LRU's hits at every capacity."""

from dataclasses import dataclass
from typing import Any, NamedTuple

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


class BlockEvents(NamedTuple):
    """What a cache stored and removed, as nodes; a node is named once for each block."""

    stored: list[int]
    removed: list[int]


class SimulatedCache:
    """A cache that serves requests by the kernel.

    Args:
        chains: the requests.
        policy: a name or `module:Class`; a class that is not compiled runs as plain Python, all of it.
        capacity: usable blocks, None for a cache that never evicts.
        params: the policy's parameters.
        seed: for policies that draw.
        rows: the requests that it will serve, which `belady` alone knows; None: all.
        out: what it did is written there, see kernel.py; [requests, 6]. None: its own.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        chains: Chains,
        policy: str,
        capacity: int | None,
        params: dict[str, Any] | None = None,
        seed: int = 0,
        rows: Array | None = None,
        out: Array | None = None,
    ):
        capacity = checked_capacity(chains, capacity)
        ranker = make_policy(policy, make_context(chains, policy, capacity, seed, rows), params)
        self._chains, self._index = chains, PrefixIndex(capacity, chains.working_set, ranker, recycle=False)
        self._slots = kernel.empty_slots(capacity)
        self.out = np.zeros((chains.need.size, 6), np.int64) if out is None else out
        self._compiled = is_compiled(type(ranker))
        self._pair: Any = (self._index, ranker)
        if self._compiled:
            self._pair = native(self._index), native(ranker)
        self._seen: npt.NDArray[np.int32] | None = None

    @property
    def evicted_blocks(self) -> int:
        """So far."""
        return int(self._index.counts[EVICTED])

    @property
    def orphan_blocks(self) -> int:
        """Most at any time."""
        return int(self._index.counts[ORPHANS])

    def serve(self, rows: Array) -> None:
        """Serves these requests, in their order."""
        function = kernel.serve if self._compiled else kernel.serve.py_func
        function(*self._pair, self._chains, self._slots, rows, self.out)

    def hit_blocks(self, row: int) -> int:
        """How many blocks a request would hit now."""
        begin, limit = self._chains.begins[row], int(self._chains.hittable[row])
        if self._chains.need[row] > self._slots.blank.size:
            return 0
        gone = np.flatnonzero(self._index.first[self._chains.nodes[begin : begin + limit]] < 0)
        return int(gone[0]) if gone.size else limit

    def take_events(self) -> BlockEvents:
        """What the last request stored and removed; to be called after each, as a block changes once in one request."""
        before = np.full_like(self._index.node, -1) if self._seen is None else self._seen
        after = self._seen = self._index.node.copy()
        changed = np.flatnonzero(before != after)
        gone, new = before[changed], after[changed]
        return BlockEvents(new[new >= 0].tolist(), gone[gone >= 0].tolist())


def simulate(
    chains: Chains, policy: str, capacity: int | None, params: dict[str, Any] | None = None, seed: int = 0
) -> Run:
    """Runs all requests through a cache; arguments and errors as those of `SimulatedCache`."""
    cache = SimulatedCache(chains, policy, capacity, params, seed)
    cache.serve(np.arange(chains.need.size))
    rejected = chains.need > checked_capacity(chains, capacity)
    return run_of(cache.out, rejected, cache.evicted_blocks, cache.orphan_blocks)


def checked_capacity(chains: Chains, capacity: int | None) -> int:
    """Blocks of a cache; None: as many as are needed.

    Raises:
        ValueError: there are none.
    """
    if capacity is None:
        # Copies of a node take room as well: the sum of all blocks is always enough.
        return max(1, int(chains.need.sum()))
    if capacity < 1:
        raise ValueError(f"capacity is {capacity} blocks; allowed: 1 or more")
    return capacity


def run_of(out: Array, rejected: npt.NDArray[np.bool_], evicted_blocks: int, orphan_blocks: int) -> Run:
    """A run, from what caches have written; `out` as the kernel has it, [requests, 6]."""
    hit, generated, cold, missed, by, allocated = (np.ascontiguousarray(column) for column in out.T)
    return Run(hit, generated, cold, missed, by, allocated, rejected, evicted_blocks, orphan_blocks)


def make_context(chains: Chains, policy: str, capacity: int, seed: int = 0, rows: Array | None = None) -> PolicyContext:
    """What a policy is made for; only `belady` gets the future: of these rows, None: all."""
    categories = int(chains.category.max(initial=0)) + 1
    context = PolicyContext(capacity, chains.working_set, categories, seed)
    if policy != "belady":
        return context
    uses, first_use = future(chains, capacity, rows)
    return context._replace(uses=uses, first_use=first_use)
