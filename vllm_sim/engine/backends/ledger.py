"""Why a block was not hit: what vLLM's allocations tell while an engine runs.

Nothing is decided here. `watch` stands before one manager's allocate_slots and cache_blocks and its pool's free_blocks,
calls them, and then looks at the request's blocks. Read: v1/core/kv_cache_manager.py, single_type_kv_cache_manager.py
and block_pool.py of vLLM 0.32: a block loses its hash when it is allocated anew, and at no other time in a run without
resets; so a cached block that is allocated has been evicted, by the request that is served. A block that has a hash
after a call is cached. KV events would tell the same and cost more.
"""

from collections.abc import Iterable, KeysView
from dataclasses import dataclass
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheManager

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine import compat
from vllm_sim.engine.backends.lifetimes import Lifetimes


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
    # Where layers do not all keep the same (group_ledger.py):
    window_blocks: int = 0
    alignment_blocks: int = 0
    missed_group: int | None = None
    """The cache group whose block was missed first."""
    # Where blocks are in CPU memory too (tier_ledger.py); the three are what evicted_blocks are made of:
    external_blocks: int = 0
    """Of the hit."""
    tier_evicted_blocks: int = 0
    tier_pending_blocks: int = 0
    tier_never_blocks: int = 0


class Ledger:
    """Blocks by hash: seen, cached, evicted by whom; and the admissions by request. Hashes have numbers here."""

    def __init__(self, block_size: int):
        self.block_size = block_size
        self.lifetimes = Lifetimes()
        self.admissions: dict[str, Admission] = {}
        self.evictions: dict[tuple[str, str], int] = {}
        """(request that cached the block last, request whose allocation evicted it): blocks."""
        self.evicted_blocks = self.orphan_blocks = 0
        self._orphans = 0
        self._number: dict[Any, int] = {}
        # By the number of a hash:
        self._copies: list[int] = []
        self._owner: list[str] = []
        self._evictor: list[str | None] = []
        self._parent: list[int | None] = []
        self._children: list[int] = []
        # By vLLM's block number:
        self._hash: dict[int, int] = {}
        self._generated: dict[int, bool] = {}
        self._cached: dict[str, int] = {}
        """How many blocks of a request are cached, hits included."""

    @property
    def working_set_blocks(self) -> int:
        """Distinct blocks that were ever cached."""
        return len(self._number)

    @property
    def hashes(self) -> KeysView[Any]:
        """Of the blocks that were ever cached."""
        return self._number.keys()

    def watch(self, manager: KVCacheManager) -> None:
        """Puts the ledger before a manager, which has served nobody yet."""
        allocate, cache, free = manager.allocate_slots, manager.cache_blocks, manager.block_pool.free_blocks

        def allocate_slots(
            request: Any,
            num_new_tokens: int,
            num_new_computed_tokens: int = 0,
            new_computed_blocks: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            name, computed, hit = request.request_id, request.num_computed_tokens, new_computed_blocks
            is_first = not computed and name not in self.admissions
            found = self._look(request, num_new_computed_tokens, hit) if is_first else None
            blocks = allocate(request, num_new_tokens, num_new_computed_tokens, hit, *args, **kwargs)
            if blocks is None:
                return None
            if found is not None:
                self.admissions[name] = found
            if not computed:
                self._admit(request, num_new_computed_tokens, hit)
            self.lifetimes.computed_tokens += num_new_tokens
            if blocks.blocks and blocks.blocks[0]:
                self._take(request, [block.block_id for block in blocks.blocks[0]], manager)
            if (computed + num_new_computed_tokens + num_new_tokens) // self.block_size > self._cached[name]:
                self._note_cached(request, manager)
            return blocks

        def cache_blocks(request: Any, num_computed_tokens: int) -> None:
            cache(request, num_computed_tokens)
            if num_computed_tokens // self.block_size > self._cached[request.request_id]:
                self._note_cached(request, manager)

        def free_blocks(ordered_blocks: Iterable[Any]) -> None:
            blocks = list(ordered_blocks)
            free(blocks)
            self.lifetimes.released([block.block_id for block in blocks if not block.ref_cnt])

        compat.ALLOCATE.put(manager, allocate_slots)
        compat.CACHE.put(manager, cache_blocks)
        compat.FREE.put(manager.block_pool, free_blocks)

    def set_time(self, now_ms: float) -> None:
        """What follows happens at this virtual time."""
        self.lifetimes.now_ms = now_ms

    def set_computed(self, tokens: int) -> None:
        """What follows happens when so many tokens have been computed."""
        self.lifetimes.computed_tokens = tokens

    def look_at_rejected(self, request: Any) -> Admission:
        """What a request that cannot fit would have found: nothing is hit, and what was seen counts as evicted."""
        found = self._look(request, 0, None)
        found.evicted_by = None
        return found

    def forget(self, name: str) -> Admission:
        """What a request that has ended found; it is not kept."""
        self._cached.pop(name, None)
        return self.admissions.pop(name)

    def _look(self, request: Any, hit_tokens: int, hit_blocks: Any) -> Admission:
        hit, hashes, numbers = hit_tokens // self.block_size, request.block_hashes, self._number
        known = hittable = hittable_blocks(request.num_prompt_tokens, self.block_size)
        for place in range(hit, hittable):
            if hashes[place] not in numbers:
                known = place
                break
        generated = sum(self._generated.get(block, False) for block in hit_blocks.get_block_ids()[0]) if hit else 0
        by = self._evictor[numbers[hashes[hit]]] if known > hit else None
        return Admission(hit, generated, hittable - known, known - hit, by)

    def _admit(self, request: Any, hit_tokens: int, hit_blocks: Any) -> None:
        """A request starts, or returns from a preemption."""
        self._cached[request.request_id] = hit_tokens // self.block_size
        if request.num_preemptions:
            self.admissions[request.request_id].readmission_hit_tokens += hit_tokens
        else:
            self.lifetimes.requests += 1
        if hit_tokens:
            self.lifetimes.hit(hit_blocks.get_block_ids()[0], is_return=request.num_preemptions > 0)

    def _take(self, request: Any, new: list[int], manager: KVCacheManager) -> None:
        """Blocks were allocated, and what was cached in them is evicted."""
        name = request.request_id
        start = len(manager.get_blocks(name).blocks[0]) - len(new)
        prompt = max(0, request.num_prompt_tokens // self.block_size - start)
        self._generated.update(dict.fromkeys(new[:prompt], False))
        self._generated.update(dict.fromkeys(new[prompt:], True))
        self.admissions[name].allocated_blocks += len(new)
        self.lifetimes.taken(new)
        for block in new:
            number = self._hash.pop(block, None)
            if number is not None:
                self._evict(number, name)

    def _note_cached(self, request: Any, manager: KVCacheManager) -> None:
        """Notes the blocks of a request that have got their hash since the last call."""
        name, hashes, numbers = request.request_id, request.block_hashes, self._number
        blocks = manager.get_blocks(name).blocks[0]
        start = end = self._cached[name]
        parent = numbers[hashes[start - 1]] if start else None
        while end < len(blocks) and blocks[end].block_hash is not None:
            number = numbers.get(hashes[end])
            if number is None:
                number = numbers[hashes[end]] = len(numbers)
                self._copies.append(0)
                self._owner.append(name)
                self._evictor.append(None)
                self._parent.append(parent)
                self._children.append(0)
            self._owner[number] = name
            self._copies[number] += 1
            if self._copies[number] == 1:
                self._count(number, 1)
            self._hash[blocks[end].block_id] = parent = number
            end += 1
        self._cached[name] = end
        self.lifetimes.cached([block.block_id for block in blocks[start:end]])

    def _evict(self, number: int, name: str) -> None:
        self.evicted_blocks += 1
        self._evictor[number] = name
        pair = self._owner[number], name
        self.evictions[pair] = self.evictions.get(pair, 0) + 1
        self._copies[number] -= 1
        if not self._copies[number]:
            self._count(number, -1)
            self.orphan_blocks = max(self.orphan_blocks, self._orphans)

    def _count(self, number: int, change: int) -> None:
        """Keeps the number of cached blocks whose parent's hash is in no block."""
        self._orphans -= change * self._children[number]
        parent = self._parent[number]
        if parent is not None:
            self._children[parent] += change
            if not self._copies[parent]:
                self._orphans += change
