"""What values of a configuration go together, and the fields that rows leave out where they have their default."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_sim.replay.config import RunConfig

MOST = 2**31 - 1
"""Of every whole number; vLLM's block tables hold 32 bits."""
ALL = "all"
"""As a capacity: LRU at every capacity that rejects no request, in one row."""
SCHEDULER: dict[str, Any] = {
    "scheduling_policy": "fcfs",
    "scheduler_cls": None,
    "long_prefill_token_threshold": 0,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
    "max_num_active_seqs": None,
}
"""The options of vLLM's scheduler under vLLM's own names, with its defaults."""
TIER_FIELDS = (
    "kv_offloading_size", "offload_gbps", "offload_block_size", "offload_store_threshold", "offload_policy",
)  # fmt: skip
"""Of blocks in CPU memory."""
TIER_DEFAULTS: dict[str, Any] = dict.fromkeys(TIER_FIELDS[:3]) | {"offload_store_threshold": 1, "offload_policy": "lru"}
"""Where none are."""
OPTIONAL: dict[str, Any] = {
    "engine_args": {},
    "tensor_parallel": 1,
    "host_overhead_ms": 0.0,
    "replicas": 1,
    "router": None,
    "router_params": {},
    **SCHEDULER,
    **TIER_DEFAULTS,
}
"""The fields that are left out of all rows where they have this default."""


def check(config: "RunConfig") -> None:
    """Checks a configuration whose values are each allowed.

    Raises:
        ValueError: one does not go with another.
    """
    if config.backend == "engine" and config.model is None:
        raise ValueError(
            "the engine needs a model; allowed: --model FOLDER, as `vllm-sim model export` builds it, "
            "or another backend"
        )
    _check_tier(config)
    if not 0 <= config.warmup < 1:
        raise ValueError(f"warmup is {config.warmup}; allowed: a fraction from 0 to less than 1")
    if not 0 < config.speedup < float("inf"):
        raise ValueError(f"speedup is {config.speedup}; allowed: more than 0")
    if not 0 <= config.host_overhead_ms < float("inf"):
        raise ValueError(f"host_overhead_ms is {config.host_overhead_ms}; allowed: milliseconds, 0 or more")
    if config.raw_blocks and config.backend != "fast":
        raise ValueError(f"backend {config.backend} cannot serve raw blocks, which vLLM does not have; allowed: fast")
    if config.capacity_blocks == ALL and (config.policy, config.backend) != ("lru", "fast"):
        reason = f"policy {config.policy}, backend {config.backend}"
        raise ValueError(f"capacity all is exact for LRU alone, not for {reason}; allowed: lru, fast")
    if not 0 <= config.watermark < 1:
        raise ValueError(f"watermark is {config.watermark}; allowed: a share from 0 to less than 1")
    if config.scheduler_cls is not None and ":" not in config.scheduler_cls:
        raise ValueError(f"scheduler_cls is {config.scheduler_cls!r}; allowed: module:Class")
    if (config.max_num_active_seqs or 0) > config.max_num_seqs:
        raise ValueError(
            f"max_num_active_seqs is {config.max_num_active_seqs}; allowed: up to max_num_seqs, {config.max_num_seqs}"
        )
    config.scheduler_args()
    if config.replicas > 1:
        _check_fleet(config)
    if config.backend == "engine" and (config.latency_model == "table") != (config.latency_table is not None):
        raise ValueError(
            f"latency_model is {config.latency_model!r} {'with' if config.latency_table else 'without'} a table; "
            "allowed: table with --latency-file, which `vllm-sim calibrate` writes, or another without"
        )


def _check_fleet(config: "RunConfig") -> None:
    if config.capacity_blocks == ALL:
        raise ValueError(f"capacity all is of one cache, and replicas is {config.replicas}; allowed: 1")
    if config.blocks is not None and config.replicas > config.blocks:
        raise ValueError(
            f"replicas is {config.replicas}, more than the {config.blocks} blocks that they share; "
            "allowed: a block or more for each"
        )


def _check_tier(config: "RunConfig") -> None:
    for name in ("kv_offloading_size", "offload_gbps"):
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; allowed: more than 0")
    if config.kv_offloading_size is None:
        for name in TIER_FIELDS[1:]:
            if getattr(config, name) != OPTIONAL[name]:
                raise ValueError(f"{name} is {getattr(config, name)}; allowed: with --kv-offloading-size GIB")
    elif config.backend == "fast":
        _check_fast_tier(config)
    elif config.backend != "engine":
        raise ValueError(
            f"kv_offloading_size is {config.kv_offloading_size}, and backend {config.backend} knows no CPU memory; "
            "allowed: backend engine, fast"
        )


def _check_fast_tier(config: "RunConfig") -> None:
    """What `fast` knows of CPU memory (eviction/tiers.py)."""
    for name in TIER_FIELDS[1:]:
        if getattr(config, name) != OPTIONAL[name]:
            raise ValueError(f"{name} is {getattr(config, name)}, which backend fast does not know; allowed: engine")
    if config.replicas > 1:
        raise ValueError(f"kv_offloading_size with {config.replicas} replicas on backend fast; allowed: 1, or engine")
    if config.raw_blocks or config.is_curve:
        raise ValueError("kv_offloading_size with raw blocks or capacity all; allowed: one without the other")
