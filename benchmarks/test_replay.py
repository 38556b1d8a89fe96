"""What the virtual-time driver adds to a bare loop over EngineCore with the constant executor, with and without the
attribution of misses, where it steps plainly; and how much faster sparse steps are than plain ones.

All run in this process, in turn, several times; the ratio of the best times counts. Time is the process's own on its
core, so that what else the machine does counts little.

The second trace is made here, in the shape of Mooncake's conversation trace: prompts of 900 to 120,000 tokens, 12,000
on average, about 350 generated ones, turns that continue a session, 3.4 requests a second.
"""

import math
import random
import subprocess
import sys
import time
import tracemalloc
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
    from vllm_sim.engine.backends.driver import Driver, RequestSettings, Setup, make_core
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
    return Driver(core, tokens, None, [RequestSettings()] * len(tokens), attribution=attribution, plain_steps=True)


def run_driver(driver: Any) -> float:
    """Seconds for all rows; they arrive at once."""
    from vllm_sim.engine.backends.driver import Arrival

    start = time.process_time()
    outcomes = list(driver.run([Arrival(row, None, 0.0) for row in range(REQUESTS)]))
    seconds = time.process_time() - start
    assert sum(one.output_tokens for one in outcomes) == REQUESTS * OUTPUT_TOKENS
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
    from vllm_sim.engine.backends.driver import Arrival, Driver, RequestSettings, Setup, make_core
    from vllm_sim.models.work import dense_work
    from vllm_sim.replay.engine_backend import model_config
    from vllm_sim.replay.latency import make_latency
    from vllm_sim.trace.tokens import load_tokenised

    sizes = {name: value for name, value in LONG_SIZES.items() if name != "capacity_blocks"}
    blocks = LONG_SIZES["capacity_blocks"]
    arguments = EngineArgs(model=str(MODEL), async_scheduling=False, num_gpu_blocks_override=blocks + 1, **sizes)
    bare = EngineCore(arguments.create_engine_config(), ConstantExecutor, log_stats=False)
    tokens = load_tokenised(long_trace, str(MODEL))
    roofline = make_latency("roofline", dense_work(model_config(str(MODEL))), "h100")
    assert roofline is not None

    def run_rows(attribution: bool, timed: bool) -> tuple[float, float]:
        core = make_core(long_trace, str(MODEL), Setup(model_positions=131072, **LONG_SIZES))
        step_ms = roofline.step_ms if timed else None
        settings = [RequestSettings()] * len(tokens)
        driver = Driver(core, tokens, step_ms, settings, attribution=attribution, plain_steps=True)
        start = time.process_time()
        outcomes = list(driver.run([Arrival(row, None, 294.0 * row if timed else 0.0) for row in range(len(tokens))]))
        seconds = time.process_time() - start
        assert len(outcomes) == LONG_REQUESTS
        assert not any(one.rejected for one in outcomes)
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


CHATS, CHAT_ROUNDS = 1000, 3
CHAT_SIZES = {
    "capacity_blocks": 100_000,
    "block_size": 16,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "max_model_len": 6000,
}


@pytest.fixture(scope="module")
def chat_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations in the shape of ShareGPT: up to five turns, about 260 generated tokens each."""
    draw = random.Random(3)
    rows: list[dict[str, Any]] = []
    while len(rows) < CHATS:
        history: list[int] = []
        for _ in range(draw.randint(1, 5)):
            lengths = [round(draw.lognormvariate(*shape)) for shape in ((4.2, 1.1), (5.3, 0.75))]
            said, answer = (draw.choices(range(1000, 100_000), k=min(1000, max(4, length))) for length in lengths)
            rows.append({"prompt_token_ids": history + said, "response_token_ids": answer, "finish_reason": "length"})
            history = history + said + answer
    return write_trace(tmp_path_factory.mktemp("bench") / "chats.jsonl", rows[:CHATS])


def make_steps(path: Path, sizes: dict[str, int], concurrency: int | None, attribution: bool, plain: bool) -> Any:
    """A driver over a trace; sparse steps take the hashes that are kept, plain ones hash as they did before."""
    from vllm_sim.engine.backends.driver import Driver, RequestSettings, Setup, make_core, use_stored_hashes
    from vllm_sim.models.work import dense_work
    from vllm_sim.replay.engine_backend import model_config
    from vllm_sim.replay.latency import make_latency
    from vllm_sim.trace.tokens import load_tokenised

    tokens = load_tokenised(path, str(MODEL))
    roofline = make_latency("roofline", dense_work(model_config(str(MODEL))), "h100")
    assert roofline is not None
    core = make_core(path, str(MODEL), Setup(model_positions=131072, **sizes))
    if not plain:
        use_stored_hashes(core, tokens, [None] * len(tokens))
    settings = [RequestSettings()] * len(tokens)
    return Driver(core, tokens, roofline.step_ms, settings, concurrency, attribution=attribution, plain_steps=plain)


def run_steps(path: Path, sizes: dict[str, int], concurrency: int | None, attribution: bool, plain: bool) -> float:
    """Seconds for all rows."""
    from vllm_sim.engine.backends.driver import Arrival

    driver = make_steps(path, sizes, concurrency, attribution, plain)
    gap_ms, rows = 294.0 if concurrency is None else 0.0, len(driver.trace)
    start = time.process_time()
    outcomes = list(driver.run([Arrival(row, None, gap_ms * row) for row in range(rows)]))
    seconds = time.process_time() - start
    assert len(outcomes) == rows
    driver.core.shutdown()
    return seconds


def steps_seconds(rounds: int, *arguments: Any) -> dict[bool, float]:
    """Seconds of plain steps (True) and of sparse ones (False): the best of some rounds, in turn."""
    run_steps(*arguments, plain=False)  # writes the hashes
    best = {True: math.inf, False: math.inf}
    for _ in range(rounds):
        for plain in best:
            best[plain] = min(best[plain], run_steps(*arguments, plain=plain))
    return best


def sparse_gain(name: str, what: str, best: dict[bool, float], at_least: float) -> Measurement:
    """Seconds of plain steps over those of sparse ones."""
    parts = {"plain, s": best[True], "sparse, s": best[False]}
    return Measurement(
        name=name, what=what, value=best[True] / best[False], unit="times", at_least=at_least, parts=parts
    )


@pytest.mark.parametrize(("attribution", "bar"), [(True, 4.0), (False, 6.0)])
@pytest.mark.parametrize("concurrency", [64, 256])
def test_sparse_steps_of_chats(
    chat_trace: Path, concurrency: int, attribution: bool, bar: float, measured: Measured
) -> None:
    best = steps_seconds(CHAT_ROUNDS, chat_trace, CHAT_SIZES, concurrency, attribution)
    how = "with attribution" if attribution else "without attribution"
    name = f"sparse_{concurrency}_{'with' if attribution else 'without'}"
    what = f"sparse steps of the engine against plain ones: 1,000 chats, {concurrency} at once, {how}"
    measured(sparse_gain(name, what, best, bar))


@pytest.mark.parametrize("concurrency", [64, 256])
def test_sparse_steps_of_chats_under_asynchronous_scheduling(
    chat_trace: Path, concurrency: int, measured: Measured
) -> None:
    sizes = CHAT_SIZES | {"async_scheduling": True}
    best = steps_seconds(CHAT_ROUNDS, chat_trace, sizes, concurrency, True)
    what = (
        "sparse steps of the engine against plain ones under asynchronous scheduling: 1,000 chats, "
        f"{concurrency} at once, with attribution"
    )
    measured(sparse_gain(f"sparse_async_{concurrency}", what, best, 4.0))


@pytest.mark.parametrize(("attribution", "bar"), [(True, 2.5), (False, 2.5)])
def test_sparse_steps_of_long_prompts(long_trace: Path, attribution: bool, bar: float, measured: Measured) -> None:
    sizes = LONG_SIZES | {"max_num_batched_tokens": 8192}
    best = steps_seconds(LONG_ROUNDS, long_trace, sizes, None, attribution)
    how = "with attribution" if attribution else "without attribution"
    what = f"the same, prompts of 12,000 tokens on average, {how}, block hashes kept"
    measured(sparse_gain(f"sparse_long_{'with' if attribution else 'without'}", what, best, bar))


@pytest.mark.parametrize("shape", ["64 chats at once", "256 chats at once", "long prompts"])
def test_attribution_costs_less_than_half_of_a_replay(
    shape: str, chat_trace: Path, long_trace: Path, measured: Measured
) -> None:
    arguments: tuple[Any, ...] = (long_trace, LONG_SIZES | {"max_num_batched_tokens": 8192}, None)
    if shape != "long prompts":
        arguments = chat_trace, CHAT_SIZES, int(shape.split()[0])
    run_steps(*arguments, attribution=False, plain=False)  # writes the hashes
    best = {True: math.inf, False: math.inf}
    for _ in range(CHAT_ROUNDS):
        for attribution in best:
            best[attribution] = min(best[attribution], run_steps(*arguments, attribution=attribution, plain=False))
    measured(
        Measurement(
            name=f"attribution_{shape.replace(' ', '_')}",
            what=f"time of sparse steps with attribution over that without, {shape}",
            value=best[True] / best[False],
            unit="times",
            at_most=1.4,
            aim=1.2,
            parts={"with, s": best[True], "without, s": best[False]},
        )
    )


def test_attribution_keeps_less_than_150_bytes_a_distinct_block(chat_trace: Path, measured: Measured) -> None:
    """What a run has kept when it ends, with attribution and without."""
    from vllm_sim.engine.backends.driver import Arrival

    run_steps(chat_trace, CHAT_SIZES, 64, attribution=False, plain=False)  # writes the hashes
    kept, blocks = {}, 0
    for attribution in (True, False):
        driver = make_steps(chat_trace, CHAT_SIZES, 64, attribution, plain=False)
        tracemalloc.start()
        rows = sum(1 for _ in driver.run([Arrival(row, None, 0.0) for row in range(CHATS)]))
        kept[attribution] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert rows == CHATS
        if driver.ledger is not None:
            blocks = driver.ledger.working_set_blocks
        driver.core.shutdown()
    measured(
        Measurement(
            name="attribution_memory",
            what="memory that attribution keeps of a distinct block, 1,000 chats",
            value=(kept[True] - kept[False]) / blocks,
            unit="bytes",
            at_most=150,
            parts={"distinct blocks": blocks},
        )
    )


def test_command_with_sparse_steps(chat_trace: Path, tmp_path: Path, measured: Measured) -> None:
    seconds = {}
    for steps in ("first", "sparse", "plain"):
        command = [str(Path(sys.executable).with_name("vllm-sim")), "replay", str(chat_trace), "--model", str(MODEL)]
        command += ["--concurrency", "64", "--out", str(tmp_path / steps), *(["--plain-steps"] * (steps == "plain"))]
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds[steps] = time.monotonic() - start
    for name in ("requests.jsonl", "summary.jsonl", "evictions.jsonl", "blocks.jsonl"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "sparse" / name).read_bytes()
    what = "`vllm-sim replay` of 1,000 chats, 64 at once, wall time from start to end, against --plain-steps"
    measured(sparse_gain("sparse_command", what, {True: seconds["plain"], False: seconds["sparse"]}, 1.0))
