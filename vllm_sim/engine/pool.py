"""vLLM's block pool under a policy of `vllm_sim.eviction`: which cached block is evicted next, and nothing else.

Faithful to vLLM 0.32 (v1/core/block_pool.py, kv_cache_utils.py, kv_cache_manager.py, read): every method calls
upstream's own; hashes, reference counts, KV events and metrics are upstream's; blocks without a hash are in upstream's
list and are taken before any cached one. Not faithful: a block that loses its hash by `evict_blocks` goes to the end
of that list, where upstream leaves it in its place. Refused: a cache without prefix caching; by scheduler.py, KV
connectors that may pin blocks or read upstream's list. Several cache groups, or one that does not keep everything:
group_pool.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue, KVCacheBlock
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import Request

from vllm_sim.block_rules import full_blocks, hittable_blocks
from vllm_sim.engine import compat
from vllm_sim.eviction.online_cache import OnlineCache
from vllm_sim.eviction.policy import RequestFacts
from vllm_sim.trace.hints import NO_HINTS, Hints


class Description(NamedTuple):
    """What a pool's owner says of a request."""

    number: int
    """Ascending as requests start."""
    category: int = 0
    arrival_ms: float = math.nan
    """See RequestFacts."""
    hints: Hints = NO_HINTS


Describe = Callable[[Request], Description]


class PolicyQueue(FreeKVCacheBlockQueue):
    """Upstream's list, of the free blocks without a hash; the free blocks with one are held by the online.

    Args:
        free: The blocks that are free; none has a hash.
        online: The online.
        blocks: All blocks of the pool, by their numbers.
    """

    def __init__(self, free: list[KVCacheBlock], online: OnlineCache, blocks: list[KVCacheBlock]):
        super().__init__(free)
        self.online = online
        self.blocks = blocks
        self.listed_blocks = len(free)

    @property
    def held_blocks(self) -> int:
        """Free blocks with a hash."""
        return self.num_free_blocks - self.listed_blocks

    def popleft(self) -> KVCacheBlock:
        return self.popleft_n(1)[0] if self.num_free_blocks else super().popleft()

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        listed = min(n, self.listed_blocks)
        self.listed_blocks -= listed
        found = super().popleft_n(listed)
        if listed < n:
            self.num_free_blocks -= n - listed
            blocks = self.blocks
            found += [blocks[block] for block in self.evict(n - listed)]
        return found

    def evict(self, count: int) -> list[int]:
        """Cached blocks that no request uses, to be used again; so many are held."""
        return self.online.evict(count)

    def remove(self, block: KVCacheBlock) -> None:
        # What has no neighbours is not in the list; a look at its hash takes longer, for each block of a hit.
        if block.prev_free_block is None:
            self.num_free_blocks -= 1
        else:
            super().remove(block)
            self.listed_blocks -= 1

    def prepend_n(self, blocks: list[KVCacheBlock]) -> None:
        super().prepend_n(blocks)
        self.listed_blocks += len(blocks)

    def append(self, block: KVCacheBlock) -> None:
        self.append_n([block])

    def append_n(self, blocks: list[KVCacheBlock]) -> None:
        # Blocks without a hash come by `prepend_n`; only KV connectors that pin blocks, which are refused, append such.
        if blocks:
            self.num_free_blocks += len(blocks)
            self.online.release([block.block_id for block in blocks])

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """The list, and then the held blocks in the order of their release: the order of eviction for LRU alone."""
        return super().get_all_free_blocks() + [self.blocks[block] for block in self.online.held()]

    def drop(self, block: KVCacheBlock) -> None:
        """A block has lost its hash without being evicted."""
        held = self.online.holds(block.block_id)
        self.online.drop(block.block_id)
        if held:
            super().append_n([block])
            self.num_free_blocks -= 1  # it was free before
            self.listed_blocks += 1


class PolicyBlockPool(BlockPool):
    """Upstream's pool, which reports what happens to the online cache."""

    free_block_queue: PolicyQueue

    def adopt(self, queue: PolicyQueue, describe: Describe) -> None:
        self.free_block_queue = queue
        self._online = queue.online
        self._describe = describe
        self._request: Request | None = None
        self._is_told = True

    def serve(self, request: Request) -> None:
        """What follows is for this request; the policy hears of it once a block moves.

        And again at the next call, whatever was served between them: a call that moves nothing leaves no trace.
        """
        self._request = request
        self._is_new = not (request.num_computed_tokens or request.num_preemptions)
        self._is_told = False

    def _tell(self, matched: int = 0) -> bool:
        """Reports a request to the policy, and how many of its blocks are cached; returns whether it was preempted."""
        request = self._request
        if not self._is_told and request is not None and self._online.hears_requests:
            self._is_told = True
            about = self._describe(request)
            prompt_blocks = full_blocks(request.num_prompt_tokens, self.hash_block_size)
            facts = RequestFacts(about.arrival_ms, prompt_blocks, matched, *about.hints)
            self._online.serve(about.category, about.number if self._is_new else -1, self.hittable(request), facts)
        return request is not None and request.num_preemptions > 0

    def hittable(self, request: Request) -> int:
        """Blocks that a request could hit in an unlimited cache."""
        return hittable_blocks(request.num_prompt_tokens, self.hash_block_size)

    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        # What is hit has a hash, but for the null blocks before a window.
        cached = [block.block_id for block in blocks if not block.is_null]
        again = self._tell(len(cached))
        super().touch(blocks)
        if cached:
            self._online.touch(cached, again)

    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        self._tell()
        return super().get_new_blocks(num_blocks)

    def cache_full_blocks(
        self,
        request: Request,
        blocks: list[KVCacheBlock],
        num_cached_blocks: int,
        num_full_blocks: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().cache_full_blocks(request, blocks, num_cached_blocks, num_full_blocks, *args, **kwargs)
        new = blocks[num_cached_blocks:num_full_blocks]
        if not new:
            return
        if request is not self._request:
            self.serve(request)
        names = request.block_hashes[num_cached_blocks:num_full_blocks]
        parent = request.block_hashes[num_cached_blocks - 1] if num_cached_blocks else None
        self._online.cache([block.block_id for block in new], names, parent, self._tell())

    def evict_blocks(self, block_ids: set[int]) -> None:
        super().evict_blocks(block_ids)
        for block in block_ids:
            if self._online.caches(block):
                self.free_block_queue.drop(self.blocks[block])

    def reset_prefix_cache(self) -> bool:
        done = super().reset_prefix_cache()
        if done:
            # As they were released, so that no child is left.
            for block in self._online.held():
                self.free_block_queue.drop(self.blocks[block])
        return done


class PolicyKVCacheManager(KVCacheManager):
    """Upstream's manager, which names the request that it serves."""

    block_pool: PolicyBlockPool

    def allocate_slots(self, request: Request, *args: Any, **kwargs: Any) -> KVCacheBlocks | None:
        self.block_pool.serve(request)
        return super().allocate_slots(request, *args, **kwargs)

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        self.block_pool.serve(request)
        super().cache_blocks(request, num_computed_tokens)


def adopt(manager: KVCacheManager, online: OnlineCache, describe: Describe) -> None:
    """Puts a manager's pool under a policy; managers and blocks keep their references to it.

    Args:
        manager: changed; one that upstream has finished and that has served no request yet.
        online: for as many blocks as the pool has, without the null block.
        describe: see Describe.

    Raises:
        ValueError: the cache is of a kind that cannot be served.
    """
    check_supported(manager)
    pool = manager.block_pool
    compat.MANAGER.put(manager, PolicyKVCacheManager)
    if keeps_everything(manager):
        compat.POOL.put(pool, PolicyBlockPool)
        assert isinstance(pool, PolicyBlockPool)
        pool.adopt(PolicyQueue(pool.free_block_queue.get_all_free_blocks(), online, pool.blocks), describe)
        return
    from vllm_sim.engine.group_pool import GroupBlockPool

    compat.POOL.put(pool, GroupBlockPool)
    assert isinstance(pool, GroupBlockPool)
    pool.adopt_groups(manager, online, describe)


def keeps_everything(manager: KVCacheManager) -> bool:
    """Whether a manager has one group of full attention."""
    singles = manager.coordinator.single_type_managers
    return len(singles) == 1 and type(singles[0]) is FullAttentionManager


def check_supported(manager: KVCacheManager) -> None:
    """Raises ValueError for a cache that no policy but `lru` can serve."""
    from vllm_sim.engine.group_pool import keeps_of

    pool, singles = manager.block_pool, manager.coordinator.single_type_managers
    unknown = [type(single).__qualname__ for single in singles if keeps_of(single, pool.hash_block_size) is None]
    reasons = {
        f"a cache group of class {', '.join(unknown)}": bool(unknown),
        "a cache without prefix caching": not manager.enable_caching,
        "hashes of another size than a block": keeps_everything(manager)
        and singles[0].block_size != pool.hash_block_size,
        f"a manager of class {type(manager).__qualname__}": type(manager) is not KVCacheManager,
        f"a block pool of class {type(pool).__qualname__}": type(pool) is not BlockPool,
    }
    refused = [name for name, found in reasons.items() if found]
    if refused:
        raise ValueError(f"eviction cannot serve {', '.join(refused)}; allowed there: eviction lru")
