"""Policies over several cache groups: which blocks are dead by vLLM's own lookup, and that no block is lost."""

import hashlib
import random

import pytest
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.core.block_pool import BlockHashToBlockMap
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)
from vllm.v1.request import Request

from vllm_sim.engine.backends.cache_groups import pool_without_end
from vllm_sim.engine.group_pool import GroupBlockPool
from vllm_sim.engine.pool import Description, adopt
from vllm_sim.eviction.names import POLICIES
from vllm_sim.eviction.online_cache import OnlineCache, online_context

BLOCKS, UNIT = 110, 2
HEADS = {"num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
FULL = FullAttentionSpec(block_size=2, **HEADS)
WIDE = FullAttentionSpec(block_size=4, **HEADS)
WINDOW = SlidingWindowSpec(block_size=2, sliding_window=6, **HEADS)
CHUNK = ChunkedLocalAttentionSpec(block_size=2, attention_chunk_size=8, **HEADS)
STATE = MambaSpec(block_size=4, shapes=((1,),), dtypes=(torch.float32,), mamba_cache_mode="align")
CACHES: dict[str, tuple[list[KVCacheSpec], int | None]] = {
    "windows": ([WINDOW, WINDOW, FULL], None),
    "last windows": ([WINDOW, WINDOW, FULL], 0),
    "windows and wide blocks": ([WINDOW, WIDE], None),
    "chunks": ([CHUNK, FULL], None),
    "states": ([STATE, STATE, WIDE], None),
    "a window alone": ([WINDOW], 0),
}


def make_manager(specs: list[KVCacheSpec], retention: int | None) -> KVCacheManager:
    groups = [KVCacheGroupSpec([str(place)], spec) for place, spec in enumerate(specs)]
    config = KVCacheConfig(
        BLOCKS + 1, kv_cache_tensors=[], kv_cache_groups=groups, prefix_cache_retention_interval=retention
    )
    largest = max(spec.block_size for spec in specs)
    return KVCacheManager(config, max_model_len=256, scheduler_block_size=largest, hash_block_size=UNIT)


class Traffic:
    """Requests that share prefixes, each served in chunks that end at blocks, one or two at a time."""

    def __init__(self, manager: KVCacheManager, seed: int):
        self.manager, self.draw = manager, random.Random(seed)
        self.prompts: list[list[int]] = []
        self.known: dict[bytes, list[BlockHash]] = {}
        self.all = pool_without_end(manager)
        insert, keep = manager.block_pool.cached_block_hash_to_block.insert, self.all.block_pool
        manager.block_pool.cached_block_hash_to_block.insert = lambda key, block: (  # type: ignore[method-assign]
            insert(key, block),
            keep.cached_block_hash_to_block.insert(key, block),
        )

    def request(self, name: int) -> Request:
        prompt = self.draw.choice(self.prompts)[: self.draw.randrange(1, 24)] if self.prompts else []
        prompt = prompt + self.draw.choices(range(3), k=self.draw.randrange(4, 12))
        self.prompts = [*self.prompts, prompt][-12:]

        def hash_blocks(request: Request) -> list[BlockHash]:
            first = (len(request.block_hashes) + 1) * UNIT
            ends = range(first, request.num_tokens + 1, UNIT)
            return [BlockHash(hashlib.sha256(bytes(request.all_token_ids[:end])).digest()) for end in ends]

        return Request(str(name), prompt, SamplingParams(max_tokens=9), None, block_hasher=hash_blocks)

    def serve(self, request: Request) -> None:
        """All but the release."""
        manager = self.manager
        manager.new_step_starts()
        blocks, hit, request.shared_prefix_boundary = manager.get_computed_blocks(request)
        _, most, _ = self.all.find_longest_cache_hit(request.block_hashes, request.num_tokens - 1)
        assert hit <= most
        while request.num_computed_tokens < request.num_tokens:
            left = request.num_tokens - request.num_computed_tokens - hit
            tokens = min(left, 8 - (request.num_computed_tokens + hit) % 4 if self.draw.random() < 0.7 else left)
            manager.new_step_starts()
            assert manager.allocate_slots(request, tokens, hit, blocks) is not None
            manager.block_pool.free_blocks(manager.take_kv_cache_block_copies()[1])
            request.num_computed_tokens += hit + tokens
            hit, blocks = 0, None
            if request.num_computed_tokens == request.num_tokens < request.num_prompt_tokens + 3:
                request.append_output_token_ids(self.draw.randrange(3))
        self.known[request.block_hashes[-1]] = list(request.block_hashes)

    def hits(self) -> dict[bytes, tuple[int, ...]]:
        """What a longer prompt than any that was served would hit."""
        find = self.manager.coordinator.find_longest_cache_hit
        return {
            name: tuple(find(hashes, end * UNIT)[1] for end in range(1, len(hashes) + 1))
            for name, hashes in self.known.items()
        }


def without(whole: BlockHashToBlockMap, block: int) -> BlockHashToBlockMap:
    """A pool's map of hashes without a block's."""
    less = BlockHashToBlockMap()
    for key, found in whole._cache.items():
        for one in [found] if not isinstance(found, dict) else found.values():
            if one.block_id != block:
                less.insert(key, one)
    return less


@pytest.mark.parametrize(
    "cache", [pytest.param(name, marks=pytest.mark.slow if name == "windows" else ()) for name in CACHES]
)
def test_dead_are_the_idle_blocks_whose_eviction_changes_no_lookup_of_vllm(cache: str) -> None:
    manager = make_manager(*CACHES[cache])
    adopt(
        manager, OnlineCache("lfu", online_context("lfu", BLOCKS)), lambda request: Description(int(request.request_id))
    )
    pool, traffic = manager.block_pool, Traffic(manager, seed=0)
    assert isinstance(pool, GroupBlockPool)
    dead = alive = 0
    for number in range(12):
        request = traffic.request(number)
        traffic.serve(request)
        manager.free(request)
        if number % 4 != 3:
            continue
        queue = pool.free_block_queue
        blank = queue.num_free_blocks - queue.held_blocks
        pool.free_blocks(pool.get_new_blocks(blank + 1 + number % 3))  # so that others may be dead from now on
        before, whole = traffic.hits(), pool.cached_block_hash_to_block
        said = set(pool._boundaries.dead())
        for block in pool._online.held():
            copies = [key for key, found in whole._cache.items() if isinstance(found, dict) and block in found]
            if copies:
                continue  # the other copy is hit instead
            pool.cached_block_hash_to_block = without(whole, block)
            assert (traffic.hits() == before) == (block in said), (number, block)
            dead, alive = dead + (block in said), alive + (block not in said)
        pool.cached_block_hash_to_block = whole
    assert alive > 10
    assert dead > 0 or cache == "windows"


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(name, marks=() if name == "hybrid" else pytest.mark.slow)
        for name in POLICIES
        if name not in ("lru", "belady")
    ],
)
def test_no_block_is_lost_and_no_hit_is_longer_than_possible(policy: str) -> None:
    for cache, arguments in CACHES.items():
        manager = make_manager(*arguments)
        online = OnlineCache(policy, online_context(policy, BLOCKS))
        adopt(manager, online, lambda request: Description(int(request.request_id)))
        traffic, pool = Traffic(manager, seed=5), manager.block_pool
        running: list[Request] = []
        for number in range(40):
            request = traffic.request(number)
            traffic.serve(request)
            running.append(request)
            if len(running) == 2 or traffic.draw.random() < 0.5:
                manager.free(running.pop(0))
            used = {b.block_id for r in running for group in manager.get_blocks(r.request_id).blocks for b in group}
            assert pool.get_num_free_blocks() == BLOCKS - len(used - {0})
        for request in running:
            manager.free(request)
        assert online.evicted_blocks > 0, cache
        free = pool.free_block_queue.get_all_free_blocks()
        assert sorted(block.block_id for block in free) == list(range(1, BLOCKS + 1))
        assert pool.reset_prefix_cache()
        assert len({block.block_id for block in pool.get_new_blocks(BLOCKS)}) == BLOCKS


def test_a_group_of_a_kind_that_is_not_known_is_refused() -> None:
    manager = make_manager([FULL, CrossAttentionSpec(block_size=2, **HEADS)], None)
    with pytest.raises(ValueError, match="a cache group of class CrossAttentionManager; allowed there: eviction lru"):
        adopt(manager, OnlineCache("arc", online_context("arc", BLOCKS)), lambda request: Description(0))
