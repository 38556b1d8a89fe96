"""Why a prompt was not hit, where layers do not all keep the same: sliding windows, chunks, states, several groups.

Nothing is decided here. `watch` stands before one manager's allocate_slots and cache_blocks and before its pool, calls
them, and notes what is cached under which key (hash and group), and what an allocation evicts. Read: v1/core/
kv_cache_manager.py, kv_cache_coordinator.py, single_type_kv_cache_manager.py and block_pool.py of vLLM 0.32.

A prompt is split at three boundaries, each of which upstream's lookup or plain rounding gives:

    hit        what the lookup found
    kept       what the same lookup finds where nothing was ever evicted: upstream's own lookup runs over a pool
               that has had every key. From hit to kept: evicted
    aligned    the last boundary of the hit alignment in what was ever computed. From kept to aligned: window, a block
               of a sliding window or a state that no group kept
    computed   the units of tokens, from the first on, that were ever computed. From aligned to computed: alignment

What follows is cold, and the tail as `replay/breakdown.py` has it. Units are as long as the run's block size where the
blocks that are hashed are whole multiples of it, else the greatest common divisor.
"""

from collections.abc import Iterable, KeysView, Sequence
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import KVCacheBlock

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine import compat
from vllm_sim.engine.backends.admissions import Admission, Admissions
from vllm_sim.engine.backends.block_log import CACHED, TAKEN
from vllm_sim.engine.backends.cache_groups import hit_alignment, keeps_everything, pool_without_end, unit_of
from vllm_sim.engine.backends.computed import Computed
from vllm_sim.engine.backends.ledger import Ledger


class GroupLedger(Admissions):
    """Keys of cached blocks: had, cached and evicted by which request; and the admissions by request.

    Args:
        manager: one that has served no request yet; its methods and its pool's are watched.
        block_size: the run's.
    """

    def __init__(self, manager: KVCacheManager, block_size: int):
        pool = manager.block_pool
        super().__init__(pool.num_gpu_blocks)
        self.unit_tokens = unit_of(manager, block_size)
        self.orphan_blocks = None
        """Not counted: a window's blocks are kept without those before them."""
        self._is_caching = manager.enable_caching
        self._alignment = hit_alignment(manager)
        self._computed = Computed(self.unit_tokens)
        self._all = pool_without_end(manager)
        self._had = self._all.block_pool.cached_block_hash_to_block
        self._cached = pool.cached_block_hash_to_block
        self._owner: dict[Any, str] = {}
        self._evictor: dict[Any, str] = {}
        self._last_unit: dict[str, tuple[int, int | str | None]] = {}
        """For each request how many of its units are computed, and the number of the last."""
        self._serving = ""
        self._lost: list[tuple[int, Any]] | None = None
        """Blocks and the keys that they have lost to the allocation under way; None outside of one."""
        self._watch(manager)

    @property
    def working_set_blocks(self) -> int:
        """Distinct blocks that were ever cached, of all groups."""
        return len(self._had)

    @property
    def hashes(self) -> KeysView[Any]:
        """Of the blocks that were ever cached, each with its group."""
        return self._owner.keys()

    def look_at_rejected(self, request: Any) -> Admission:
        """What a request that cannot fit would have found: nothing is hit, and what was kept counts as evicted."""
        found = self._look(request, 0)
        found.evicted_by = found.missed_group = None
        return found

    def forget(self, name: str) -> Admission:
        """See Admissions."""
        self._last_unit.pop(name, None)
        return super().forget(name)

    def _watch(self, manager: KVCacheManager) -> None:
        pool, keys = manager.block_pool, manager.block_pool.cached_block_hash_to_block
        allocate, cache, take, free = (
            manager.allocate_slots,
            manager.cache_blocks,
            pool.get_new_blocks,
            pool.free_blocks,
        )
        insert, pop = keys.insert, keys.pop

        def allocate_slots(
            request: Any,
            num_new_tokens: int,
            num_new_computed_tokens: int = 0,
            new_computed_blocks: Any = None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            name, computed = request.request_id, request.num_computed_tokens
            self._serving = name
            is_first = not computed and name not in self.admissions
            if is_first:
                self.admissions[name] = self._look(request, num_new_computed_tokens)
            blocks = allocate(request, num_new_tokens, num_new_computed_tokens, new_computed_blocks, *args, **kwargs)
            if blocks is None:
                if is_first:
                    del self.admissions[name]
                return None
            if not computed:
                self._admit(request, num_new_computed_tokens, new_computed_blocks)
            self.computed_tokens += num_new_tokens
            self._note_computed(request, computed + num_new_computed_tokens + num_new_tokens)
            return blocks

        def cache_blocks(request: Any, num_computed_tokens: int) -> None:
            self._serving = request.request_id
            cache(request, num_computed_tokens)
            self._note_computed(request, num_computed_tokens)

        def get_new_blocks(num_blocks: int) -> list[KVCacheBlock]:
            self._lost = []
            found = take(num_blocks)
            self._note_taken([block.block_id for block in found], self._lost)
            self._lost = None
            return found

        def free_blocks(ordered_blocks: Iterable[Any]) -> None:
            blocks = list(ordered_blocks)
            free(blocks)
            self.release([block.block_id for block in blocks if not block.ref_cnt and not block.is_null])

        def insert_key(key: Any, block: KVCacheBlock) -> None:
            insert(key, block)
            self._owner[key] = self._serving
            if self._had.get_one_block(key) is None:
                noted = KVCacheBlock(len(self._had) + 1)
                noted.set_block_hash(key)
                self._had.insert(key, noted)
            self.note(CACHED, [block.block_id])

        def pop_key(key: Any, block_id: int) -> KVCacheBlock | None:
            found = pop(key, block_id)
            if found is not None and self._lost is not None:
                self._lost.append((block_id, key))
            elif found is not None and self._cached.get_one_block(key) is None:
                self._forget(key)
            return found

        compat.ALLOCATE.put(manager, allocate_slots)
        compat.CACHE.put(manager, cache_blocks)
        compat.TAKE.put(pool, get_new_blocks)
        compat.FREE.put(pool, free_blocks)
        compat.INSERT.put(keys, insert_key)
        compat.POP.put(keys, pop_key)

    def _forget(self, key: Any) -> None:
        """A block got another key in its place, so that nothing is kept under this one, and nothing was evicted."""
        noted = self._had.get_one_block(key)
        if noted is not None:
            self._had.pop(key, noted.block_id)

    def _look(self, request: Any, hit_tokens: int) -> Admission:
        unit = self.unit_tokens
        hittable = hittable_blocks(request.num_prompt_tokens, unit)
        numbers = self._computed.known(request.cache_salt, request.prompt_token_ids[: hittable * unit])
        known = len(numbers) if self._is_caching else 0
        aligned = known * unit // self._alignment * self._alignment
        kept, needed = hit_tokens, None
        if aligned > hit_tokens:
            needed, kept, _ = self._all.find_longest_cache_hit(request.block_hashes, request.num_prompt_tokens - 1)
        hit = hit_tokens // unit
        found = Admission(
            hit_blocks=hit,
            hit_generated_blocks=self._computed.generated(numbers[:hit]),
            cold_blocks=hittable - max(known, hit),
            evicted_blocks=(kept - hit_tokens) // unit,
            evicted_by=None,
            window_blocks=(aligned - kept) // unit,
            alignment_blocks=known - aligned // unit,
        )
        if needed is not None and kept > hit_tokens:
            self._blame(found, needed)
        elif aligned > kept:
            found.missed_group = self._shortest(request, aligned)
        return found

    def _blame(self, found: Admission, needed: Sequence[Sequence[KVCacheBlock]]) -> None:
        """Names the group and the request that evicted the first block which the longer hit needs and nothing has."""
        for group, blocks in enumerate(needed):
            for block in blocks:
                key = block.block_hash
                if not block.is_null and key is not None and self._cached.get_one_block(key) is None:
                    found.missed_group, found.evicted_by = group, self._evictor.get(key)
                    return

    def _shortest(self, request: Any, boundary: int) -> int:
        """The group that, by itself and with nothing evicted, has the shortest hit up to a boundary."""
        found = []
        for group, single in enumerate(self._all.single_type_managers):
            _, tokens = single.find_longest_cache_hit(
                block_hashes=request.block_hashes,
                max_length=boundary,
                kv_cache_group_ids=[group],
                block_pool=self._all.block_pool,
                kv_cache_spec=single.kv_cache_spec,
                drop_eagle_block=False,
                alignment_tokens=self._alignment,
            )
            found.append((tokens, group))
        return min(found)[1]

    def _admit(self, request: Any, hit_tokens: int, hit_blocks: Any) -> None:
        """A request starts, or returns from a preemption."""
        name, unit = request.request_id, self.unit_tokens
        numbers = self._computed.known(request.cache_salt, request.all_token_ids[:hit_tokens])
        self._last_unit[name] = len(numbers), numbers[-1] if numbers else request.cache_salt
        assert len(numbers) == hit_tokens // unit
        blocks = []
        if hit_tokens:
            blocks = [block.block_id for group in hit_blocks.blocks for block in group if not block.is_null]
        self.count_admission(name, hit_tokens, blocks, request.num_preemptions > 0)

    def _note_computed(self, request: Any, tokens: int) -> None:
        """Notes the units of a request that are computed now; tokens that are not known yet are none."""
        unit = self.unit_tokens
        done, parent = self._last_unit[request.request_id]
        end = min(tokens, request.num_tokens) // unit
        for place in range(done, end):
            one = request.all_token_ids[place * unit : (place + 1) * unit]
            parent = self._computed.add(parent, one, (place + 1) * unit > request.num_prompt_tokens)
        if end > done:
            self._last_unit[request.request_id] = end, parent

    def _note_taken(self, blocks: list[int], lost: list[tuple[int, Any]]) -> None:
        """Blocks were allocated to the request that is served, and what was cached in them is evicted."""
        self.count_allocated(self._serving, len(blocks))
        self.note(TAKEN, blocks)
        owners = {}
        for block, key in lost:
            owners[block] = self._owner[key]
            self._evictor[key] = self._serving
        for owner in owners.values():
            self.count_evictions(owner, self._serving, 1)


def make_ledger(manager: KVCacheManager, unit_tokens: int) -> Ledger | GroupLedger:
    """Puts a ledger before a manager, which has served no request yet.

    Args:
        manager: watched from now on.
        unit_tokens: tokens in which hits and misses of several groups are counted; one of full attention has its block.
    """
    if not keeps_everything(manager):
        return GroupLedger(manager, unit_tokens)
    return Ledger(manager)
