"""What the KV cache of a model is made of and how much fits into memory, by vLLM's own start of an engine.

The engine is upstream's EngineCore with the replay executor over a trace of one row; everything below is read from it
once it has started: groups and blocks (v1/core/kv_cache_utils.py), kv_cache_size_tokens and kv_cache_max_concurrency
(update_kv_cache_capacity), the alignment of hits (its KV-cache manager). Bytes of weights are those of the parameters
of vLLM's class on the device `meta`. Not upstream's: what a device keeps besides weights and cache, which vLLM measures
on the device itself (v1/worker/gpu_worker.py of vLLM 0.32, determine_available_memory); RESERVE_BYTES stands for it.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.core import EngineCore

from vllm_sim.engine.backends.cache_groups import GroupShape, group_shapes, hit_alignment
from vllm_sim.engine.cache_plan import block_bytes, request_bytes
from vllm_sim.engine.contact import configure, field
from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.plugin import TRACE_VARIABLE

RESERVE_BYTES = 2 * 2**30
"""Activations of the largest step, CUDA graphs and the CUDA context. An assumption; it was not tried on a GPU."""
_ROW = {"prompt_token_ids": [1, 2], "response_token_ids": [1]}


class Memory(NamedTuple):
    """Memory of a device, in bytes."""

    total: int
    utilisation: float | None = None
    """The share that vLLM takes; None: vLLM's default of --gpu-memory-utilization."""
    weights: int | None = None
    """None: all parameters of vLLM's class, none of them quantised."""
    reserve: int = RESERVE_BYTES


class CacheFacts(NamedTuple):
    """The KV cache of a model on one of its tensor-parallel devices; what depends on memory is None without any."""

    tensor_parallel: int
    max_model_len: int
    groups: list[GroupShape]
    block_size: int
    """Tokens of a block as the scheduler counts: the least common multiple over the groups."""
    hash_block_size: int
    bytes_per_block: int
    """Of the pool, which all groups share; in all layers of a group."""
    longest_request_bytes: int
    """Of a request of max_model_len tokens."""
    bytes_per_token: float
    """longest_request_bytes / max_model_len."""
    hit_alignment_tokens: int
    shortest_prompt_hit_tokens: int
    """The shortest prompt of which a prefix can be hit when it comes again: its last token never is."""
    weight_bytes: int | None = None
    memory_bytes: int | None = None
    """For the cache."""
    blocks: int | None = None
    """Usable ones: without the null block."""
    kv_cache_size_tokens: int | None = None
    """Tokens that fit, by vLLM."""
    kv_cache_max_concurrency: float | None = None
    """Requests of max_model_len tokens that fit at once, by vLLM."""


def model_cache(
    model: str,
    memory: int | Memory | None = None,
    tensor_parallel: int = 1,
    max_model_len: int | None = None,
    arguments: dict[str, Any] | None = None,
) -> CacheFacts:
    """Starts an engine for a model and reads what its cache is made of.

    Args:
        model: Folder with a config.json.
        memory: Bytes for the cache; or the device's memory, of which weights and a reserve are taken first.
        tensor_parallel: Devices that share each layer.
        max_model_len: Longest request; None: what the model's configuration allows.
        arguments: Further arguments of vLLM's EngineArgs.

    Raises:
        ValueError: the model cannot be built, its heads cannot be split so, or the memory does not do for a request.
    """
    with _one_row() as trace:
        config = _configure(model, tensor_parallel, max_model_len, arguments or {})
        weights = None
        if isinstance(memory, Memory):
            weights = _weight_bytes(config) if memory.weights is None else memory.weights
            memory = _cache_bytes(memory, weights, field(config.cache_config, "gpu_memory_utilization"))
        if memory is not None:
            configure(config.cache_config, kv_cache_memory_bytes=memory)
        os.environ[TRACE_VARIABLE] = str(trace)
        core = EngineCore(config, ReplayExecutor, log_stats=False)
        try:
            return _read(core, memory, weights)
        finally:
            core.shutdown()


@contextmanager
def _one_row() -> Iterator[Path]:
    """A trace, which an engine needs; the variable that named another one names it again afterwards."""
    named = os.environ.get(TRACE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="vllm-sim-") as folder:
        path = Path(folder) / "one-row.jsonl"
        path.write_text(json.dumps(_ROW) + "\n", encoding="utf-8")
        os.environ[TRACE_VARIABLE] = str(path)
        try:
            yield path
        finally:
            if named is not None:
                os.environ[TRACE_VARIABLE] = named


def _configure(model: str, tensor_parallel: int, max_model_len: int | None, arguments: dict[str, Any]) -> VllmConfig:
    more = {"skip_tokenizer_init": True, "enable_prefix_caching": True, "max_model_len": max_model_len} | arguments
    return EngineArgs(model=model, tensor_parallel_size=tensor_parallel, **more).create_engine_config()


def _weight_bytes(config: VllmConfig) -> int:
    from vllm_sim.engine.meta_model import build_weights  # takes its time

    return build_weights(config)


def _cache_bytes(memory: Memory, weights: int, usual: float) -> int:
    share = usual if memory.utilisation is None else memory.utilisation
    left = int(memory.total * share) - weights - memory.reserve
    if left <= 0:
        gib = [f"{bytes_ / 2**30:.1f} GiB" for bytes_ in (memory.total * share, weights, memory.reserve)]
        raise ValueError(
            f"of {gib[0]} that vLLM takes of the device, weights of {gib[1]} and a reserve of {gib[2]} leave nothing "
            "for the cache; allowed: more devices (--tensor-parallel), smaller weights (--weights)"
        )
    return left


def _read(core: EngineCore, memory: int | None, weights: int | None) -> CacheFacts:
    config, manager = core.vllm_config, core.scheduler.kv_cache_manager  # type: ignore[attr-defined]
    longest = config.model_config.max_model_len
    alignment = hit_alignment(manager)
    groups = manager.kv_cache_config.kv_cache_groups
    needed = request_bytes(config, groups)
    facts = CacheFacts(
        tensor_parallel=config.parallel_config.tensor_parallel_size,
        max_model_len=longest,
        groups=group_shapes(manager),
        block_size=manager.coordinator.scheduler_block_size,
        hash_block_size=manager.block_pool.hash_block_size,
        bytes_per_block=block_bytes(config, groups),
        longest_request_bytes=needed,
        bytes_per_token=needed / longest,
        hit_alignment_tokens=alignment,
        shortest_prompt_hit_tokens=alignment + 1,
    )
    if memory is None:
        return facts
    return facts._replace(
        weight_bytes=weights,
        memory_bytes=memory,
        blocks=manager.kv_cache_config.num_blocks - 1,
        kv_cache_size_tokens=config.cache_config.kv_cache_size_tokens,
        kv_cache_max_concurrency=config.cache_config.kv_cache_max_concurrency,
    )
