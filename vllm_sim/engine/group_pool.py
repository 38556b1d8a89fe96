"""vLLM's block pool of several cache groups under a policy: blocks that no hit can use go first, then the policy's.

Faithful to vLLM 0.32 (v1/core/block_pool.py, single_type_kv_cache_manager.py, read): as pool.py says; what is cached
under which hash, when, and for which group is upstream's. A node of the policy is a hash of one group, so that a window
or a state is ranked by its own uses. Only the hashes of a full group are a chain: of it the policy is offered the ends.
A block that has several hashes (the partial ones of states) is the node of the first. Refused: see check_groups.
"""

from collections.abc import Sequence
from typing import Any

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import BlockHash, BlockHashWithGroupId, KVCacheBlock, get_block_hash, get_group_id
from vllm.v1.core.single_type_kv_cache_manager import (
    ChunkedLocalAttentionManager,
    FullAttentionManager,
    MambaManager,
    SingleTypeKVCacheManager,
    SlidingWindowManager,
)
from vllm.v1.request import Request

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine.pool import Describe, PolicyBlockPool, PolicyQueue
from vllm_sim.eviction.boundaries import Boundaries
from vllm_sim.eviction.boundary_tree import Keeps
from vllm_sim.eviction.online_cache import OnlineCache

_HASH_BYTES = 24
"""Of a hash in the name of a node; the group takes the other 8 that a name can have."""


def keeps_of(single: SingleTypeKVCacheManager, unit_tokens: int) -> Keeps | None:
    """What a group needs of a prefix, by its manager; None where that is not known.

    Args:
        single: the group's manager.
        unit_tokens: of which its blocks are multiples.
    """
    size = single.block_size
    units = size // unit_tokens
    if type(single) is FullAttentionManager:
        return Keeps(units)
    if type(single) is SlidingWindowManager:
        return Keeps(units, max(1, single._contiguous_blocks_for_hit(single.sliding_window, size, use_eagle=False)))
    if type(single) is ChunkedLocalAttentionManager:
        chunk = single.attention_chunk_size
        return Keeps(units, -(-chunk // size), chunk // unit_tokens)
    if type(single) is MambaManager:
        return Keeps(units, 1)
    return None


class GroupQueue(PolicyQueue):
    """A queue that gives dead blocks before it asks the policy."""

    def __init__(
        self, free: list[KVCacheBlock], online: OnlineCache, blocks: list[KVCacheBlock], boundaries: Boundaries
    ):
        super().__init__(free, online, blocks)
        self.boundaries = boundaries

    def evict(self, count: int) -> list[int]:
        found = []
        for _ in range(count):
            block = self.boundaries.first_dead()
            if block is None:
                block = self.online.evict(1)[0]
            else:
                self.online.take(block)
            self.boundaries.remove(block)
            found.append(block)
        return found

    def append_n(self, blocks: list[KVCacheBlock]) -> None:
        super().append_n(blocks)
        self.boundaries.release(block.block_id for block in blocks)


class GroupBlockPool(PolicyBlockPool):
    """Upstream's pool of several groups, which reports what happens to the policy and the boundaries."""

    free_block_queue: GroupQueue

    def adopt_groups(self, manager: KVCacheManager, online: OnlineCache, describe: Describe) -> None:
        """Puts the pool under a policy; arguments as those of pool.adopt."""
        unit = self.hash_block_size
        coordinator = manager.coordinator
        alignment = unit if coordinator.enable_partial_hash_hits else coordinator.scheduler_block_size
        keeps = [keeps_of(single, unit) for single in coordinator.single_type_managers]
        self._keeps = [one for one in keeps if one is not None]
        self._boundaries = Boundaries(self._keeps, alignment // unit, len(self.blocks))
        queue = GroupQueue(self.free_block_queue.get_all_free_blocks(), online, self.blocks, self._boundaries)
        self.adopt(queue, describe)
        self._hashes: Sequence[BlockHash] = ()
        self._nodes: dict[int, tuple[bytes, bytes | None]] = {}
        """By block, the names of its node and of that one's parent."""
        self._moved: KVCacheBlock | None = None

    def hittable(self, request: Request) -> int:
        units = hittable_blocks(request.num_prompt_tokens, self.hash_block_size)
        blocks = [(units // keeps.block_units, keeps.last_blocks) for keeps in self._keeps]
        return sum(most if last is None else min(most, last) for most, last in blocks)

    def touch(self, blocks: Sequence[KVCacheBlock]) -> None:
        super().touch(blocks)
        for block in blocks:
            if block.block_hash is not None:
                self._boundaries.touch(block.block_id)

    def cache_full_blocks(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self._begin(request)
        BlockPool.cache_full_blocks(self, request, *args, **kwargs)

    def cache_partial_block(self, request: Request, *args: Any, **kwargs: Any) -> BlockHashWithGroupId | None:
        self._begin(request)
        return super().cache_partial_block(request, *args, **kwargs)

    def move_block_hashes(self, src_block: KVCacheBlock, dst_block: KVCacheBlock) -> None:
        self._boundaries.copy(src_block.block_id, dst_block.block_id)
        self._moved = src_block
        super().move_block_hashes(src_block, dst_block)
        self._moved = None

    def reset_prefix_cache(self) -> bool:
        done = super().reset_prefix_cache()
        if done:
            self._boundaries.clear()
            self._nodes.clear()
        return done

    def _begin(self, request: Request) -> None:
        if request is not self._request:
            self.serve(request)
        self._hashes = request.block_hashes

    def _insert_block_hash(
        self, block_hash_with_group_id: BlockHashWithGroupId, block: KVCacheBlock, num_tokens: int | None
    ) -> None:
        number = block.block_id
        is_known = self.cached_block_hash_to_block.contain(block_hash_with_group_id, number)
        super()._insert_block_hash(block_hash_with_group_id, block, num_tokens)
        if is_known:
            return
        if self._moved is not None:
            node = self._nodes[self._moved.block_id]
        else:
            assert num_tokens is not None
            depth, group = num_tokens // self.hash_block_size, get_group_id(block_hash_with_group_id)
            self._boundaries.add(self._hashes, depth, group, number)
            node = _name(get_block_hash(block_hash_with_group_id), group), self._parent(depth, group)
        if not self._online.caches(number):
            self._nodes[number] = node
            self._online.cache([number], [node[0]], node[1], self._tell())

    def _remove_cached_block_hashes(self, block: KVCacheBlock) -> list[BlockHashWithGroupId]:
        removed = super()._remove_cached_block_hashes(block)
        self._boundaries.remove(block.block_id)
        if self._online.caches(block.block_id):
            self.free_block_queue.drop(block)
        return removed

    def _parent(self, depth: int, group: int) -> bytes | None:
        """The name of the node that a full group's is a child of; in other groups blocks are evicted in any order."""
        keeps = self._keeps[group]
        before = (depth - 1) // keeps.block_units * keeps.block_units
        return None if keeps.last_blocks is not None or not before else _name(self._hashes[before - 1], group)


def _name(block_hash: BlockHash, group: int) -> bytes:
    return block_hash[:_HASH_BYTES] + group.to_bytes(8, "big")
