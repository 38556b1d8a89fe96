"""What a model computes and moves for a step: its weights by use, its experts, and what its layers read of the cache.

Out of config.json alone for a dense decoder with grouped-query attention and a gated MLP (`dense_work`). What other
models compute is counted in vLLM's class of them (engine/model_work.py).
"""

from typing import Any, NamedTuple

from vllm_sim.step_load import Reach

VALUE_BYTES = 2
"""BF16 weights and KV cache."""


class Attention(NamedTuple):
    """Layers that see equally far, all together."""

    operations_a_pair: float
    """Of a token and a position that it attends to."""
    bytes_a_position: float
    """Of the cache, read for each request."""
    reach: Reach | None = None
    """None: every position before a token."""


class Experts(NamedTuple):
    """Layers with equally many experts, all together."""

    weights: float
    """Of one expert in each of the layers."""
    on_device: int
    """How many of a layer's experts the device has."""
    a_layer: int
    a_token: int
    """Experts that compute a token."""


class ModelWork(NamedTuple):
    """A model, or the part of it that one of its tensor-parallel devices has."""

    layer_weights: float
    """Of matrices that every token passes, without experts, embedding and output layer."""
    output_weights: float
    attention: tuple[Attention, ...]
    reduced_values_a_token: int
    """Values that a device shares with the others: two all-reduces a layer of hidden size."""
    experts: tuple[Experts, ...] = ()
    state_bytes: float = 0.0
    """Of a request, in layers that keep a state; it is read and written in each step."""


def dense_work(config: dict[str, Any], tensor_parallel: int = 1) -> ModelWork:
    """Of a dense model.

    Args:
        config: The fields of its config.json.
        tensor_parallel: Devices that share each layer; none has less than one key-value head.
    """
    hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    matrices = hidden * size * (2 * heads + 2 * kv_heads) + 3 * hidden * config["intermediate_size"]
    kv_bytes = 2 * max(1, kv_heads / tensor_parallel) * size * layers * VALUE_BYTES
    return ModelWork(
        layer_weights=layers * matrices / tensor_parallel,
        output_weights=hidden * config["vocab_size"] / tensor_parallel,
        attention=(Attention(4 * heads * size * layers / tensor_parallel, kv_bytes),),
        reduced_values_a_token=2 * layers * hidden,
    )
