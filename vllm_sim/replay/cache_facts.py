"""What vLLM's start of an engine says of a model's KV cache: `engine/model_cache.py`, imported when it is needed."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.vllm_version import installed_version

if TYPE_CHECKING:
    from vllm_sim.engine.model_cache import CacheFacts


def cache_facts(
    model: str,
    memory: int | dict[str, Any] | None = None,
    tensor_parallel: int = 1,
    max_model_len: int | None = None,
    arguments: dict[str, Any] | None = None,
) -> "CacheFacts":
    """As `engine.model_cache.model_cache`, which has the arguments; `memory` may be the fields of its `Memory`.

    Raises:
        ValueError: as it does, or there is no such model folder.
        VersionError: vLLM is not installed or too old.
    """
    if not (Path(model) / "config.json").is_file():
        raise ValueError(f"{model} holds no config.json; allowed: a folder as `vllm-sim model config NAME` writes one")
    if tensor_parallel < 1:
        raise ValueError(f"tensor-parallel is {tensor_parallel}; allowed: 1 device or more")
    installed_version()
    os.environ.setdefault(TRACE_VARIABLE, "named, so that vLLM chooses our platform when it is imported")
    from vllm_sim.engine.model_cache import Memory, model_cache

    of_device = Memory(**memory) if isinstance(memory, dict) else memory
    return model_cache(model, of_device, tensor_parallel, max_model_len, arguments)
