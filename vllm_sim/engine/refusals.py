"""Which configurations a simulator refuses: those whose behaviour would not be the real one.

Read: vllm/config/ of vLLM 0.32. A field that vLLM does not have is an error, not a configuration that is accepted.
"""

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_sim.engine.contact import field

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_CACHE_DTYPES = ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2")
"""Those whose blocks hold keys and values and nothing else, such as scales."""


class Refusal(NamedTuple):
    """What is refused, by a field of a VllmConfig."""

    what: str
    """{} stands for the field's value."""
    path: str
    """The field."""
    refuses: Callable[[Any], bool]
    """Whether a value of it is refused."""


def refuse_unsupported(config: "VllmConfig") -> None:
    """Refuses a configuration whose behaviour would not be the real one.

    Raises:
        ValueError: with all that is refused.
        VersionError: vLLM lacks a field that has to be looked at.
    """
    refused = []
    for refusal in REFUSALS:
        value = reduce(field, refusal.path.split("."), config)
        if refusal.refuses(value):
            refused.append(refusal.what.format(value))
    if refused:
        raise ValueError(f"vllm_sim cannot simulate {', '.join(dict.fromkeys(refused))}; see the limits in its README")


def _is_set(value: Any) -> bool:
    return value is not None


def _is_several(value: int) -> bool:
    return value > 1


def is_other_connector(transfer: Any) -> bool:
    """Whether a KVTransferConfig names another connector than the one whose worker is ours (tier.py)."""
    return transfer is not None and field(transfer, "kv_connector") != "OffloadingConnector"


def _is_other_specification(transfer: Any) -> bool:
    """Whether it names one of upstream's that has tiers below the CPU's memory, which have threads and files."""
    if transfer is None or is_other_connector(transfer):
        return False
    more = field(transfer, "kv_connector_extra_config")
    return more.get("spec_name", "CPUOffloadingSpec") != "CPUOffloadingSpec" and "spec_module_path" not in more


REFUSALS = (
    Refusal("LoRA", "lora_config", _is_set),
    Refusal("speculative decoding", "speculative_config", _is_set),
    Refusal("pipeline parallelism", "parallel_config.pipeline_parallel_size", _is_several),
    Refusal("context parallelism", "parallel_config.decode_context_parallel_size", _is_several),
    Refusal("context parallelism", "parallel_config.prefill_context_parallel_size", _is_several),
    Refusal("a pooling model", "model_config.runner_type", lambda runner: runner == "pooling"),
    Refusal("a multimodal model", "model_config.is_multimodal_model", bool),
    Refusal("an encoder-decoder model", "model_config.is_encoder_decoder", bool),
    Refusal("prompt embeddings", "model_config.enable_prompt_embeds", bool),
    Refusal("custom logits processors", "model_config.logits_processors", bool),
    Refusal(
        "the KV connector {0.kv_connector} (allowed: OffloadingConnector)", "kv_transfer_config", is_other_connector
    ),
    Refusal(
        "the offloading specification {0.kv_connector_extra_config[spec_name]} (allowed: CPUOffloadingSpec or "
        "yours by spec_module_path)",
        "kv_transfer_config",
        _is_other_specification,
    ),
    Refusal("a KV cache of type {}", "cache_config.cache_dtype", lambda dtype: dtype not in _CACHE_DTYPES),
    Refusal("watermarking", "watermark_config", _is_set),
    Refusal("a diffusion model", "model_config.is_diffusion", bool),
    Refusal("an encoder connector", "ec_transfer_config", _is_set),
    Refusal("a model without attention", "model_config.is_attention_free", bool),
    Refusal("--enable-trace-replay (it forces tokens on a real model)", "model_config.enable_trace_replay", bool),
)
