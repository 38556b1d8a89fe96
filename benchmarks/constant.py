"""The baseline: an executor that returns one constant token, sharing no code with vllm_sim."""

from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

REPLIES = {"determine_available_memory": 2**32, "get_supported_kv_cache_layouts": ["LBNHC"]}


class ConstantExecutor(Executor):
    """Every scheduled request gets token 5; right only where each prompt fits into one step."""

    def _init_executor(self) -> None:
        spec = FullAttentionSpec(self.cache_config.block_size, num_kv_heads=8, head_size=64, dtype=torch.bfloat16)
        self._specs = {f"model.layers.{layer}.self_attn.attn": spec for layer in range(16)}

    def collective_rpc(self, method: Any, *_: Any, **__: Any) -> Any:
        return [
            self._specs
            if method == "get_kv_cache_spec"
            else ("generate",)
            if "tasks" in method
            else REPLIES.get(method)
        ]

    def execute_model(self, output: Any, non_block: bool = False) -> Any:
        names = list(output.num_scheduled_tokens)
        self._tokens = ModelRunnerOutput(names, {name: i for i, name in enumerate(names)}, [[5]] * len(names))
        return done(None if names else EMPTY_MODEL_RUNNER_OUTPUT)

    def sample_tokens(self, grammar: Any, non_block: bool = False) -> Any:
        return done(self._tokens) if non_block else self._tokens

    def compile_or_warm_up_model(self) -> None: ...
    def check_health(self) -> None: ...
    @classmethod
    def supports_async_scheduling(cls) -> bool:
        return True


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
