"""The KV cache that a worker would report: its layers and its memory, out of the model's configuration.

Modelled: decoder-only models whose layers all have full attention, on one device. Read: v1/kv_cache_interface.py and
v1/worker/gpu_worker.py of vLLM 0.32.
"""

from vllm.config import VllmConfig
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec

DEFAULT_BYTES = 4 * 2**30
"""KV cache without --num-gpu-blocks-override and --kv-cache-memory-bytes: 131,072 tokens of Llama 3.2 1B in bfloat16;
more where --max-model-len needs more."""


def kv_cache_specs(config: VllmConfig) -> dict[str, KVCacheSpec]:
    """One full-attention layer for each layer of the model, by the name that vLLM would give it."""
    model = config.model_config
    spec = FullAttentionSpec(
        block_size=config.cache_config.block_size,
        num_kv_heads=model.get_num_kv_heads(config.parallel_config),
        head_size=model.get_head_size(),
        dtype=kv_cache_dtype_str_to_dtype(config.cache_config.cache_dtype, model),
    )
    layers = model.get_num_layers(config.parallel_config)
    return {f"model.layers.{layer}.self_attn.attn": spec for layer in range(layers)}


def available_bytes(config: VllmConfig) -> int:
    """Memory for the KV cache: what was asked for, else DEFAULT_BYTES or the longest request, whichever is more."""
    asked = config.cache_config.kv_cache_memory_bytes
    if asked:
        return asked
    specs = kv_cache_specs(config).values()
    one_block = sum(spec.page_size_bytes for spec in specs)
    longest = sum(spec.max_memory_usage_bytes(config) for spec in specs)
    return max(DEFAULT_BYTES, longest + one_block)
