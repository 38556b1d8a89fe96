"""The KV cache that a worker would report: what each layer keeps, the layouts, and the memory for it.

Models of a few classes whose layers all have full attention are described out of their configuration, which takes no
time; a test compares with what vLLM's classes say. All others are built (meta_model.py). Read: kv_cache_interface.py,
core/kv_cache_utils.py and worker/gpu_worker.py in v1/ of vLLM 0.32.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vllm.config import VllmConfig
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec

from vllm_sim.engine.cache_plan import block_bytes, groups_of, request_bytes
from vllm_sim.models.work import ModelWork, dense_work

DEFAULT_BYTES = 4 * 2**30
"""KV cache without --num-gpu-blocks-override and --kv-cache-memory-bytes: 131,072 tokens of Llama 3.2 1B in bfloat16;
more where --max-model-len needs more."""
_PLAIN = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Classes of vLLM with the same attention in every layer."""
_LESS = ("sliding", "chunked", "linear", "mamba", "conv")
"""In the names of kinds of layers that keep less than every token."""


class Layers(NamedTuple):
    """What a worker reports of a model that it has loaded."""

    specs: dict[str, KVCacheSpec]
    """What each layer keeps, by its name; a layer that uses another's cache has none."""
    layouts: list[str]
    """The layouts of the cache that all its attention backends can read, most preferred first."""
    work: ModelWork
    """What the model computes on the device."""


def is_plain(model: Any) -> bool:
    """Whether a model (vLLM's ModelConfig) keeps the same of every token in every layer."""
    return model.architecture in _PLAIN and has_full_attention(model)


def has_full_attention(model: Any) -> bool:
    """Whether the configuration of a model (vLLM's ModelConfig) names no layer that keeps less than every token.

    Fields of a model's own configuration depend on the model.
    """
    text = model.hf_text_config
    kinds = text.layer_types if hasattr(text, "layer_types") else None
    is_chunked = hasattr(text, "attention_chunk_size") and text.attention_chunk_size is not None
    has_other_kinds = any(part in kind for kind in kinds or () for part in _LESS)
    return not (model.is_hybrid or is_chunked or has_other_kinds or model.get_sliding_window() is not None)


def plain_layers(config: VllmConfig) -> Layers:
    """One full-attention layer for each layer of a plain model, by the name that vLLM would give it."""
    model = config.model_config
    spec = FullAttentionSpec(
        block_size=config.cache_config.block_size,
        num_kv_heads=model.get_num_kv_heads(config.parallel_config),
        head_size=model.get_head_size(),
        dtype=kv_cache_dtype_str_to_dtype(config.cache_config.cache_dtype, model),
    )
    layers = model.get_num_layers(config.parallel_config)
    specs: dict[str, KVCacheSpec] = {f"model.layers.{layer}.self_attn.attn": spec for layer in range(layers)}
    work = dense_work(model.hf_text_config.to_dict(), config.parallel_config.tensor_parallel_size)
    return Layers(specs, ["LBNHC"], work)


def available_bytes(config: VllmConfig, specs: Mapping[str, KVCacheSpec]) -> int:
    """Memory for the KV cache: what is configured, else DEFAULT_BYTES or the longest request, whichever is more.

    Args:
        config: whose layout upstream has resolved.
        specs: of the layers.
    """
    configured = config.cache_config.kv_cache_memory_bytes
    if configured:
        return configured
    groups = groups_of(config, specs)
    return max(DEFAULT_BYTES, request_bytes(config, groups) + block_bytes(config, groups))


def ample_bytes(config: VllmConfig, specs: Mapping[str, KVCacheSpec], lengths: Sequence[int]) -> int:
    """Memory in which requests of these lengths, in tokens, have room at once, so that nothing is ever evicted."""
    groups = groups_of(config, specs)
    blocks = sum(length // group.kv_cache_spec.block_size + 2 for group in groups for length in lengths)
    return (blocks + 1) * block_bytes(config, groups) + request_bytes(config, groups)
