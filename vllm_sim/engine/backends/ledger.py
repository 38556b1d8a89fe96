"""Why a block was not hit: what vLLM's allocations tell while an engine runs.

Nothing is decided here. The ledger stands before one manager's allocate_slots and cache_blocks and its pool's
free_blocks, calls them, and then looks at the request's blocks. Read: v1/core/kv_cache_manager.py,
single_type_kv_cache_manager.py and block_pool.py of vLLM 0.32: a block loses its hash when it is allocated anew, and at
no other time in a run without resets; so a cached block that is allocated has been evicted, by the request that is
served. num_cached_block says how many blocks of a request have a hash. KV events would tell the same and cost more.
"""

from array import array
from collections.abc import Iterable, KeysView, Sequence
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheManager

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine import compat
from vllm_sim.engine.backends.admissions import Admission, Admissions


class Ledger(Admissions):
    """Blocks by hash: seen, cached, evicted by which request; and the admissions by request. Hashes have numbers here.

    Every distinct block that was ever cached is kept, since what was evicted once may be missed at any time.

    Args:
        manager: one that has served nobody yet, of one group of full attention; its methods and its pool's are watched.
    """

    def __init__(self, manager: KVCacheManager):
        super().__init__()
        pool, (single,) = manager.block_pool, manager.coordinator.single_type_managers
        self.block_size = pool.hash_block_size
        self.orphan_blocks = self._orphans = 0
        self._number: dict[Any, int] = {}
        # By the number of a hash:
        self._owner: list[str] = []
        self._evictor: list[str | None] = []
        self._copies, self._children = array("i"), array("i")
        self._parent = array("i")
        """Or -1: it is the first block of its prompts."""
        # By vLLM's block number:
        self._held: list[int | None] = [None] * pool.num_gpu_blocks
        self._is_generated = bytearray(pool.num_gpu_blocks)
        """Of those that hold one."""
        self._cached: dict[str, int] = {}
        """How many blocks of a request are noted as cached, hits included."""
        # The manager's own, by request:
        self._blocks, self._full = single.req_to_blocks, single.num_cached_block
        self._watch(manager)

    @property
    def working_set_blocks(self) -> int:
        """Distinct blocks that were ever cached."""
        return len(self._number)

    @property
    def hashes(self) -> KeysView[Any]:
        """Of the blocks that were ever cached."""
        return self._number.keys()

    def _watch(self, manager: KVCacheManager) -> None:
        allocate, cache, free = manager.allocate_slots, manager.cache_blocks, manager.block_pool.free_blocks

        def allocate_slots(
            request: Any,
            num_new_tokens: int,
            num_new_computed_tokens: int = 0,
            new_computed_blocks: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            name, found = request.request_id, None
            hit: Sequence[int] = ()
            if not request.num_computed_tokens:
                if num_new_computed_tokens:
                    hit = new_computed_blocks.get_block_ids()[0]
                found = self.admissions.get(name) or self._look(request, hit)
            blocks = allocate(request, num_new_tokens, num_new_computed_tokens, new_computed_blocks, *args, **kwargs)
            if blocks is None:
                return None
            if found is not None:
                self.admissions[name] = found
                self._admit(request, hit)
            self.count_computed(num_new_tokens)
            if new := blocks.blocks[0]:
                self.take(name, new)
            self.cache(request)
            return blocks

        def cache_blocks(request: Any, num_computed_tokens: int) -> None:
            cache(request, num_computed_tokens)
            self.cache(request)

        def free_blocks(ordered_blocks: Iterable[Any]) -> None:
            blocks, held = list(ordered_blocks), self._held
            free(blocks)
            left = [block.block_id for block in blocks if not block.ref_cnt]
            self.lifetimes.released([block for block in left if held[block] is not None])

        compat.ALLOCATE.put(manager, allocate_slots)
        compat.CACHE.put(manager, cache_blocks)
        compat.FREE.put(manager.block_pool, free_blocks)

    def look_at_rejected(self, request: Any) -> Admission:
        """What a request that cannot fit would have found: nothing is hit, and what was seen counts as evicted."""
        found = self._look(request, ())
        found.evicted_by = None
        return found

    def forget(self, name: str) -> Admission:
        """See Admissions."""
        self._cached.pop(name, None)
        return super().forget(name)

    def _look(self, request: Any, hit_blocks: Sequence[int], loaded_blocks: int = 0) -> Admission:
        """What a request finds: blocks of the cache, and so many after them from elsewhere (tier_ledger.py)."""
        hit, hashes, numbers = len(hit_blocks) + loaded_blocks, request.block_hashes, self._number
        known = hittable = hittable_blocks(request.num_prompt_tokens, self.block_size)
        for place in range(hit, hittable):
            if hashes[place] not in numbers:
                known = place
                break
        by = self._evictor[numbers[hashes[hit]]] if known > hit else None
        generated = sum([self._is_generated[block] for block in hit_blocks])
        return Admission(hit, generated, hittable - known, known - hit, by)

    def _admit(self, request: Any, hit_blocks: Sequence[int]) -> None:
        """A request starts, or returns from a preemption."""
        self._cached[request.request_id] = len(hit_blocks)
        is_return = request.num_preemptions > 0
        self.count_admission(request.request_id, len(hit_blocks) * self.block_size, is_return)
        if hit_blocks:
            self.lifetimes.hit(hit_blocks, is_return)

    def take(self, name: str, new: Sequence[Any]) -> None:
        """Blocks were allocated to a request, and what was cached in them is evicted."""
        self.count_allocated(name, len(new))
        held = self._held
        evicted = [block.block_id for block in new if held[block.block_id] is not None]
        if evicted:
            self.lifetimes.taken(evicted)
            self._evict(evicted, name)

    def _evict(self, blocks: list[int], name: str) -> None:
        held, copies, children, numbers = self._held, self._copies, self._children, list[int]()
        for block in blocks:
            number = held[block]
            assert number is not None
            numbers.append(number)
            held[block] = None
            self._evictor[number] = name
            copies[number] -= 1
            if not copies[number]:
                # Its children lose their parent, and if it had lost its own, there is one less of such.
                self._orphans += children[number]
                parent = self._parent[number]
                if parent >= 0:
                    children[parent] -= 1
                    self._orphans -= not copies[parent]
                self.orphan_blocks = max(self.orphan_blocks, self._orphans)
        self.count_evictions([self._owner[number] for number in numbers], name)

    def cache(self, request: Any) -> None:
        """Notes the blocks of a request that have got their hash since the last call."""
        name = request.request_id
        start, full = self._cached[name], self._full.get(name, 0)
        if full <= start:
            return
        self._cached[name] = full
        hashes = request.block_hashes[start:full]
        blocks = [block.block_id for block in self._blocks[name][start:full]]
        numbers = self._numbers(hashes, self._number[request.block_hashes[start - 1]] if start else -1, name)
        held, is_generated = self._held, self._is_generated
        prompt = request.num_prompt_tokens // self.block_size - start
        for place, block in enumerate(blocks):
            held[block] = numbers[place]
            is_generated[block] = place >= prompt
        self.lifetimes.cached(blocks)

    def _numbers(self, hashes: Sequence[Any], parent: int, name: str) -> list[int]:
        """Counts blocks that a request has cached, one after the other, after a parent; returns their numbers."""
        numbers, copies, children = self._number, self._copies, self._children
        found: list[int] = []
        for key in hashes:
            number = numbers.get(key)
            if number is None:
                break
            found.append(number)
            self._owner[number] = name
            copies[number] += 1
            if copies[number] == 1:
                self._orphans -= children[number]
                if parent >= 0:  # it is cached: the request has it
                    children[parent] += 1
            parent = number
        # A request that caches a block has cached those before it: after the first new one all are new.
        new = hashes[len(found) :]
        if new:
            begin, count = len(numbers), len(new)
            added = range(begin, begin + count)
            numbers.update(zip(new, added, strict=True))
            self._owner += [name] * count
            self._evictor += [None] * count
            copies.extend([1] * count)
            self._parent.append(parent)
            self._parent.extend(added[:-1])
            children.extend([1] * (count - 1))
            children.append(0)
            if parent >= 0:
                children[parent] += 1
            found += added
        return found
