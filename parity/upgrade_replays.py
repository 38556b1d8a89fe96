"""The simulator on two versions of vLLM, over the same traces: every step of the engine, and the hits of replays.

No model answers here: the answers are drawn from a seed (workload.make_answers), and make traces that are as busy as
those of `make parity`.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from parity.__main__ import BUSY, SERIAL
from parity.checks import read
from parity.compare import counts, differences, missing
from parity.engine import write_trace
from parity.sides import ROOT, run_side
from parity.workload import Case, make_answers, make_asks

CASES = (*(BUSY[i] for i in (0, 2, 4, 8)), SERIAL[-1])
"""lru, lru asynchronous, arc, hybrid asynchronous, hybrid one at a time."""
REPLAYS = {
    "engine": ("lru", "arc"),
    "blockpool": ("lru", "arc", "hybrid"),
    "fast": ("lru", "arc", "s3fifo", "hybrid"),
}
"""Policies by backend; the first two import vLLM, which takes most of their time."""
CONCURRENCY = 8

Pythons = dict[str, Path]
"""Interpreters of `pinned` and `other`."""
Line = tuple[str, bool, str]
"""What was compared, whether it is equal, and what was found."""


def compare_steps(pythons: Pythons, folder: Path, models: str) -> Iterator[Line]:
    """Every step of each case, as parity.compare compares them, in the executor's loop and under the driver."""
    jobs = [{"case": asdict(case), "trace": str(make_trace(case, folder))} for case in CASES]
    runs = [(version, side) for version in pythons for side in ("simulator", "driver")]

    def run(version: str, side: str) -> None:
        (folder / version).mkdir(exist_ok=True)
        run_side(pythons[version], side, folder / version, models, jobs)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda one: run(*one), runs))
    for case in CASES:
        for side in ("simulator", "driver"):
            pinned, other = (read(folder / version, case, side)["steps"] for version in ("pinned", "other"))
            found = differences(pinned, other, other="on the other version")
            seen = counts(pinned)
            if case.concurrency is None:
                found += missing(seen)
            described = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in seen.items())
            yield f"{case.name}, {side}", not found, "; ".join(found) or described


def make_trace(case: Case, folder: Path) -> Path:
    """A case's trace."""
    path = folder / f"{case.name}.jsonl"
    write_trace(path, make_answers(make_asks(case.seed, case.sessions), case.seed))
    return path


def compare_hits(pythons: Pythons, folder: Path, model: str) -> Iterator[Line]:
    """`vllm-sim replay --expect` with the pinned version's rows, and each request's row byte for byte."""
    case = CASES[0]
    trace = make_trace(case, folder)

    def run(backend: str, policy: str) -> Line:
        outs = {version: folder / version / f"{backend}-{policy}" for version in pythons}
        command = ["replay", str(trace), "--model", model, "--backend", backend, "--policy", policy]
        command += ["--block-size", str(case.block_size), "--capacity-blocks", str(case.capacity_blocks)]
        if backend == "engine":
            command += ["--concurrency", str(CONCURRENCY), "--max-num-batched-tokens", str(case.max_num_batched_tokens)]
        expected = outs["pinned"] / "summary.jsonl"
        _vllm_sim(pythons["pinned"], *command, "--out", str(outs["pinned"]))
        done = _vllm_sim(
            pythons["other"], *command, "--out", str(outs["other"]), "--expect", str(expected), check=False
        )
        found = done.stderr.strip().splitlines()[-5:] if done.returncode else []
        if not found and len({(out / "requests.jsonl").read_bytes() for out in outs.values()}) > 1:
            found = ["the sums are equal, and the rows of requests are not"]
        rate = json.loads(expected.read_text(encoding="utf-8"))["token_hit_rate"]
        return f"{backend}, {policy}", not found, "; ".join(found) or f"token hit rate {rate}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(
            lambda one: run(*one), [(name, policy) for name, some in REPLAYS.items() for policy in some]
        )


def _vllm_sim(python: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", "from vllm_sim.cli import main; raise SystemExit(main())", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=check, capture_output=True, text=True)
