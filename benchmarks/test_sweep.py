"""`vllm-sim sweep` as a user runs it: what it costs before its first run, what a further run costs, two cores, and Ray.

Tokens and kernels are cached. Two commands whose grids differ in their number of runs give the cost of a run.
"""

import importlib.util
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
PEERS = {"lru": "lru", "fifo": "fifo", "belady": "optimal"}
"""The peer's names of policies."""
ONE_PROCESS, PAIRED_ROUNDS = ["--jobs", "1"], 3
COMMAND, PEER = (str(Path(sys.executable).with_name(name)) for name in ("vllm-sim", "kvcache-simulator"))


def write_conversations(folder: Path, references: int) -> Path:
    """The conversations of test_eviction.py, as hash ids."""
    requests = make_requests(references)
    ids = np.split(requests.ids, requests.begins[1:-1])
    rows = [{"hash_ids": one.tolist(), "input_length": 512 * one.size, "output_length": 1} for one in ids]
    return write_trace(folder / "conversations.jsonl", rows)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("sweep"), REFERENCES)


@pytest.fixture(scope="module")
def long_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("long"), 10 * REFERENCES)


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Wall time of a command from start to end, and CPU time of all its processes."""
    before, start = os.times(), time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds, after = time.monotonic() - start, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def command_seconds(trace: Path, runs: int, how: list[str], policy: str = "lru") -> tuple[float, float]:
    """`seconds_of` a sweep; how: on what it runs."""
    out = trace.with_name("rows.jsonl")
    out.unlink(missing_ok=True)
    capacities = ",".join(str(CAPACITY + i) for i in range(runs))
    options = ["--raw-blocks", "--block-sizes", "512", "--policies", policy, "--capacities", capacities]
    found = seconds_of([COMMAND, "sweep", str(trace), "--out", str(out), *how, *options])
    assert len(out.read_text().splitlines()) == runs
    return found


def peer_seconds(trace: Path, runs: int, policy: str) -> tuple[float, float]:
    """The same of kvcache-simulator, whose capacities are bytes: 512 tokens of Llama-3.1-8B are 1/16 GiB."""
    budgets = ",".join(str((CAPACITY + i) / 16) for i in range(runs))
    options = ["--model", "llama-3.1-8b", "--budgets-gib", budgets, "--policies", policy, "--block-size", "512"]
    return seconds_of([PEER, "sweep", "--trace", str(trace), "--no-progress", *options])


@pytest.mark.parametrize(("policy", "rounds", "bar"), [("lru", ROUNDS, 4.0), ("fifo", 2, 1.0), ("belady", 2, 1.0)])
def test_a_further_run_of_a_sweep_is_faster_than_the_cpp_simulators(
    trace: Path, policy: str, rounds: int, bar: float, measured: Measured
) -> None:
    command_seconds(trace, 1, ONE_PROCESS, policy)  # writes tokens and kernels
    peer_seconds(trace, 1, PEERS[policy])
    best = dict.fromkeys([(ours, runs) for ours in (True, False) for runs in (1, 1 + FURTHER)], math.inf)
    for _ in range(rounds):
        for ours, runs in best:
            seconds = (
                command_seconds(trace, runs, ONE_PROCESS, policy) if ours else peer_seconds(trace, runs, PEERS[policy])
            )
            best[ours, runs] = min(best[ours, runs], seconds[1])
    ms = {ours: (best[ours, 1 + FURTHER] - best[ours, 1]) / FURTHER * 1e3 for ours in (True, False)}
    measured(
        Measurement(
            name="sweep_peer" if policy == "lru" else f"sweep_peer_{policy}",
            what=f"CPU time of a further `{PEERS[policy]}` run of `kvcache-simulator sweep` over one of `{policy}` of "
            "`vllm-sim sweep`",
            value=ms[False] / ms[True],
            unit="times",
            at_least=bar,
            parts={"kvcache-simulator, ms": ms[False], "vllm-sim, ms": ms[True]},
        )
    )


def test_a_further_run_of_a_sweep_costs_at_most_half_more_than_its_kernel(trace: Path, measured: Measured) -> None:
    chains = link(make_requests(REFERENCES), 512, raw=True)
    command_seconds(trace, 1, ONE_PROCESS)  # writes tokens and kernels
    simulation_seconds(chains, "lru")
    many = one = one_cpu = kernel = math.inf
    for _ in range(ROUNDS):
        many = min(many, command_seconds(trace, 1 + FURTHER, ONE_PROCESS)[1])
        wall, cpu = command_seconds(trace, 1, ONE_PROCESS)
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
def test_two_processes_sweep_40_runs_faster(trace: Path, long_trace: Path, policy: str, measured: Measured) -> None:
    """`lru` over ten times the trace: 40 runs over the other take a sixth of a second, less than a process to start."""
    over = long_trace if policy == "lru" else trace
    wall = best_of_both(over, policy, {"jobs 1": ONE_PROCESS, "jobs 2": ["--jobs", "2"]})
    fixed = min(wall["jobs 1", 1], wall["jobs 2", 1])
    measured(
        Measurement(
            name=f"sweep_jobs_{policy}",
            what=f"speed of {FURTHER} `{policy}` runs of `vllm-sim sweep --jobs 2` over `--jobs 1`, without its start, "
            f"{10 * REFERENCES if policy == 'lru' else REFERENCES:,} references",
            value=(wall["jobs 1", FURTHER] - fixed) / (wall["jobs 2", FURTHER] - fixed),
            unit="times",
            at_least=1.8,
            parts={"1 run, s": fixed} | {f"{how}, s": wall[how, FURTHER] for how in ("jobs 1", "jobs 2")},
        )
    )


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'vllm-sim[ray]'")
def test_ray_on_one_machine_is_as_fast_as_processes(trace: Path, measured: Measured) -> None:
    """Both without what they take for two runs, as Ray's workers start with the first."""
    wall = best_of_both(trace, "hybrid", {"jobs 2": ["--jobs", "2"], "ray": ["--ray", "local"]}, least=2)
    seconds = {how: wall[how, FURTHER] - wall[how, 2] for how in ("jobs 2", "ray")}
    measured(
        Measurement(
            name="sweep_ray",
            what=f"speed of {FURTHER - 2} further `hybrid` runs of `vllm-sim sweep --ray local` over `--jobs 2`",
            value=seconds["jobs 2"] / seconds["ray"],
            unit="times",
            at_least=0.9,
            parts={f"{how}, {runs} runs, s": wall[how, runs] for how, runs in wall},
        )
    )


def best_of_both(trace: Path, policy: str, hows: dict[str, list[str]], least: int = 1) -> dict[tuple[str, int], float]:
    """Wall time of sweeps of `least` and of 40 runs, in turn, the best of some rounds."""
    command_seconds(trace, 1, ONE_PROCESS, policy)  # writes tokens and kernels
    wall = dict.fromkeys([(how, runs) for how in hows for runs in (least, FURTHER)], math.inf)
    for _ in range(PAIRED_ROUNDS):
        for how, runs in wall:
            wall[how, runs] = min(wall[how, runs], command_seconds(trace, runs, hows[how], policy)[0])
    return wall
