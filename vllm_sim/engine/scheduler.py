"""The scheduler that upstream would have used, with a block pool under the policy of the option `eviction`.

Faithful to vLLM 0.32 (v1/core/sched/scheduler.py, async_scheduler.py, read): the scheduler is upstream's, and finished
before its pool is put under a policy; with `lru` nothing of it is touched. Not there: a request's category; in a live
server every request has the same, and `wa` is LRU.
"""

import functools
import itertools
from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler

from vllm_sim.engine.options import parse_options
from vllm_sim.engine.pool import adopt
from vllm_sim.eviction.live import LiveBook, live_room

logger = init_logger("vllm.vllm_sim.scheduler")


@functools.cache
def with_policy(upstream: type) -> type:
    """A subclass of a scheduler class that heeds the option `eviction`."""

    class PolicyScheduler(upstream):
        def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(vllm_config, *args, **kwargs)
            self.__class__ = upstream
            options = parse_options(vllm_config.additional_config)
            if options.eviction != "lru":
                put_under_policy(self, options.eviction, options.eviction_params)

    return PolicyScheduler


def put_under_policy(scheduler: Any, policy: str, params: dict[str, Any]) -> None:
    """Puts the block pool of a scheduler, which has served nobody yet, under a policy.

    Raises:
        ValueError: the scheduler, its cache or the policy is of a kind that cannot be served.
    """
    if not isinstance(scheduler, Scheduler):
        raise ValueError(f"eviction cannot serve the scheduler {type(scheduler).__qualname__}; allowed: vLLM's own")
    if scheduler.connector is not None:
        raise ValueError(f"eviction {policy} cannot serve a KV connector; allowed there: eviction lru")
    manager = scheduler.kv_cache_manager
    blocks, seed = manager.block_pool.num_gpu_blocks - 1, scheduler.vllm_config.model_config.seed or 0
    book = LiveBook(policy, live_room(policy, blocks, params, seed), params)
    numbers = itertools.count()
    adopt(manager, book, lambda request: (next(numbers), 0))
    logger.info("vllm_sim evicts by policy %s %s: %d blocks.", policy, params or "", blocks)
