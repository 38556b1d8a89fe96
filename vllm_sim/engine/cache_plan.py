"""vLLM's arithmetic of a KV cache before an engine starts: groups of layers, bytes of a block, bytes of a request.

Upstream's own functions, by their place: v1/core/kv_cache_utils.py in vLLM 0.32, v1/core/kv_cache_planning.py in 0.33,
where some ask the platform's builder of cache configurations. Both were read.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import KVCacheGroupSpec, KVCacheSpec

from vllm_sim.engine.contact import first_of

_PLACES = ("vllm.v1.core.kv_cache_planning", "vllm.v1.core.kv_cache_utils")


def groups_of(config: VllmConfig, specs: Mapping[str, KVCacheSpec]) -> list[KVCacheGroupSpec]:
    """The cache groups that upstream makes of what each layer keeps."""
    return _upstream("get_kv_cache_groups")(config, dict(specs))


def block_bytes(config: VllmConfig, groups: list[KVCacheGroupSpec]) -> int:
    """Bytes of one block of the pool that the groups share."""
    return _upstream("_pool_bytes_per_block")(config, groups)


def request_bytes(config: VllmConfig, groups: list[KVCacheGroupSpec]) -> int:
    """Bytes of the cache for one request of max_model_len tokens."""
    function = _upstream("_max_memory_usage_bytes_from_groups")
    if "builder" in inspect.signature(function).parameters:
        make_builder = first_of("vllm.v1.core.kv_cache_config_builder:get_kv_cache_config_builder")
        return function(make_builder(config), config, groups)
    return function(config, groups)


def _upstream(name: str) -> Any:
    return first_of(*(f"{place}:{name}" for place in _PLACES))
