"""Tiny models of several classes: configurations alone, with the exported model's tokenizer; vLLM makes weights up.

What the layers of each keep is what its full-sized kin keep, in small; sizes are those that the CPU kernels take.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

EXPORTED = Path(__file__).parents[1] / "exported_models" / "Llama-3.2-1B-Instruct"
END_TOKEN = 128009
WINDOW, CHUNK = 64, 128
"""Tokens that a sliding window and a chunk hold."""
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


class Model(NamedTuple):
    """A tiny model."""

    architecture: str
    model_type: str
    sizes: dict[str, Any]
    """Fields of its config.json, next to SIZES and what all have."""
    dtype: str = "float32"
    groups: tuple[str, ...] = ("full",)
    """What its cache groups keep: full, window, chunk, state."""
    state_tokens: int = 0
    """Tokens whose keys and values take as much room as a state."""

    def takes(self, block_size: int) -> bool:
        """Whether vLLM's attention runs blocks of a size: a chunk must be whole blocks."""
        return "chunk" not in self.groups or CHUNK % block_size == 0

    def needed_blocks(self, block_size: int, tokens: int, in_flight_tokens: int) -> int:
        """Blocks that vLLM wants to have for a request, all groups together.

        Args:
            block_size: that is configured, of which upstream makes a multiple where a state needs it.
            tokens: of the request.
            in_flight_tokens: the most that are scheduled and not yet computed.
        """
        block_size *= max(1, -(-self.state_tokens // block_size))
        most = {
            "full": -(-tokens // block_size),
            "window": -(-min(tokens, WINDOW - 1 + in_flight_tokens) // block_size) + 1,
            "chunk": -(-min(tokens, CHUNK + in_flight_tokens) // block_size),
            "state": 3,
        }
        return sum(most[group] for group in self.groups)


MODELS = {
    "llama": Model("LlamaForCausalLM", "llama", {}),
    "gemma3": Model(
        "Gemma3ForCausalLM",
        "gemma3_text",
        {
            "num_hidden_layers": 6,
            "sliding_window": WINDOW,
            "sliding_window_pattern": 3,
            "query_pre_attn_scalar": 32,
            "rope_local_base_freq": 10000,
        },
        groups=("window", "window", "full"),
    ),
    "gpt-oss": Model(
        "GptOssForCausalLM",
        "gpt_oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW, "rope_theta": 150000},
        "bfloat16",
        ("window", "full"),
    ),
    "mistral": Model("MistralForCausalLM", "mistral", {"sliding_window": WINDOW}, groups=("window",)),
    "llama4": Model(
        "Llama4ForCausalLM",
        "llama4_text",
        {
            "num_hidden_layers": 4,
            "intermediate_size_mlp": 128,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": CHUNK,
        },
        groups=("chunk", "chunk", "chunk", "full"),
    ),
    "lfm2": Model(
        "Lfm2ForCausalLM",
        "lfm2",
        {
            "layer_types": ["conv", "full_attention"],
            "conv_L_cache": 3,
            "conv_bias": False,
            "conv_dim": 64,
            "block_dim": 64,
            "block_ff_dim": 128,
            "block_multiple_of": 32,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": False,
            "norm_eps": 1e-5,
        },
        groups=("state", "full"),
        state_tokens=2,
    ),
    "qwen3-next": Model(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        {
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 1,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
            "full_attention_interval": 2,
            "partial_rotary_factor": 0.25,
        },
        "bfloat16",
        ("state", "full"),
        state_tokens=34,
    ),
}


def make_models(folder: Path, names: Iterable[str] = MODELS) -> str:
    """Writes models, a folder each by name; returns the folder of them all."""
    for name in names:
        make_model(folder / name, name)
    return str(folder)


def make_model(folder: Path, name: str = "llama") -> str:
    """Writes a model; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EXPORTED / file, folder)
    config = json.loads((EXPORTED / "config.json").read_text(encoding="utf-8"))
    model = MODELS[name]
    if name != "llama":
        kept = ("bos_token_id", "max_position_embeddings", "tie_word_embeddings", "vocab_size")
        config = {field: config[field] for field in kept}
        config |= {"architectures": [model.architecture], "model_type": model.model_type, "torch_dtype": model.dtype}
    # The exported model has further end tokens, which real execution may sample anywhere.
    own = SIZES | model.sizes | {"eos_token_id": END_TOKEN}
    (folder / "config.json").write_text(json.dumps(config | own, indent=2), encoding="utf-8")
    return str(folder)
