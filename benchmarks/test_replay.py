"""What the virtual-time driver adds to a bare loop over EngineCore with the constant executor, with and without the
attribution of misses. All run in this process, in turn, several times; the ratio of the best times counts. Time is the
process's own on its core, so that what else the machine does counts little.

The second trace is made here, in the shape of Mooncake's conversation trace: prompts of 900 to 120,000 tokens, 12,000
on average, about 350 generated ones, turns that continue a session, 3.4 requests a second.
"""

import math
import random
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rows import Measured, Measurement
from benchmarks.test_engine import OUTPUT_TOKENS, REQUESTS, make_core, trace  # noqa: F401 (a fixture)
from tests.serving import MODEL, write_trace

pytestmark = pytest.mark.bench

ROUNDS = 10
LONG_REQUESTS, LONG_ROUNDS, HASH_TOKENS = 1000, 2, 512
LONG_SIZES = {
    "capacity_blocks": 60000,
    "block_size": 16,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2**23,  # whole prompts in one step: the constant executor is right for nothing else
    "max_model_len": 131000,
}


def make_driver(path: Path, attribution: bool) -> Any:
    from vllm_sim.engine.backends.driver import Asked, Driver, Setup, make_core
    from vllm_sim.trace.tokens import load_tokenised

    setup = Setup(
        capacity_blocks=8191,
        block_size=16,
        max_model_len=1024,
        model_positions=131072,
        max_num_seqs=64,
        max_num_batched_tokens=65536,
    )
    tokens = load_tokenised(path, str(MODEL))
    core = make_core(path, str(MODEL), setup)
    return Driver(core, tokens, None, [Asked()] * len(tokens), attribution=attribution)


def run_driver(driver: Any) -> float:
    """Seconds for all rows; they arrive at once."""
    from vllm_sim.engine.backends.driver import Arrival

    start = time.process_time()
    served = list(driver.run([Arrival(row, None, 0.0) for row in range(REQUESTS)]))
    seconds = time.process_time() - start
    assert sum(one.output_tokens for one in served) == REQUESTS * OUTPUT_TOKENS
    return seconds


def test_driver_keeps_95_percent_of_a_bare_loops_speed_without_attribution(
    trace: Path,  # noqa: F811
    measured: Measured,
) -> None:
    bare = make_core(constant=True, async_scheduling=False)
    from vllm_sim.engine.answers import load_answers

    tokens = load_answers(str(MODEL)).trace
    drivers = {"driver": make_driver(trace, False), "driver with attribution": make_driver(trace, True)}
    best = dict.fromkeys(["bare loop", *drivers], float("inf"))
    for turn in range(ROUNDS):
        best["bare loop"] = min(best["bare loop"], run_bare(bare, tokens, f"bare{turn}"))
        bare.reset_prefix_cache()
        for name, driver in drivers.items():
            best[name] = min(best[name], run_driver(driver))
            driver.core.reset_prefix_cache()
    rates = {f"{name}, requests/s": REQUESTS / seconds for name, seconds in best.items()}
    measured(
        Measurement(
            name="replay",
            what="requests/s of `replay` in virtual time over a bare loop with the constant executor",
            value=best["bare loop"] / best["driver"],
            unit="times",
            at_least=0.95,
            parts=rates | {"ratio with attribution": best["bare loop"] / best["driver with attribution"]},
        )
    )


@pytest.fixture(scope="module")
def long_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(7)
    histories: list[list[int]] = []
    rows, names = [], 0
    for i in range(LONG_REQUESTS):
        tokens = min(120000, max(900, round(draw.lognormvariate(math.log(7000), 1.0))))
        blocks = -(-tokens // HASH_TOKENS)
        fitting = [history for history in histories if len(history) < blocks]
        shared = draw.choice(fitting) if fitting and draw.random() < 0.6 else []
        ids = shared + list(range(names, names + blocks - len(shared)))
        names += blocks - len(shared)
        histories.append(ids[: tokens // HASH_TOKENS])
        output = max(1, round(draw.lognormvariate(math.log(250), 0.8)))
        rows.append({"timestamp": 294 * i, "input_length": tokens, "output_length": output, "hash_ids": ids})
    return write_trace(tmp_path_factory.mktemp("bench") / "long.jsonl", rows)


def run_bare(core: Any, tokens: Any, name: str) -> float:
    """Seconds for all rows of a trace in the bare loop."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    requests = [
        EngineCoreRequest(
            request_id=f"{name}-{row}",
            prompt_token_ids=tokens.prompt(row).tolist(),
            mm_features=None,
            sampling_params=SamplingParams(max_tokens=len(tokens.response(row))),
            pooling_params=None,
            arrival_time=0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        for row in range(len(tokens))
    ]
    start = time.process_time()
    for request in requests:
        core.add_request(*core.preprocess_add_request(request))
    while core.scheduler.has_requests():
        core.step_fn()
    return time.process_time() - start


def test_long_prompts_are_served_at_nine_tenths_of_a_bare_loops_speed(long_trace: Path, measured: Measured) -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.core import EngineCore

    from benchmarks.constant import ConstantExecutor
    from vllm_sim.engine.backends.driver import Arrival, Asked, Driver, Setup, make_core
    from vllm_sim.replay.engine_backend import model_config
    from vllm_sim.replay.latency import make_latency
    from vllm_sim.trace.tokens import load_tokenised

    sizes = {name: value for name, value in LONG_SIZES.items() if name != "capacity_blocks"}
    blocks = LONG_SIZES["capacity_blocks"]
    arguments = EngineArgs(model=str(MODEL), async_scheduling=False, num_gpu_blocks_override=blocks + 1, **sizes)
    bare = EngineCore(arguments.create_engine_config(), ConstantExecutor, log_stats=False)
    tokens = load_tokenised(long_trace, str(MODEL))
    roofline = make_latency("roofline", model_config(str(MODEL)), "h100")
    assert roofline is not None

    def run_rows(attribution: bool, timed: bool) -> tuple[float, float]:
        core = make_core(long_trace, str(MODEL), Setup(model_positions=131072, **LONG_SIZES))
        step_ms = roofline.step_ms if timed else None
        driver = Driver(core, tokens, step_ms, [Asked()] * len(tokens), attribution=attribution)
        start = time.process_time()
        served = list(driver.run([Arrival(row, None, 294.0 * row if timed else 0.0) for row in range(len(tokens))]))
        seconds = time.process_time() - start
        assert len(served) == LONG_REQUESTS
        assert not any(one.rejected for one in served)
        return seconds, driver.now_ms / 1000

    best = dict.fromkeys(["bare loop", "driver", "driver with attribution"], math.inf)
    for turn in range(LONG_ROUNDS):
        best["bare loop"] = min(best["bare loop"], run_bare(bare, tokens, f"bare{turn}"))
        bare.reset_prefix_cache()
        best["driver"] = min(best["driver"], run_rows(attribution=False, timed=False)[0])
        best["driver with attribution"] = min(best["driver with attribution"], run_rows(True, timed=False)[0])
    seconds, virtual_s = run_rows(attribution=True, timed=True)
    rates = {f"{name}, requests/s": LONG_REQUESTS / seconds for name, seconds in best.items()}
    rates["ratio with attribution"] = best["bare loop"] / best["driver with attribution"]
    rates["virtual seconds a second at recorded times on an h100"] = virtual_s / seconds
    measured(
        Measurement(
            name="replay_long",
            what="the same, prompts of 12,000 tokens on average, not of 200",
            value=best["bare loop"] / best["driver"],
            unit="times",
            at_least=0.9,
            parts=rates,
        )
    )
