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
