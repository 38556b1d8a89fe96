"""Why a block was not hit: what vLLM's allocations and KV events tell while an engine runs.

Nothing is decided here. `watch` stands before one manager's allocate_slots, calls it, and reads the KV events of that
call: so an eviction is known with the request whose allocation caused it. Read: v1/core/kv_cache_manager.py and
block_pool.py of vLLM 0.32. Under synchronous scheduling all caching happens in allocate_slots; asynchronous scheduling
caches generated blocks by cache_blocks, which is watched too. Blocks come free in the pool's free_blocks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_events import BlockRemoved, BlockStored
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

from vllm_sim.engine.lifetimes import Lifetimes


@dataclass(slots=True)
class Admission:
    """What a request found at its first admission, in blocks; and what it took until its end."""

    hit_blocks: int
    hit_generated_blocks: int
    cold_blocks: int
    evicted_blocks: int
    evicted_by: str | None
    """Request whose allocation evicted the first block that was missed though it had been seen."""
    allocated_blocks: int = 0
    readmission_hit_tokens: int = 0


class Ledger:
    """Blocks by hash: seen, cached, evicted by whom; and the admissions by request."""

    def __init__(self, block_size: int):
        self.block_size = block_size
        self.lifetimes = Lifetimes()
        self.admissions: dict[str, Admission] = {}
        self.evictions: dict[tuple[str, str], int] = {}
        """(request that cached the block last, request whose allocation evicted it): blocks."""
        self.evicted_blocks = self.orphan_blocks = 0
        self._orphans = 0
        self._copies: dict[Any, int] = {}
        self._owner: dict[Any, str] = {}
        self._evictor: dict[Any, str] = {}
        self._parent: dict[Any, Any] = {}
        self._children: dict[Any, int] = {}
        self._generated: dict[int, bool] = {}
        self._cached: dict[str, int] = {}
        """How many blocks of a request are cached, hits included."""

    @property
    def working_set_blocks(self) -> int:
        """Distinct blocks that were ever cached."""
        return len(self._owner)

    def watch(self, manager: KVCacheManager) -> None:
        """Puts the ledger before a manager's allocate_slots and cache_blocks, and its pool's free_blocks."""
        allocate, cache, free = manager.allocate_slots, manager.cache_blocks, manager.block_pool.free_blocks

        def allocate_slots(
            request: Any, num_new_tokens: int, num_new_computed_tokens: int = 0, *args: Any, **kwargs: Any
        ) -> Any:
            name, hit = request.request_id, kwargs.get("new_computed_blocks")
            is_admission = not request.num_computed_tokens
            is_first = is_admission and name not in self.admissions
            found = self._look(request, num_new_computed_tokens, hit) if is_first else None
            blocks = allocate(request, num_new_tokens, num_new_computed_tokens, *args, **kwargs)
            if blocks is not None:
                if found is not None:
                    self.admissions[name] = found
                if is_admission:
                    self._admit(request, num_new_computed_tokens, hit)
                self.lifetimes.computed_tokens += num_new_tokens
                self._take(name, request, blocks, manager)
            return blocks

        def cache_blocks(request: Any, num_computed_tokens: int) -> None:
            cache(request, num_computed_tokens)
            self._read(request.request_id, manager)

        def free_blocks(ordered_blocks: Iterable[Any]) -> None:
            blocks = list(ordered_blocks)
            free(blocks)
            self.lifetimes.released([block.block_id for block in blocks if not block.ref_cnt])

        manager.allocate_slots, manager.cache_blocks = allocate_slots, cache_blocks
        manager.block_pool.free_blocks = free_blocks

    def forget(self, name: str) -> Admission:
        """What a request that has ended found; it is not kept."""
        self._cached.pop(name, None)
        return self.admissions.pop(name)

    def _admit(self, request: Any, hit_tokens: int, hit_blocks: Any) -> None:
        """A request starts, or returns from a preemption."""
        self._cached[request.request_id] = hit_tokens // self.block_size
        if request.num_preemptions:
            self.admissions[request.request_id].readmission_hit_tokens += hit_tokens
        else:
            self.lifetimes.requests += 1
        if hit_tokens:
            self.lifetimes.hit(hit_blocks.get_block_ids()[0], is_return=request.num_preemptions > 0)

    def _look(self, request: Any, hit_tokens: int, hit_blocks: Any) -> Admission:
        hit = hit_tokens // self.block_size
        hittable = (request.num_prompt_tokens - 1) // self.block_size
        names = [maybe_convert_block_hash(name) for name in request.block_hashes[:hittable]]
        known = next((i for i, name in enumerate(names) if name not in self._owner), hittable)
        known = max(known, hit)
        generated = sum(self._generated.get(block, False) for block in hit_blocks.get_block_ids()[0]) if hit else 0
        by = self._evictor.get(names[hit]) if known > hit else None
        return Admission(hit, generated, hittable - known, known - hit, by)

    def look_at_rejected(self, request: Any) -> Admission:
        """What a request that cannot fit would have found: nothing is hit, and what was seen counts as evicted."""
        found = self._look(request, 0, None)
        found.evicted_by = None
        return found

    def _take(self, name: str, request: Any, blocks: Any, manager: KVCacheManager) -> None:
        new = blocks.get_block_ids()[0]
        if new:
            start = len(manager.get_blocks(name).blocks[0]) - len(new)
            full = request.num_prompt_tokens // self.block_size
            for place, block in enumerate(new, start):
                self._generated[block] = place >= full
            self.admissions[name].allocated_blocks += len(new)
            self.lifetimes.taken(new)
        self._read(name, manager)

    def _read(self, name: str, manager: KVCacheManager) -> None:
        """Reads the events of a call that was for a request."""
        for event in manager.take_events():
            if isinstance(event, BlockStored):
                parent = event.parent_block_hash
                for block_hash in event.block_hashes:
                    self._store(block_hash, parent, name)
                    parent = block_hash
                start = self._cached[name]
                self._cached[name] = end = start + len(event.block_hashes)
                self.lifetimes.cached([block.block_id for block in manager.get_blocks(name).blocks[0][start:end]])
            elif isinstance(event, BlockRemoved):
                for block_hash in event.block_hashes:
                    self._remove(block_hash, name)

    def _store(self, block_hash: Any, parent: Any, name: str) -> None:
        self._owner[block_hash] = name
        self._parent[block_hash] = parent
        copies = self._copies.get(block_hash, 0)
        self._copies[block_hash] = copies + 1
        if not copies:
            self._count(block_hash, 1)

    def _remove(self, block_hash: Any, name: str) -> None:
        self.evicted_blocks += 1
        self._evictor[block_hash] = name
        pair = self._owner[block_hash], name
        self.evictions[pair] = self.evictions.get(pair, 0) + 1
        self._copies[block_hash] -= 1
        if not self._copies[block_hash]:
            self._count(block_hash, -1)
            self.orphan_blocks = max(self.orphan_blocks, self._orphans)

    def _count(self, block_hash: Any, change: int) -> None:
        """Keeps the number of cached blocks whose parent's hash is in no block."""
        self._orphans -= change * self._children.get(block_hash, 0)
        parent = self._parent[block_hash]
        if parent is not None:
            self._children[parent] = self._children.get(parent, 0) + change
            if not self._copies.get(parent, 0):
                self._orphans += change
