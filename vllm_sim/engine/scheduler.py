"""The scheduler that upstream would have used, with a block pool under the policy of the option `eviction`.

Faithful to vLLM 0.32 (v1/core/sched/scheduler.py, async_scheduler.py, config/scheduler.py, read): the scheduler is
upstream's, asynchronous where upstream's would be, and finished before its pool is put under a policy. Not there: a
request's category; in a live server every request has the same, and `workload_aware` is LRU.
"""

import copy
import itertools
from typing import Any

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.core.sched.interface import SchedulerInterface
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from vllm_sim.engine.contact import configure, field
from vllm_sim.engine.hints import hints_of_request
from vllm_sim.engine.options import PluginOptions, parse_options
from vllm_sim.engine.pool import Description, adopt
from vllm_sim.engine.refusals import is_other_connector
from vllm_sim.eviction.online_cache import OnlineCache, online_context

logger = init_logger("vllm.vllm_sim.scheduler")


class PolicyScheduler(SchedulerInterface):
    """What `--scheduler-cls` names: a call of it gives a scheduler of the class that upstream would have used."""

    def __new__(cls, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> Any:
        options = parse_options(vllm_config.additional_config)
        scheduler = _upstream_class(vllm_config, options)(vllm_config, *args, **kwargs)
        if options.eviction != "lru":
            put_under_policy(scheduler, options.eviction, options.eviction_params)
        return scheduler


def _upstream_class(vllm_config: VllmConfig, options: PluginOptions) -> type[SchedulerInterface]:
    config = copy.copy(vllm_config.scheduler_config)
    configure(config, scheduler_cls=options.scheduler_cls)
    return config.get_scheduler_cls()


def put_under_policy(scheduler: SchedulerInterface, policy: str, params: dict[str, Any]) -> None:
    """Puts the block pool of a scheduler, which has served no request yet, under a policy.

    Raises:
        ValueError: the scheduler, its cache or the policy is of a kind that cannot be served.
    """
    if not isinstance(scheduler, Scheduler):
        raise ValueError(f"eviction cannot serve the scheduler {type(scheduler).__qualname__}; allowed: vLLM's own")
    transfer = field(scheduler.vllm_config, "kv_transfer_config")
    if is_other_connector(transfer):
        raise ValueError(
            f"eviction {policy} cannot serve the KV connector {transfer.kv_connector}; allowed: OffloadingConnector"
        )
    manager = scheduler.kv_cache_manager
    blocks, seed = manager.block_pool.num_gpu_blocks - 1, scheduler.vllm_config.model_config.seed or 0
    online = OnlineCache(policy, online_context(policy, blocks, params, seed), params)
    numbers = itertools.count()

    def describe(request: Request) -> Description:
        return Description(next(numbers), 0, 1000.0 * request.arrival_time, hints_of_request(request))

    adopt(manager, online, describe)
    logger.info("vllm_sim evicts by policy %s %s: %d blocks.", policy, params or "", blocks)
