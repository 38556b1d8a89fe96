"""What a manager's cache is made of: its groups of layers, and the lookup over all that they ever kept.

Read: v1/core/kv_cache_coordinator.py and kv_cache_utils.py of vLLM 0.32.
"""

from dataclasses import replace
from math import gcd
from typing import NamedTuple

from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinator, get_kv_cache_coordinator
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.scheduler import Scheduler

from vllm_sim.engine.pool import keeps_everything


class GroupShape(NamedTuple):
    """Layers that share blocks of the cache."""

    kind: str
    """vLLM's name for what they keep."""
    layers: int
    block_size: int
    page_bytes: int
    """Of a block in one layer."""
    window_tokens: int | None


class GroupFacts(NamedTuple):
    """What a manager's cache is made of."""

    groups: list[GroupShape]
    unit_tokens: int
    hit_alignment_tokens: int
    capacity_tokens: int
    """Tokens that it holds by upstream's estimate."""


def group_facts(manager: KVCacheManager, unit_tokens: int, capacity_tokens: int) -> GroupFacts | None:
    """What a manager's cache is made of; None where it has one group of full attention."""
    if keeps_everything(manager):
        return None
    return GroupFacts(group_shapes(manager), unit_of(manager, unit_tokens), hit_alignment(manager), capacity_tokens)


def group_shapes(manager: KVCacheManager) -> list[GroupShape]:
    """The groups of a manager's cache."""
    return [
        GroupShape(
            kind, len(group.layer_names), group.kv_cache_spec.block_size, group.kv_cache_spec.page_size_bytes, window
        )
        for group, (kind, window) in zip(
            manager.kv_cache_config.kv_cache_groups, manager.kv_cache_event_metadata, strict=True
        )
    ]


def unit_of(manager: KVCacheManager, unit_tokens: int) -> int:
    """Tokens in which hits and misses are counted: as given where what is hashed is a multiple of it, else less."""
    return gcd(unit_tokens, manager.block_pool.hash_block_size)


def chunk_tokens(scheduler: Scheduler) -> int:
    """The most tokens of a prompt that a step computes."""
    most, threshold = scheduler.max_num_scheduled_tokens, scheduler.scheduler_config.long_prefill_token_threshold
    return min(most, threshold) if threshold > 0 else most


def hit_alignment(manager: KVCacheManager) -> int:
    """Tokens of which every hit is a multiple."""
    coordinator = manager.coordinator
    if coordinator.enable_partial_hash_hits:
        return manager.block_pool.hash_block_size
    return coordinator.scheduler_block_size


def pool_without_end(manager: KVCacheManager) -> KVCacheCoordinator:
    """A coordinator as the manager's, whose pool gets keys and never loses one; it serves no request."""
    coordinator = manager.coordinator
    return get_kv_cache_coordinator(
        kv_cache_config=replace(manager.kv_cache_config, num_blocks=1),
        max_model_len=manager.max_model_len,
        max_in_flight_tokens=manager.max_model_len,
        use_eagle=False,
        enable_caching=manager.enable_caching,
        enable_kv_cache_events=False,
        dcp_world_size=1,
        pcp_world_size=1,
        scheduler_block_size=coordinator.scheduler_block_size,
        hash_block_size=manager.block_pool.hash_block_size,
    )
