"""A model's layers as vLLM's own classes build them, on the device `meta`: no weights, what each keeps and computes.

Read: v1/worker/gpu_worker.py, v1/worker/gpu/attn_utils.py, v1/executor/uniproc_executor.py and
model_executor/model_loader/utils.py of vLLM 0.32. Upstream's functions are called in upstream's order: one-rank groups,
the model, update_block_size_for_backend, the specs of the layers. Left out: the quantisation of weights, whose kernels
a CPU lacks and which decides nothing of the cache. A quantised cache is refused: its pages have not been compared.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed.kv_transfer.kv_connector.utils import get_current_attn_backends
from vllm.distributed.parallel_state import (
    GroupCoordinator,
    get_tp_group,
    init_distributed_environment,
    initialize_model_parallel,
    model_parallel_is_initialized,
)
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms import current_platform
from vllm.utils.network_utils import get_file_store_init_method
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

from vllm_sim.engine import compat
from vllm_sim.engine.attention import BackendError
from vllm_sim.engine.contact import configure
from vllm_sim.engine.kv_cache import Layers
from vllm_sim.engine.model_work import count_work

_CACHE_DTYPES = ("auto", "float16", "bfloat16")


def build_layers(config: VllmConfig) -> Layers:
    """Builds the model of a configuration, whose block size upstream may change.

    Raises:
        ValueError: the model's class cannot be built without kernels, or the cache's type is not served.
    """
    dtype = config.cache_config.cache_dtype
    if dtype not in _CACHE_DTYPES:
        raise ValueError(f"kv cache dtype is {dtype!r}; allowed for this model: {', '.join(_CACHE_DTYPES)}")
    weights: Any = config.quant_config
    if dtype == "auto" and hasattr(weights, "kv_cache_scheme") and weights.kv_cache_scheme is not None:
        raise ValueError("the model's kv_cache_scheme quantises its cache; allowed: kv cache dtype bfloat16 or float16")
    try:
        with _as_first_of_its_devices(config):
            model = _build(config)
            current_platform.update_block_size_for_backend(config)
            specs = get_kv_cache_spec(config)  # layers with states ask for the number of devices here too
            layouts = get_supported_kv_cache_layouts(get_current_attn_backends(config))
            work = count_work(model, config, specs)
    except BackendError:
        raise
    except Exception as error:  # a class may need any kernel, device or package
        raise _refusal(config, error) from error
    return Layers(specs, [layout.name for layout in layouts], work)


def build_weights(config: VllmConfig) -> int:
    """Builds the model of a configuration and counts the bytes of its parameters on one of its devices.

    Raises:
        ValueError: the model's class cannot be built without kernels.
    """
    try:
        with _as_first_of_its_devices(config):
            model = _build(copy.deepcopy(config))  # its layers register themselves with the configuration, once
    except Exception as error:
        raise _refusal(config, error) from error
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _build(config: VllmConfig) -> torch.nn.Module:
    """The model on the device `meta`."""
    unquantised = copy.copy(config)
    configure(unquantised, quant_config=None)
    with (
        set_current_vllm_config(unquantised),
        set_default_torch_dtype(config.model_config.dtype),
        torch.device("meta"),
    ):
        return initialize_model(unquantised)


@contextmanager
def _as_first_of_its_devices(config: VllmConfig) -> Iterator[None]:
    """Lets layers believe in the other devices that share them, which are not there."""
    group = _group_of_one()
    compat.RANKS.put(group, config.parallel_config.tensor_parallel_size)
    try:
        yield
    finally:
        compat.RANKS.put(group, 1)


def _refusal(config: VllmConfig, error: Exception) -> ValueError:
    names = ", ".join(config.model_config.architectures)
    return ValueError(f"{names} cannot be built without kernels: {type(error).__name__}: {error}")


def _group_of_one() -> GroupCoordinator:
    """Makes the groups of ranks that layers ask for, of one rank; under no model, so that all kinds are made.

    Returns:
        The group of tensor parallelism.
    """
    if not model_parallel_is_initialized():
        with set_current_vllm_config(VllmConfig()):
            init_distributed_environment(1, 0, get_file_store_init_method(), 0, backend="gloo")
            initialize_model_parallel(1, 1)
    return get_tp_group()
