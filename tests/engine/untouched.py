"""Run in a new interpreter: an engine of vLLM's own, and what every function of vLLM that is loaded is made of.

The executor shares no code with vllm_sim. Prints JSON.

usage: python -m tests.engine.untouched MODEL
"""

import json
import sys
from types import FunctionType
from typing import Any

from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from benchmarks.constant import ConstantExecutor

PROMPT_TOKENS = 40


def request(number: int) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=str(number),
        prompt_token_ids=[(number % 5) * 100 + place // 20 for place in range(PROMPT_TOKENS)],
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=20, ignore_eos=True),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def steps(core: EngineCore) -> list[Any]:
    """What each step scheduled: tokens by request, and the new blocks of each."""
    seen: list[Any] = []
    schedule = core.scheduler.schedule

    def noting(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        new = {one.req_id: one.block_ids for one in output.scheduled_new_reqs}
        seen.append([output.num_scheduled_tokens, new, output.scheduled_cached_reqs.new_block_ids])
        return output

    core.scheduler.schedule = noting  # type: ignore[method-assign]
    for number in range(20):
        core.add_request(*core.preprocess_add_request(request(number)))
    while core.scheduler.has_requests() or core.batch_queue:
        core.step_fn()
    return seen


def functions() -> dict[str, str]:
    """File and line of each function and method of vLLM's loaded modules, by its path."""
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        if name == "vllm" or name.startswith("vllm."):
            for key, value in list(vars(module).items()):
                note(found, f"{name}:{key}", value)
                if isinstance(value, type) and value.__module__ == name:
                    for member, method in list(vars(value).items()):
                        note(found, f"{name}:{key}.{member}", method)
    return found


def note(found: dict[str, str], path: str, function: Any) -> None:
    if isinstance(function, classmethod | staticmethod):
        function = function.__func__
    if isinstance(function, FunctionType):
        found[path] = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def main(model: str) -> None:
    arguments = EngineArgs(
        model=model,
        max_model_len=256,
        block_size=16,
        max_num_seqs=8,
        max_num_batched_tokens=256,
        num_gpu_blocks_override=30,
        distributed_executor_backend=ConstantExecutor,
        disable_log_stats=True,
    )
    core = EngineCore(arguments.create_engine_config(), ConstantExecutor, log_stats=False)
    scheduler: Any = core.scheduler
    manager = scheduler.kv_cache_manager
    parts = (scheduler, manager, manager.block_pool, manager.block_pool.free_block_queue)
    classes = [f"{type(part).__module__}.{type(part).__qualname__}" for part in parts]
    print(json.dumps({"classes": classes, "functions": functions(), "steps": steps(core)}))


if __name__ == "__main__":
    main(sys.argv[1])
