"""vLLM's own attention backends without their kernels: what they say of blocks, pages and layouts is upstream's.

Read: v1/attention/backends/registry.py, v1/attention/selector.py and platforms/cuda.py of vLLM 0.32. A backend's class
can be imported without kernels more often than what computes with it, so a subclass of the same name gives a stand-in
for that alone. Chosen by this module: which backend, where --attention-backend names none. Those are the first of
upstream's list for a Hopper GPU whose class can be imported without kernels and that takes the given block size;
upstream's first for MLA there, FLASH_ATTN_MLA, cannot: it takes multiples of 16 as TRITON_MLA does, FLASHMLA 64 alone.
"""

import functools
from typing import Any

from vllm.v1.attention.backend import AttentionBackend, AttentionImpl, MLAAttentionImpl
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig

_FULL = (AttentionBackendEnum.FLASH_ATTN, AttentionBackendEnum.TRITON_ATTN)
_MLA = (AttentionBackendEnum.FLASHMLA, AttentionBackendEnum.TRITON_MLA)
_SPARSE_MLA = (AttentionBackendEnum.FLASHMLA_SPARSE,)


class BackendError(ValueError):
    """No backend takes what is configured."""


def backend_path(selected: AttentionBackendEnum | None, config: AttentionSelectorConfig) -> str:
    """The path by which vLLM imports the backend of a layer.

    Args:
        selected: The one that the user names.
        config: What the layer needs.

    Raises:
        BackendError: the backend cannot be imported without kernels, or does not take the block size.
    """
    usual = _SPARSE_MLA if config.use_sparse else _MLA if config.use_mla else _FULL
    backends = [_import(backend.name) for backend in ([selected] if selected is not None else usual)]
    for backend in backends:
        if config.block_size is None or backend.supports_block_size(config.block_size):
            return f"{__name__}.{backend.__qualname__}"
    allowed = "; ".join(f"{one.get_name()}: {one.get_supported_kernel_block_sizes()}" for one in backends)
    raise BackendError(f"block size is {config.block_size}; allowed by the attention backends: {allowed}")


def __getattr__(name: str) -> type[AttentionBackend]:
    """What a path of backend_path stands for."""
    if name not in AttentionBackendEnum.__members__:
        raise AttributeError(name)
    return _import(name)


@functools.cache
def _import(name: str) -> type[AttentionBackend]:
    try:
        upstream = AttentionBackendEnum[name].get_class()
    except Exception as error:  # what is missing differs: a module, a name, a device
        raise BackendError(f"attention backend {name} cannot be imported without kernels: {error}") from None
    stand_in = _Sparse if upstream.is_sparse() else _Latent if upstream.is_mla() else _Plain
    body = {"__module__": __name__, "__qualname__": name, "get_impl_cls": staticmethod(lambda: stand_in)}
    return type(upstream.__name__, (upstream,), body)


class _Plain(AttentionImpl[Any]):
    """Computes nothing."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        raise NotImplementedError


class _Latent(MLAAttentionImpl[Any]):
    """Computes nothing, on MLA layers."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def forward_mha(self, *arguments: Any, **keywords: Any) -> Any:
        raise NotImplementedError

    def forward_mqa(self, *arguments: Any, **keywords: Any) -> Any:
        raise NotImplementedError


class _Sparse(_Latent):
    """Computes nothing, on sparse MLA layers."""

    is_sparse = True
