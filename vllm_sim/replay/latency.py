"""How long a step takes on a device: models by name.

`zero` takes no time. `table` is a plane through steps that a real vLLM timed (calibrate.py). `roofline` is the larger
of the time to compute and the time to move bytes, for one device and a decoder with grouped-query attention and a gated
MLP, out of the model's config.json. Not modelled there: launch and host overhead, kernels that use only part of the
device, communication, quantisation of weights, and the overlap of computing with moving beyond their maximum.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

StepLoad = Sequence[tuple[int, int, bool]]
"""For each request of a step: tokens computed in it, tokens of context before them, and whether a token is sampled."""


def split_load(load: StepLoad) -> tuple[int, int, int]:
    """Requests that prefill, their tokens, and requests that decode (one token behind a context, and one sampled)."""
    decode = sum(new == 1 and context > 0 and last for new, context, last in load)
    return len(load) - decode, sum(new for new, _, _ in load) - decode, decode


class LatencyModel(Protocol):
    """The time of a step."""

    def step_ms(self, load: StepLoad) -> float:
        """Milliseconds that a step with this load takes."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """Peak numbers of a device, from its vendor's document.

    Attributes:
        tflops: Dense BF16 matrix operations, 10^12 floating-point operations a second.
        gb_per_s: Memory bandwidth, 10^9 bytes a second.
        source: The document.
    """

    tflops: float
    gb_per_s: float
    source: str


DEVICES = {
    "h100": Device(
        989.4, 3350, "NVIDIA H100 Tensor Core GPU datasheet, SXM: BF16 1,979 TFLOPS with sparsity, 3.35 TB/s"
    ),
    "a100": Device(312, 2039, "NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM: BF16 312 TFLOPS, 2,039 GB/s"),
    "l4": Device(121, 300, "NVIDIA L4 Tensor Core GPU datasheet: BF16 242 TFLOPS with sparsity, 300 GB/s"),
    "laptop": Device(
        0.92,
        119.5,
        "Intel Core Ultra 7 155H, product specifications: LPDDR5x-7467 on 128 bits; 6 performance cores at 4.8 GHz "
        "with 32 FP32 operations a cycle (AVX2, two FMA units)",
    ),
}

MODELS = ("zero", "roofline", "table")
COMPUTE_EFFICIENCY = 0.6
MEMORY_EFFICIENCY = 0.8
_BYTES_A_VALUE = 2
"""BF16 weights and KV cache."""


class Roofline:
    """max(operations / (peak x 0.6), bytes / (bandwidth x 0.8)) of a step.

    Operations: 2 for each weight outside the embedding and each token; 2 for each weight of the output layer and each
    sampled token; 4 x heads x head size x layers for each pair of a token and a position that it attends to. Bytes:
    every weight once; keys and values of all positions attended to read once a request, those of new tokens written.
    The efficiencies are assumptions, the same for every device: a large matrix product reaches about 0.6 of the peak,
    a stream through memory about 0.8.
    """

    def __init__(self, config: dict[str, Any], device: str):
        if device not in DEVICES:
            raise ValueError(f"device is {device!r}; allowed: {', '.join(DEVICES)}")
        hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        size = config.get("head_dim") or hidden // heads
        kv_heads = config.get("num_key_value_heads") or heads
        attention = hidden * size * (2 * heads + 2 * kv_heads)
        self.layer_weights = layers * (attention + 3 * hidden * config["intermediate_size"])
        self.output_weights = hidden * config["vocab_size"]
        self.operations_a_pair = 4 * heads * size * layers
        self.kv_bytes_a_token = 2 * kv_heads * size * layers * _BYTES_A_VALUE
        self.operations_per_ms = DEVICES[device].tflops * 1e9 * COMPUTE_EFFICIENCY
        self.bytes_per_ms = DEVICES[device].gb_per_s * 1e6 * MEMORY_EFFICIENCY

    def step_ms(self, load: StepLoad) -> float:
        if not load:
            return 0.0
        tokens = sum(new for new, _, _ in load)
        sampled = sum(last for _, _, last in load)
        pairs = sum(new * context + new * (new + 1) // 2 for new, context, _ in load)
        positions = sum(context + 2 * new for new, context, _ in load)
        operations = 2 * (self.layer_weights * tokens + self.output_weights * sampled) + self.operations_a_pair * pairs
        moved = (self.layer_weights + self.output_weights) * _BYTES_A_VALUE + self.kv_bytes_a_token * positions
        return max(operations / self.operations_per_ms, moved / self.bytes_per_ms)


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """base + a x prefilling requests + b x their tokens + c x decoding requests: what vllm-sim calibrate has fitted.

    The length of contexts is not in it: vLLM's log does not tell it. A step that computes nothing takes no time.
    """

    base_ms: float
    prefill_request_ms: float
    prefill_token_ms: float
    decode_request_ms: float

    def step_ms(self, load: StepLoad) -> float:
        if not load:
            return 0.0
        prefill, tokens, decode = split_load(load)
        return (
            self.base_ms
            + self.prefill_request_ms * prefill
            + self.prefill_token_ms * tokens
            + self.decode_request_ms * decode
        )


def load_table(path: Path) -> LatencyTable:
    """A table that vllm-sim calibrate has written.

    Raises:
        ValueError: the file is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    names = [field.name for field in fields(LatencyTable)]
    for name in names:
        value = values.get(name) if isinstance(values, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"{path}: {name} is {value!r}; allowed: milliseconds, 0 or more")
    return LatencyTable(*(float(values[name]) for name in names))


def make_latency(
    name: str, config: dict[str, Any], device: str, table: LatencyTable | None = None
) -> LatencyModel | None:
    """A latency model by its name; None for `zero`, where steps take no time and their load need not be known.

    Args:
        name: One of MODELS.
        config: The model's config.json, for `roofline`.
        device: A name of DEVICES, for `roofline`.
        table: For `table`.

    Raises:
        ValueError: the name or the device is not known, or there is no table.
    """
    if name == "zero":
        return None
    if name == "roofline":
        return Roofline(config, device)
    if name == "table" and table is not None:
        return table
    raise ValueError(f"latency model is {name!r}; allowed: {', '.join(MODELS)}, table with a table")
