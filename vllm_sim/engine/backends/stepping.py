"""Whether steps may be hidden from vLLM's scheduler: the conditions of sparse.py, each with its name.

Faithful to vLLM 0.32 (v1/core/sched/scheduler.py Scheduler.__init__ and schedule, v1/core/kv_cache_manager.py, read):
what is named here makes a step do something for a request that only decodes, or count requests that it is not shown.
"""

from collections.abc import Iterator

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.engine.core import EngineCore

from vllm_sim.engine.contact import field
from vllm_sim.engine.pool import PolicyBlockPool, PolicyKVCacheManager


def plain_reason(core: EngineCore) -> str | None:
    """Why the scheduler of an engine must be shown every step; None where sparse steps are exact."""
    return next(_reasons(core), None)


def _reasons(core: EngineCore) -> Iterator[str]:
    scheduler = core.scheduler
    is_async = core.batch_queue is not None
    if is_async and core.batch_queue_size != 2:
        yield f"{core.batch_queue_size} steps at a time"
    if is_async and AsyncScheduler._update_request_with_output is Scheduler._update_request_with_output:
        yield "asynchronous scheduling of this vLLM"
    if type(core) is not EngineCore:
        yield f"an engine of class {type(core).__qualname__}"
    if type(scheduler) is not (AsyncScheduler if is_async else Scheduler):
        yield f"a scheduler of class {type(scheduler).__qualname__}"
        return
    for name, found in (*_of_scheduler(scheduler).items(), *_of_cache(scheduler).items()):
        if found:
            yield name


def _of_scheduler(scheduler: Scheduler) -> dict[str, bool]:
    config = scheduler.scheduler_config
    return {
        f"the order {scheduler.policy.value}": scheduler.policy != SchedulingPolicy.FCFS,
        "a connector": (scheduler.connector, scheduler.ec_connector, scheduler.aux_output_connector) != (None,) * 3,
        "LoRA": scheduler.lora_config is not None,
        "speculative decoding": bool(scheduler.num_spec_tokens or scheduler.num_lookahead_tokens),
        "an encoder": bool(scheduler.is_encoder_decoder or scheduler.is_mm_encoder_only),
        "KV cache events": scheduler.enable_kv_cache_events,
        "statistics": scheduler.log_stats or scheduler.kv_metrics_collector is not None,
        "long_prefill_token_threshold": bool(field(config, "long_prefill_token_threshold")),
        "no chunked prefill": not field(config, "enable_chunked_prefill"),
        "no scheduler_reserve_full_isl": not scheduler.scheduler_reserve_full_isl,
        "max_num_scheduled_tokens above max_num_batched_tokens": scheduler.max_num_scheduled_tokens
        > field(config, "max_num_batched_tokens"),
    }


def _of_cache(scheduler: Scheduler) -> dict[str, bool]:
    manager = scheduler.kv_cache_manager
    pool, singles = manager.block_pool, manager.coordinator.single_type_managers
    return {
        f"a manager of class {type(manager).__qualname__}": type(manager) not in (KVCacheManager, PolicyKVCacheManager),
        f"a block pool of class {type(pool).__qualname__}": type(pool) not in (BlockPool, PolicyBlockPool),
        f"{len(singles)} cache groups": len(singles) != 1,
        "a cache group without full attention": any(type(single) is not FullAttentionManager for single in singles),
        "hashes of another size than a block": any(
            not single.block_size == pool.hash_block_size == scheduler.block_size for single in singles
        ),
        "no prefix caching": not manager.enable_caching,
        "a watermark": bool(manager.watermark_blocks),
    }
