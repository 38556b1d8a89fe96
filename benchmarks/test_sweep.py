"""`vllm-sim sweep` as a user runs it: what it costs before its first run, what a further run costs, and two cores.

Tokens and kernels are cached. Two commands whose grids differ in their number of runs give the cost of a run.
"""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rows import Measured, Measurement
from benchmarks.test_eviction import REFERENCES, make_requests, simulation_seconds
from tests.serving import write_trace
from vllm_sim.eviction.chains import link

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROUNDS, CAPACITY, FURTHER = 5, 10_000, 40
COMMAND, PEER = (str(Path(sys.executable).with_name(name)) for name in ("vllm-sim", "kvcache-simulator"))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The conversations of test_eviction.py, as hash ids."""
    requests = make_requests(REFERENCES)
    ids = np.split(requests.ids, requests.begins[1:-1])
    rows = [{"hash_ids": one.tolist(), "input_length": 512 * one.size, "output_length": 1} for one in ids]
    return write_trace(tmp_path_factory.mktemp("sweep") / "conversations.jsonl", rows)


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Wall time of a command from start to end, and CPU time of all its processes."""
    before, start = os.times(), time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds, after = time.monotonic() - start, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def command_seconds(trace: Path, runs: int, jobs: int, policy: str = "lru") -> tuple[float, float]:
    """`seconds_of` a sweep."""
    out = trace.with_name("rows.jsonl")
    out.unlink(missing_ok=True)
    capacities = ",".join(str(CAPACITY + i) for i in range(runs))
    options = ["--raw-blocks", "--block-sizes", "512", "--policies", policy, "--capacities", capacities]
    found = seconds_of([COMMAND, "sweep", str(trace), "--out", str(out), "--jobs", str(jobs), *options])
    assert len(out.read_text().splitlines()) == runs
    return found


def peer_seconds(trace: Path, runs: int) -> tuple[float, float]:
    """The same of kvcache-simulator, whose capacities are bytes: 512 tokens of Llama-3.1-8B are 1/16 GiB."""
    budgets = ",".join(str((CAPACITY + i) / 16) for i in range(runs))
    options = ["--model", "llama-3.1-8b", "--budgets-gib", budgets, "--policies", "lru", "--block-size", "512"]
    return seconds_of([PEER, "sweep", "--trace", str(trace), "--no-progress", *options])


def test_a_further_run_of_a_sweep_is_four_times_faster_than_the_cpp_simulators(trace: Path, measured: Measured) -> None:
    command_seconds(trace, 1, 1)  # writes tokens and kernels
    peer_seconds(trace, 1)
    best = dict.fromkeys([(ours, runs) for ours in (True, False) for runs in (1, 1 + FURTHER)], math.inf)
    for _ in range(ROUNDS):
        for ours, runs in best:
            _, cpu = command_seconds(trace, runs, 1) if ours else peer_seconds(trace, runs)
            best[ours, runs] = min(best[ours, runs], cpu)
    ms = {ours: (best[ours, 1 + FURTHER] - best[ours, 1]) / FURTHER * 1e3 for ours in (True, False)}
    measured(
        Measurement(
            name="sweep_peer",
            what="CPU time of a further `lru` run of `kvcache-simulator sweep` over one of `vllm-sim sweep`",
            value=ms[False] / ms[True],
            unit="times",
            at_least=4.0,
            parts={"kvcache-simulator, ms": ms[False], "vllm-sim, ms": ms[True]},
        )
    )


def test_a_further_run_of_a_sweep_costs_at_most_half_more_than_its_kernel(trace: Path, measured: Measured) -> None:
    chains = link(make_requests(REFERENCES), 512, raw=True)
    command_seconds(trace, 1, 1)  # writes tokens and kernels
    simulation_seconds(chains, "lru")
    many = one = one_cpu = kernel = math.inf
    for _ in range(ROUNDS):
        many = min(many, command_seconds(trace, 1 + FURTHER, 1)[1])
        wall, cpu = command_seconds(trace, 1, 1)
        one, one_cpu = min(one, wall), min(one_cpu, cpu)
        kernel = min(kernel, *(simulation_seconds(chains, "lru") for _ in range(9)))
    further = (many - one_cpu) / FURTHER
    parts = {"a further run, ms": further * 1e3, "kernel, ms": kernel * 1e3, "1 run, CPU s": one_cpu}
    measured(
        Measurement(
            name="sweep_further",
            what=f"CPU time of a further `lru` run of `vllm-sim sweep` over its kernel's, {REFERENCES:,} references",
            value=further / kernel,
            unit="times",
            at_most=1.5,
            parts=parts,
        )
    )
    measured(
        Measurement(
            name="sweep_fixed",
            what="wall time of `vllm-sim sweep` of one run, tokens and kernels cached",
            value=one,
            unit="s",
            at_most=1.0,
            parts={"CPU, s": one_cpu},
        )
    )


@pytest.mark.parametrize("policy", ["lru", "hybrid"])
def test_two_processes_sweep_40_runs_faster(trace: Path, policy: str, measured: Measured) -> None:
    command_seconds(trace, 1, 1, policy)
    wall = dict.fromkeys([(1, 1), (1, 2), (FURTHER, 1), (FURTHER, 2)], math.inf)
    for _ in range(ROUNDS):
        for runs, jobs in wall:
            wall[runs, jobs] = min(wall[runs, jobs], command_seconds(trace, runs, jobs, policy)[0])
    fixed = wall[1, 1]
    measured(
        Measurement(
            name=f"sweep_jobs_{policy}",
            what=f"speed of {FURTHER} `{policy}` runs of `vllm-sim sweep --jobs 2` over `--jobs 1`, without its start",
            value=(wall[FURTHER, 1] - fixed) / (wall[FURTHER, 2] - fixed),
            unit="times",
            at_least=1.8,
            parts={"1 run, s": fixed, "jobs 1, s": wall[FURTHER, 1], "jobs 2, s": wall[FURTHER, 2]},
        )
    )
