"""What the virtual-time driver adds to a bare loop over EngineCore with the constant executor, with and without the
attribution of misses. All run in this process, in turn, several times; the ratio of the best times counts.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.test_engine import OUTPUT_TOKENS, REQUESTS, make_core, run, trace  # noqa: F401 (a fixture)
from tests.serving import MODEL

pytestmark = pytest.mark.bench

ROUNDS = 5


def make_driver(path: Path, attribution: bool) -> Any:
    from vllm_sim.engine.driver import Driver, Setup, make_core
    from vllm_sim.trace.tokens import load_tokenised

    setup = Setup(
        capacity_blocks=8191,
        block_size=16,
        max_model_len=1024,
        model_positions=131072,
        max_num_seqs=64,
        max_num_batched_tokens=65536,
        attribution=attribution,
    )
    tokens = load_tokenised(path, str(MODEL))
    return Driver(make_core(path, str(MODEL), setup), tokens, None, [(None, 0)] * len(tokens))


def run_driver(driver: Any) -> float:
    """Seconds for all rows; they arrive at once."""
    from vllm_sim.engine.driver import Arrival

    start = time.perf_counter()
    served = list(driver.run([Arrival(row, None, 0.0) for row in range(REQUESTS)]))
    seconds = time.perf_counter() - start
    assert sum(one.output_tokens for one in served) == REQUESTS * OUTPUT_TOKENS
    return seconds


def test_driver_keeps_95_percent_of_a_bare_loops_speed_without_attribution(trace: Path) -> None:  # noqa: F811
    bare = make_core(constant=True, async_scheduling=False)
    from vllm_sim.engine.answers import load_answers

    rows = load_answers(str(MODEL)).trace
    prompts = [rows.prompt(row).tolist() for row in range(len(rows))]
    drivers = {"driver": make_driver(trace, False), "driver with attribution": make_driver(trace, True)}
    best = dict.fromkeys(["bare loop", *drivers], float("inf"))
    for turn in range(ROUNDS):
        best["bare loop"] = min(best["bare loop"], run(bare, prompts, f"bare{turn}"))
        bare.reset_prefix_cache()
        for name, driver in drivers.items():
            best[name] = min(best[name], run_driver(driver))
            driver.core.reset_prefix_cache()
    for name, seconds in best.items():
        rate, ratio = REQUESTS * OUTPUT_TOKENS / seconds, best["bare loop"] / seconds
        print(f"\n{name}: {rate:,.0f} output tokens/s, {REQUESTS / seconds:,.0f} requests/s, ratio {ratio:.3f}", end="")
    assert best["bare loop"] / best["driver"] >= 0.95
