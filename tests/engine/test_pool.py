"""The block pool under a policy, with interleaved requests, blocks dropped from outside, and resets."""

import random
from typing import Any

import pytest
import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.request import Request

from tests.eviction.test_policies import random_requests
from vllm_sim.engine.blockpool import make_manager, run
from vllm_sim.engine.pool import PolicyBlockPool, adopt
from vllm_sim.eviction.chains import link
from vllm_sim.eviction.live import LiveBook, live_room
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.eviction.simulate import simulate

CAPACITY = 24


def make_request(name: int, tokens: list[int]) -> Request:
    def hash_blocks(request: Request) -> list[BlockHash]:
        ends = range(2 * len(request.block_hashes) + 2, request.num_tokens + 1, 2)
        return [BlockHash(bytes(request.all_token_ids[:end])) for end in ends]

    return Request(str(name), tokens, SamplingParams(max_tokens=1), None, block_hasher=hash_blocks)


def check(pool: Any, book: LiveBook, running: list[Request], manager: Any) -> None:
    """Every block is in use, in upstream's list or held by the book, and in one of them only."""
    free = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()]
    used = {block for request in running for block in manager.get_block_ids(request.request_id)[0]}
    assert len(free) == len(set(free)) == pool.get_num_free_blocks()
    assert sorted([*free, *used]) == list(range(1, CAPACITY + 1))
    hashed = {block.block_id for block in pool.blocks if block.block_hash is not None}
    assert hashed == {block for block in range(1, CAPACITY + 1) if book.caches(block)}
    assert set(book.held()) == hashed & set(free)


@pytest.mark.parametrize("policy", ["vllm_sim.eviction.lru:Lru", *(p for p in POLICIES if p not in ("lru", "opt"))])
def test_no_block_is_lost_or_doubled_whatever_happens(policy: str) -> None:
    draw = random.Random(0)
    manager: Any = make_manager(CAPACITY)
    book = LiveBook(policy, live_room(policy, CAPACITY))
    adopt(manager, book, lambda request: (int(request.request_id), 0))
    pool = manager.block_pool
    assert isinstance(pool, PolicyBlockPool)
    running: list[Request] = []
    for step in range(1500):
        action = draw.random()
        if action < 0.45:
            request = make_request(step, [draw.randrange(2) for _ in range(draw.randrange(1, 16))])
            blocks, hit, _ = manager.get_computed_blocks(request)
            if manager.allocate_slots(request, request.num_tokens - hit, hit, blocks) is not None:
                request.num_computed_tokens = request.num_tokens
                running.append(request)
        elif action < 0.6 and running:
            request = draw.choice(running)
            request.append_output_token_ids(draw.randrange(2))
            if manager.allocate_slots(request, 1) is None:
                request._all_token_ids.pop()
                request._output_token_ids.pop()
                del request.block_hashes[request.num_tokens // 2 :]
            else:
                request.num_computed_tokens += 1
        elif action < 0.95 and running:
            manager.free(running.pop(draw.randrange(len(running))))
        elif action < 0.98:
            # Only blocks that nobody uses: those in use are dropped by a KV connector's failure alone.
            manager.evict_blocks(set(draw.sample(book.held(), min(2, len(book.held())))))
        elif manager.reset_prefix_cache():
            assert not running
            assert not book.held()
        check(pool, book, running, manager)
    assert book.evicted_blocks > 300


@pytest.mark.parametrize("name", ["MostRecent", "CompiledMostRecent"])
def test_a_policy_of_a_user_serves_the_real_pool_as_it_serves_the_fast_cache(name: str) -> None:
    chains = link(random_requests(0, count=100), 4)
    real, fast = (serve(chains, f"tests.eviction.user_policies:{name}", 9) for serve in (run, simulate))
    assert real.hit.tolist() == fast.hit.tolist()
    assert real.evicted_blocks == fast.evicted_blocks > 0


def test_a_second_cache_group_is_refused() -> None:
    full = FullAttentionSpec(block_size=2, num_kv_heads=1, head_size=1, dtype=torch.float32)
    window = SlidingWindowSpec(block_size=2, num_kv_heads=1, head_size=1, dtype=torch.float32, sliding_window=4)
    groups = [KVCacheGroupSpec(["a"], full), KVCacheGroupSpec(["b"], window)]
    config = KVCacheConfig(CAPACITY + 1, kv_cache_tensors=[], kv_cache_groups=groups)
    manager = KVCacheManager(config, max_model_len=64, scheduler_block_size=2, hash_block_size=2)
    with pytest.raises(ValueError, match="2 cache groups"):
        adopt(manager, LiveBook("arc", live_room("arc", CAPACITY)), lambda request: (0, 0))
