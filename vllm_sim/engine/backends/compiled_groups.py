"""The `fast` backend for cache groups: vLLM says what the groups are, and a compiled cache serves the rows.

Read: v1/core/kv_cache_coordinator.py and single_type_kv_cache_manager.py of vLLM 0.32. What is compiled and what it is
faithful to: eviction/group_kernel.py.
"""

from typing import Any, NamedTuple

import numpy as np
from vllm.v1.core.kv_cache_coordinator import HybridKVCacheCoordinator, UnitaryKVCacheCoordinator
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import (
    ChunkedLocalAttentionManager,
    FullAttentionManager,
    MambaManager,
    SlidingWindowManager,
)
from vllm.v1.engine.core import EngineCore

from vllm_sim.block_rules import computed_tokens
from vllm_sim.engine.backends.admissions import Admission
from vllm_sim.engine.backends.cache_groups import GroupFacts, chunk_tokens, group_facts, hit_alignment
from vllm_sim.engine.backends.engine_builder import scheduler_of
from vllm_sim.engine.backends.row_outcome import RowOutcome
from vllm_sim.engine.group_pool import keeps_of
from vllm_sim.eviction.boundary_tree import Keeps
from vllm_sim.eviction.chains import Array, Chains, Requests
from vllm_sim.eviction.compiled import is_compiled
from vllm_sim.eviction.group_kernel import EVICTIONS, KEYS, serve_groups
from vllm_sim.eviction.group_lookup import CHUNK, FULL, STATE, WINDOW, Shape
from vllm_sim.eviction.group_order import PolicyOrder, ReleaseOrder, policy_order
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import make_policy

_KINDS = {
    FullAttentionManager: FULL,
    SlidingWindowManager: WINDOW,
    ChunkedLocalAttentionManager: CHUNK,
    MambaManager: STATE,
}


class CompiledCache(NamedTuple):
    """Groups of full attention, windows, chunks and states."""

    groups: GroupFacts
    shape: Shape
    blocks: int
    """Usable blocks."""
    longest: int
    """A request that computes so many tokens or more is rejected."""
    chunk_tokens: int
    hash_tokens: int
    """Of a block that is hashed."""
    keeps: list[Keeps]
    """What each group needs of a prefix, in such blocks."""

    def run(
        self, requests: Requests, chains: Chains, policy: str, params: dict[str, Any], seed: int
    ) -> tuple[list[RowOutcome], tuple[int, int, None]]:
        """Serves all rows in their order.

        Args:
            requests: the rows.
            chains: their prefixes, of `shape.unit_tokens` each.
            policy: a name or `module:Class`.
            params: the policy's parameters.
            seed: for policies that draw.

        Returns:
            What happened to them; distinct blocks that were ever cached, evicted blocks, and no count of orphans.

        Raises:
            ValueError: a row has no room, or the policy cannot be compiled or does not know the parameters.
        """
        prompts, outputs = requests.prompt_tokens, requests.output_tokens
        order = self._order(chains, prompts, policy, params, seed)
        out, cache = serve_groups(
            chains, prompts, outputs, self.shape, order, self.blocks, self.longest, self.chunk_tokens
        )
        rejected = computed_tokens(prompts, outputs) >= self.longest
        outcomes = []
        for row, (hit, generated, cold, evicted, windows, alignment, group, by, allocated) in enumerate(out.tolist()):
            found = Admission(
                hit_blocks=hit,
                hit_generated_blocks=generated,
                cold_blocks=cold,
                evicted_blocks=evicted,
                evicted_by=None if by < 0 else str(by),
                allocated_blocks=allocated,
                window_blocks=windows,
                alignment_blocks=alignment,
                missed_group=None if group < 0 else group,
            )
            tokens = 0 if rejected[row] else int(outputs[row])
            outcomes.append(RowOutcome(row, 0.0, rejected=bool(rejected[row]), output_tokens=tokens, admission=found))
        return outcomes, (int(cache.counts[KEYS]), int(cache.counts[EVICTIONS]), None)

    def _order(
        self, chains: Chains, prompts: Array, policy: str, params: dict[str, Any], seed: int
    ) -> ReleaseOrder | PolicyOrder:
        """What evicts; of `lru` vLLM's own queue."""
        shape, groups = self.shape, self.shape.kind.size
        categories = int(chains.category.max(initial=0)) + 1
        ranker = make_policy(policy, PolicyContext(self.blocks, chains.working_set * groups, categories, seed), params)
        if policy == "lru":
            return ReleaseOrder(self.blocks)
        if not is_compiled(type(ranker)):
            raise ValueError(f"policy {policy} is not compiled; allowed over several cache groups: backend blockpool")
        hash_units = self.hash_tokens // shape.unit_tokens
        return policy_order(
            ranker,
            chains,
            prompts,
            self.keeps,
            alignment=shape.alignment // hash_units,
            hash_units=hash_units,
            unit_tokens=shape.unit_tokens,
            blocks=self.blocks,
        )


def compiled_cache(core: EngineCore, unit_tokens: int) -> CompiledCache:
    """The compiled cache of an engine that make_core built, which may be shut down afterwards.

    Args:
        core: the engine.
        unit_tokens: tokens in which hits and misses are counted.

    Raises:
        ValueError: a group is of a kind that it does not serve.
    """
    scheduler = scheduler_of(core)
    manager, tokens = scheduler.kv_cache_manager, core.vllm_config.cache_config.kv_cache_size_tokens or 0
    shape, groups = shape_of(scheduler, unit_tokens), group_facts(manager, unit_tokens, tokens)
    if groups is None:
        raise ValueError("the model has one group of full attention, though its config.json tells of others")
    blocks = manager.block_pool.num_gpu_blocks - 1  # without the null block
    unit = manager.block_pool.hash_block_size
    keeps = [keeps_of(single, unit) for single in manager.coordinator.single_type_managers]
    known = [one for one in keeps if one is not None]
    return CompiledCache(groups, shape, blocks, scheduler.max_model_len, chunk_tokens(scheduler), unit, known)


def shape_of(scheduler: Scheduler, unit_tokens: int) -> Shape:
    """The groups of a scheduler's manager.

    Args:
        scheduler: the scheduler.
        unit_tokens: tokens in which hits and misses are counted.

    Raises:
        ValueError: a group is of a kind that the compiled cache does not know, or has hashes of another size.
    """
    manager = scheduler.kv_cache_manager
    coordinator, unit = manager.coordinator, manager.block_pool.hash_block_size
    singles = coordinator.single_type_managers
    unknown = sorted({type(single).__qualname__ for single in singles if type(single) not in _KINDS})
    if not manager.enable_caching:
        unknown = ["no prefix caching"]
    elif unit % unit_tokens and not unknown:
        unknown = [f"hashes of {unit} tokens in a run with block_size {unit_tokens}"]
    elif coordinator.enable_partial_hash_hits:
        unknown = ["a prefix match unit"]
    elif (MambaManager in map(type, singles) or unit != unit_tokens) and {one.block_size for one in singles} != {unit}:
        unknown = [f"blocks of several sizes with states, or with hashes of {unit} tokens and block_size {unit_tokens}"]
    if unknown:
        raise ValueError(f"backend fast does not serve {', '.join(unknown)}; allowed: backend blockpool, engine")
    assert isinstance(coordinator, HybridKVCacheCoordinator | UnitaryKVCacheCoordinator)
    groups = [[0]]
    if isinstance(coordinator, HybridKVCacheCoordinator):
        groups = [spec.group_ids for spec in coordinator.attention_groups]
    kind = [_KINDS[type(single)] for single in singles]
    retention = coordinator.retention_interval
    return Shape(
        kind=np.array(kind),
        units=np.array([single.block_size // unit_tokens for single in singles]),
        span=np.array([_span(single) for single in singles]),
        last=np.array([_last(single) for single in singles]),
        order=np.array([group for ids in groups for group in ids]),
        ends=np.cumsum([len(ids) for ids in groups]),
        unit_tokens=unit_tokens,
        alignment=hit_alignment(manager) // unit_tokens,
        retention=-1 if retention is None else retention,
        state_tokens=unit if STATE in kind else 0,
        inner_tokens=_inner_tokens(scheduler),
        is_simple=len(groups) == 2 and kind[groups[0][0]] == FULL,
    )


def _inner_tokens(scheduler: Scheduler) -> int:
    """Of Shape: upstream's scheduler and its managers decide alike, as all layers with states are of one kind."""
    return (scheduler.mamba_prefill_checkpoint_alignment or 0) if scheduler.mamba_has_prefill_checkpoint_blocks else 0


def _span(single: object) -> int:
    if isinstance(single, SlidingWindowManager):
        return single.sliding_window + single.extra_retained_tokens
    if isinstance(single, MambaManager):
        return 2  # skipped are all tokens but the last one, as of a window of two
    return single.attention_chunk_size if isinstance(single, ChunkedLocalAttentionManager) else 0


def _last(single: object) -> int:
    if isinstance(single, SlidingWindowManager):
        return single._contiguous_blocks_for_hit(single.sliding_window, single.block_size, use_eagle=False)
    return int(isinstance(single, MambaManager))
