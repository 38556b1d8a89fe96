"""The platform that vLLM runs on when a trace is named: no device, no kernels, the replay executor.

Read: platforms/interface.py and platforms/cpu.py of vLLM 0.32. It calls itself a CPU where upstream asks, because a
platform of neither kind makes the shutdown look for an accelerator. Nothing of the scheduler, the KV-cache manager or
the API server is touched.
"""

import argparse
import contextlib
import os
from typing import TYPE_CHECKING, Any

import torch
from vllm.exceptions import VLLMClientError
from vllm.platforms.interface import Platform, PlatformEnum

from vllm_sim.engine import compat
from vllm_sim.engine.contact import configure
from vllm_sim.engine.options import parse_options
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.engine.refusals import refuse_unsupported
from vllm_sim.last_word import end_with_reason
from vllm_sim.vllm_version import installed_version

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.attention.backends.mla.prefill.selector import MLAPrefillSelectorConfig
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import AttentionSelectorConfig

DEFAULT_BLOCK_SIZE = 16


class ReplayPlatform(Platform):
    """Runs vLLM without a model."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"  # upstream makes a torch.device of it for the groups of ranks
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    _state: "tuple[Any, Any, int, Any] | None" = None
    """(PluginOptions, Answers, size of the vocabulary, Failures), once this process has a model's configuration."""

    def is_cpu(self) -> bool:
        return True

    @classmethod
    def import_kernels(cls) -> None:
        pass

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        return "vllm_sim"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        import psutil

        return psutil.virtual_memory().total

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        return False

    @classmethod
    def inference_mode(cls) -> Any:
        return torch.no_grad()

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        pass

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        pass

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        return True

    @classmethod
    def get_attn_backend_cls(
        cls,
        selected_backend: "AttentionBackendEnum",
        attn_selector_config: "AttentionSelectorConfig",
        num_heads: int | None = None,
    ) -> str:
        """The backend of a layer, where the model is built to see what its layers keep."""
        from vllm_sim.engine.attention import backend_path

        return backend_path(selected_backend, attn_selector_config)

    @classmethod
    def get_mla_prefill_backend_cls(cls, mla_selector_config: "MLAPrefillSelectorConfig") -> Any:
        """Upstream's own for a CPU: the one for GPUs cannot be imported without kernels. It decides nothing here."""
        from vllm.v1.attention.backends.mla.prefill.cpu_sdpa import CPUSDPAMLAPrefillBackend

        return CPUSDPAMLAPrefillBackend

    @classmethod
    def pre_register_and_update(cls, parser: Any = None) -> None:
        """Makes our variable known to vLLM, and accepts `--device cpu`, which vLLM itself has dropped."""
        compat.VARIABLE.put(TRACE_VARIABLE, _trace_path)
        if parser is not None:
            with contextlib.suppress(argparse.ArgumentError):  # vLLM has the option, or this was called before
                parser.add_argument("--device", choices=["cpu"], default=argparse.SUPPRESS, action=_Ignore)

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Puts the replay executor in, loads the trace, and refuses what a simulator cannot honour."""
        installed_version()
        try:
            cls._check_and_update(vllm_config)
        except ValueError as error:
            end_with_reason(str(error))
            raise

    @classmethod
    def _check_and_update(cls, vllm_config: "VllmConfig") -> None:
        options = parse_options(vllm_config.additional_config)
        if vllm_config.model_config is None:
            return
        refuse_unsupported(vllm_config)
        parallel = vllm_config.parallel_config
        if "." not in str(parallel.distributed_executor_backend):  # an executor named by its path is used
            configure(parallel, distributed_executor_backend="vllm_sim.engine.executor.ReplayExecutor")
        configure(parallel, worker_cls="vllm.v1.worker.worker_base.WorkerBase")  # never made; upstream wants a name
        if not vllm_config.cache_config.user_specified_block_size:
            configure(vllm_config.cache_config, block_size=DEFAULT_BLOCK_SIZE)
        cls._load(vllm_config, options)

    @classmethod
    def _load(cls, vllm_config: "VllmConfig", options: Any) -> None:
        from vllm_sim.engine.answers import load_answers
        from vllm_sim.engine.exactness import check_exact
        from vllm_sim.engine.failures import Failures

        model = vllm_config.model_config
        answers = load_answers(model.tokenizer)
        check_exact(answers, model, options.on_inexact)
        cls._state = (options, answers, model.get_vocab_size(), Failures(options.failures))

    @classmethod
    def validate_request(cls, processed_inputs: Any, params: Any) -> None:
        """Refuses a request in the front-end process, so that the engine lives on.

        Raises:
            VLLMValidationError: it asks for what a simulator cannot honour (400).
            VLLMNotFoundError: its prompt is not in the trace (404).
            QueueOverflowError: it is one of those that are rejected on purpose (503).
        """
        from vllm_sim.engine.requests import check_parameters, check_prompt, refuse_on_purpose

        assert cls._state is not None
        options, answers, vocabulary_size, failures = cls._state
        try:
            check_parameters(params)
            check_prompt(processed_inputs, answers, options, vocabulary_size)
            refuse_on_purpose(processed_inputs, failures)
        except VLLMClientError:
            compat.apply_where_imported("chat_log", "completion_log")
            raise


class _Ignore(argparse.Action):
    """Accepts an option and keeps nothing of it: what reads the namespace knows no `device`."""

    def __call__(self, *arguments: Any) -> None:
        pass


def _trace_path() -> str | None:
    return os.environ.get(TRACE_VARIABLE)
