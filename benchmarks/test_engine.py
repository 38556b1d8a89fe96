"""What the simulator adds to vLLM's own cost: the engine with the replay executor over the engine with an executor
that returns one constant token. Both run in this process, in turn, several times; the ratio of the best times counts.
"""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows import Measured, Measurement
from tests.serving import MODEL, write_trace

pytestmark = pytest.mark.bench

REQUESTS, OUTPUT_TOKENS, PROMPT_WORDS = 256, 200, 200


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"prompt": f"{i} " + "word " * PROMPT_WORDS, "output_length": OUTPUT_TOKENS, "finish_reason": "length"}
        for i in range(REQUESTS)
    ]
    path = write_trace(tmp_path_factory.mktemp("bench") / "trace.jsonl", rows)
    os.environ["VLLM_SIM_TRACE_PATH"] = str(path)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return path


def make_core(constant: bool, async_scheduling: bool = True) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.core import EngineCore

    from benchmarks.constant import ConstantExecutor
    from vllm_sim.engine.executor import ReplayExecutor

    # Prompts fit into one step each: a token for every scheduled request is then right.
    config = EngineArgs(
        model=str(MODEL),
        max_model_len=1024,
        block_size=16,
        max_num_seqs=64,
        max_num_batched_tokens=65536,
        async_scheduling=async_scheduling,
    ).create_engine_config()
    return EngineCore(config, ConstantExecutor if constant else ReplayExecutor, log_stats=False)


def run(core: Any, prompts: list[list[int]], name: str) -> float:
    """Seconds for all requests, from the first that is added to the last that is done."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    requests = [
        EngineCoreRequest(
            request_id=f"{name}-{i}",
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=SamplingParams(max_tokens=OUTPUT_TOKENS),
            pooling_params=None,
            arrival_time=0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        for i, prompt in enumerate(prompts)
    ]
    start = time.perf_counter()
    for request in requests:
        core.add_request(*core.preprocess_add_request(request))
    generated = 0
    while core.scheduler.has_requests():
        outputs, _ = core.step_fn()
        for output in (outputs or {}).values():
            generated += sum(len(one.new_token_ids) for one in output.outputs)
    assert generated == REQUESTS * OUTPUT_TOKENS
    return time.perf_counter() - start


def test_engine_keeps_95_percent_of_a_constant_executors_speed(trace: Path, measured: Measured) -> None:
    cores = {name: make_core(name == "constant") for name in ("constant", "replay")}
    from vllm_sim.engine.answers import load_answers

    answers = load_answers(str(MODEL))
    prompts = [answers.trace.prompt(row).tolist() for row in range(len(answers.trace))]
    best = dict.fromkeys(cores, float("inf"))
    for turn in range(6):
        for name, core in cores.items():
            best[name] = min(best[name], run(core, prompts, f"{name}{turn}"))
            core.reset_prefix_cache()
    tokens = REQUESTS * OUTPUT_TOKENS
    measured(
        Measurement(
            name="engine",
            what="output tokens/s of the engine: replay executor over one that returns a constant token",
            value=best["constant"] / best["replay"],
            unit="times",
            at_least=0.95,
            parts={f"{name} executor, tokens/s": tokens / seconds for name, seconds in best.items()},
        )
    )
