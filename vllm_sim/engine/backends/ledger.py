"""Why a block was not hit: what vLLM's allocations tell while an engine runs.

Nothing is decided here. The ledger stands before one manager's allocate_slots and cache_blocks and its pool's
free_blocks, calls them, and then looks at the request's blocks. Read: v1/core/kv_cache_manager.py,
single_type_kv_cache_manager.py and block_pool.py of vLLM 0.32: a block loses its hash when it is allocated anew, and at
no other time in a run without resets; so a cached block that is allocated has been evicted, by the request that is
served. num_cached_block says how many blocks of a request have a hash. KV events would tell the same and cost more.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from vllm.v1.core.kv_cache_manager import KVCacheManager

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine import compat
from vllm_sim.engine.backends import ledger_kernel as kernel
from vllm_sim.engine.backends.admissions import Admission, Admissions
from vllm_sim.engine.backends.block_log import CACHED, TAKEN

_FIRST_HASHES = 1024
"""Room that there is at first."""

_NONE = range(0)


class Ledger(Admissions):
    """Blocks by hash: seen, cached, evicted by which request; and the admissions by request. Hashes have numbers here.

    Every distinct block that was ever cached is kept, since what was evicted once may be missed at any time: 64 bytes,
    and up to twice as much, since the tables double when they are full.

    Args:
        manager: one that has served nothing yet, of one group of full attention; its methods and its pool's are
            watched.
    """

    def __init__(self, manager: KVCacheManager):
        pool, (single,) = manager.block_pool, manager.coordinator.single_type_managers
        super().__init__(pool.num_gpu_blocks)
        self.block_size = pool.hash_block_size
        self._log_hashes: list[bytes] = []
        # See ledger_kernel.py:
        self._hashes = np.zeros((_FIRST_HASHES, kernel.WORDS), np.int64)
        self._by_hash = np.zeros((_FIRST_HASHES, kernel.COLUMNS), np.int32)
        self._slots = np.full(2 * _FIRST_HASHES, -1, np.int32)
        self._by_block = np.full((pool.num_gpu_blocks, 2), -1, np.int32)
        self._counts = np.zeros(3, np.int64)
        self._names: list[str] = []
        """Of requests, by their numbers in the log."""
        self._numbers: dict[str, int] = {}
        """Of the requests that are served."""
        self._cached: dict[str, int] = {}
        """How many blocks of a request are noted as cached, hits included."""
        self._loaded: dict[str, range] = {}
        """The places of blocks that came from elsewhere last, by request (tier_ledger.py)."""
        # The manager's own, by request:
        self._blocks, self._full = single.req_to_blocks, single.num_cached_block
        self._watch(manager)

    @property
    def working_set_blocks(self) -> int:
        """Distinct blocks that were ever cached."""
        self.read_log()
        return int(self._counts[kernel.HASHES])

    @property
    def orphan_blocks(self) -> int:
        """The most at any time."""
        self.read_log()
        return int(self._counts[kernel.MOST_ORPHANS])

    @property
    def hashes(self) -> set[bytes]:
        """Of the blocks that were ever cached."""
        return {row.tobytes() for row in self._hashes[: self.working_set_blocks]}

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
            starts = not request.num_computed_tokens
            blocks = allocate(request, num_new_tokens, num_new_computed_tokens, new_computed_blocks, *args, **kwargs)
            if blocks is None:
                return None
            if starts:
                self._admit(request, new_computed_blocks.get_block_ids()[0] if num_new_computed_tokens else ())
            self.computed_tokens += num_new_tokens
            if new := blocks.blocks[0]:
                self.take(request.request_id, new)
            self.cache(request)
            return blocks

        def cache_blocks(request: Any, num_computed_tokens: int) -> None:
            cache(request, num_computed_tokens)
            self.cache(request)

        def free_blocks(ordered_blocks: Iterable[Any]) -> None:
            blocks = list(ordered_blocks)
            free(blocks)
            self.release([block.block_id for block in blocks if not block.ref_cnt])

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
        self._numbers.pop(name, None)
        self._loaded.pop(name, None)
        return super().forget(name)

    def _look(self, request: Any, hit_blocks: Sequence[int], loaded_blocks: int = 0) -> Admission:
        """What a request finds: blocks of the cache, and so many after them from elsewhere (tier_ledger.py)."""
        local, hit = len(hit_blocks), len(hit_blocks) + loaded_blocks
        hittable = hittable_blocks(request.num_prompt_tokens, self.block_size)
        hashes = request.block_hashes[local : max(hit, hittable)]
        self.read_log()
        generated, known, evictor = kernel.look(
            np.array(hit_blocks, np.int64),
            _words(hashes),
            len(hashes),
            loaded_blocks,
            self._slots,
            self._hashes,
            self._by_hash,
            self._by_block,
        )
        by = None if evictor < 0 else self._names[evictor]
        return Admission(hit, generated, max(hittable - hit, 0) - known, known, by)

    def _admit(self, request: Any, hit_blocks: Sequence[int]) -> None:
        """A request starts, or returns from a preemption; what it takes and caches is not noted yet."""
        name = request.request_id
        if name not in self.admissions:
            self.admissions[name] = self._look(request, hit_blocks)
            self._numbers[name] = len(self._names)
            self._names.append(name)
        self._cached[name] = len(hit_blocks)
        self.count_admission(name, len(hit_blocks) * self.block_size, hit_blocks, request.num_preemptions > 0)

    def take(self, name: str, new: Sequence[Any]) -> None:
        """Blocks were allocated to a request, and what was cached in them is evicted."""
        self.count_allocated(name, len(new))
        self.note(TAKEN, [block.block_id for block in new], (self._numbers[name], -1, 0, 0, 0))

    def cache(self, request: Any) -> None:
        """Notes the blocks of a request that have got their hash since the last call."""
        name = request.request_id
        start, full = self._cached[name], self._full.get(name, 0)
        if full <= start:
            return
        self._cached[name] = full
        table = self._blocks[name]
        blocks = [block.block_id for block in table[start:full]]
        before = table[start - 1].block_id if start else -1
        prompt, loaded = request.num_prompt_tokens // self.block_size, self._loaded.get(name, _NONE)
        self._log_hashes += request.block_hashes[start:full]
        about = self._numbers[name], before, prompt - start, loaded.start - start, loaded.stop - start
        self.note(CACHED, blocks, about)

    def _read(self, log: np.ndarray) -> None:
        super()._read(log)
        hashes = len(self._log_hashes)
        self._make_room(int(self._counts[kernel.HASHES]) + hashes)
        runs = kernel.read(
            log,
            _words(self._log_hashes),
            hashes,
            self._slots,
            self._hashes,
            self._by_hash,
            self._by_block,
            self._counts,
        )
        self._log_hashes = []
        names = self._names
        for owner, evictor, blocks in runs.tolist():
            self.count_evictions(names[owner], names[evictor], blocks)

    def _make_room(self, hashes: int) -> None:
        size = len(self._hashes)
        if hashes <= size:
            return
        while size < hashes:
            size *= 2
        self._hashes, self._by_hash = _grown(self._hashes, size), _grown(self._by_hash, size)
        self._slots = np.full(2 * size, -1, np.int32)
        kernel.fill(self._slots, self._hashes, self._counts[kernel.HASHES])


def _words(hashes: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(hashes), np.int64)


def _grown(old: np.ndarray, rows: int) -> np.ndarray:
    new = np.zeros((rows, old.shape[1]), old.dtype)
    new[: len(old)] = old
    return new
