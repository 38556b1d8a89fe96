"""What the layers of a model keep of its tokens, as far as config.json alone says: without vLLM.

Read: the configuration classes of transformers 5.19. The engine asks vLLM's own classes instead (engine/kv_cache.py).
"""

import functools
import json
from pathlib import Path
from typing import Any

_WINDOWS = ("sliding_window", "sliding_window_size", "attention_chunk_size")
_STATES = (
    "mamba_d_state",
    "mamba_n_heads",
    "linear_num_value_heads",
    "linear_attn_config",
    "ssm_state_size",
    "conv_L_cache",
)
_VALUE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float8_e4m3fn": 1}
_LESS = ("sliding", "chunked", "linear", "mamba", "conv")


@functools.lru_cache(maxsize=64)
def keeps_less(model: str) -> str | None:
    """Why layers of a model keep less than every token, by the name of a field of its config.json; None: none does.

    Args:
        model: The model's folder.
    """
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config = config.get("text_config") or config
    if any(part in kind for kind in config.get("layer_types") or () for part in _LESS):
        return "layer_types"
    if config.get("model_type") in ("llama4_text", "llama4"):  # its class has chunks unless config.json says otherwise
        return "attention_chunk_size" if config.get("attention_chunk_size", 8192) else None
    windows = _WINDOWS if config.get("use_sliding_window", True) else ()
    return next((name for name in (*windows, *_STATES) if config.get(name)), None)


def kv_bytes_a_token(model: str | None) -> int:
    """Bytes of a token in the cache: keys and values x layers x key-value heads x head size x bytes a value.

    Raises:
        ValueError: there is no model, its folder holds no config.json, or its dtype is not known.
    """
    if model is None:
        raise ValueError("a capacity in bytes needs a model; allowed: --model FOLDER with a config.json")
    path = Path(model) / "config.json"
    if not path.is_file():
        raise ValueError(f"{model} holds no config.json, which a capacity in bytes needs; allowed: --model FOLDER")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("kv_lora_rank"):
        raise ValueError(
            f"{path}: a token of latent attention has no keys and values; allowed: blocks, tokens, a share"
        )
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    dtype = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    if dtype not in _VALUE_BYTES:
        raise ValueError(f"{path}: dtype is {dtype!r}; allowed: {', '.join(_VALUE_BYTES)}")
    kv_heads = config.get("num_key_value_heads") or heads
    return 2 * config["num_hidden_layers"] * kv_heads * size * _VALUE_BYTES[dtype]
