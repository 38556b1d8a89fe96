"""What a model computes and moves for a step, counted in vLLM's own class of it, as one of its devices has it.

Read: model_executor/layers/fused_moe/routed_experts.py, layers/attention/attention.py and mla_attention.py,
layers/vocab_parallel_embedding.py and v1/kv_cache_interface.py of vLLM 0.32. Matrices are the parameters of two or more
dimensions. Latent attention is counted as it computes a prompt, with keys and values of every head; decoding computes
more for a pair, and moves little.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.v1.kv_cache_interface import (
    AttentionSpec,
    ChunkedLocalAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)

from vllm_sim.models import work
from vllm_sim.step_load import Reach


def count_work(model: torch.nn.Module, config: VllmConfig, specs: Mapping[str, KVCacheSpec]) -> work.ModelWork:
    """What a model computes.

    Args:
        model: It, on any device; its embedding is its output layer where it has no other.
        config: with which it was built: it has its layers by their names.
        specs: What they keep.
    """
    heads, embeddings, matrices = [], [], 0
    experts: Counter[tuple[int, int, int]] = Counter()
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            heads.append(_matrices(module))
        elif isinstance(module, VocabParallelEmbedding):
            embeddings.append(_matrices(module))
        elif isinstance(module, RoutedExperts):
            kind = module.local_num_experts, module.global_num_experts, module.top_k
            experts[kind] += _matrices(module) // module.local_num_experts
        else:
            matrices += _matrices(module)
    text = config.model_config.hf_text_config
    return work.ModelWork(
        layer_weights=float(matrices),
        output_weights=float((heads or embeddings)[0]),
        attention=_attention(config, specs),
        reduced_values_a_token=2 * text.num_hidden_layers * text.hidden_size,
        experts=tuple(work.Experts(float(weights), *kind) for kind, weights in experts.items()),
        state_bytes=float(sum(_state_bytes(spec) for spec in specs.values() if isinstance(spec, MambaSpec))),
    )


def _matrices(module: torch.nn.Module) -> int:
    """Weights of a module's own matrices."""
    return sum(weight.numel() for weight in module.parameters(recurse=False) if weight.dim() > 1)


def _attention(config: VllmConfig, specs: Mapping[str, KVCacheSpec]) -> tuple[work.Attention, ...]:
    """Layers by their reach, those that see everything first."""
    operations: Counter[Reach | None] = Counter()
    read: dict[Reach | None, float] = {}
    for name, layer in config.compilation_config.static_forward_context.items():
        target = layer.kv_sharing_target_layer_name if isinstance(layer, Attention) else None
        spec = specs.get(target or name)
        if not isinstance(spec, AttentionSpec):
            continue
        reach = _reach(spec)
        read[reach] = read.get(reach, 0.0) + spec.real_page_size_bytes / spec.block_size
        if isinstance(layer, MLAAttention):
            operations[reach] += 2 * layer.num_heads * (layer.qk_head_dim + layer.v_head_dim)
        elif isinstance(layer, Attention):
            operations[reach] += 2 * layer.num_heads * (layer.head_size + layer.head_size_v)
    order = sorted(read, key=lambda reach: (reach is not None, reach or ()))
    return tuple(work.Attention(float(operations[reach]), read[reach], reach) for reach in order)


def _reach(spec: AttentionSpec) -> Reach | None:
    if isinstance(spec, ChunkedLocalAttentionSpec):
        return Reach(spec.attention_chunk_size, is_chunk=True)
    return Reach(spec.sliding_window) if isinstance(spec, SlidingWindowSpec) else None


def _state_bytes(spec: MambaSpec) -> int:
    return sum(prod(shape) * dtype.itemsize for shape, dtype in zip(spec.shapes, spec.dtypes, strict=True))
