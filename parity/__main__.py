"""`make parity`: real model execution against the simulator, step by step; ends with 1 where anything differs.

usage: python -m parity [--quick | --startup] [--no-http] [--keep DIR]
In the project's environment, after parity/install.sh.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from parity import over_http
from parity.compare import FIELDS, counts, differences, hits, missing
from parity.model import EXPORTED, make_model
from parity.workload import BLOCK_SIZE, Case

ROOT = Path(__file__).parents[1]
REAL_PYTHON = ROOT / ".venv-parity" / "bin" / "python"
BUSY = (
    Case(seed=1),
    Case(seed=2),
    Case(seed=1, async_scheduling=True),
    Case(seed=2, async_scheduling=True),
    Case(seed=1, policy="arc"),
    Case(seed=3, policy="s3fifo"),
    Case(seed=2, policy="lfu"),
    Case(seed=1, policy="arc", async_scheduling=True),
    Case(seed=3, policy="hybrid", async_scheduling=True),
)
SERIAL = tuple(Case(seed=4, policy=policy, concurrency=1, sessions=30) for policy in ("lru", "arc", "s3fifo", "hybrid"))
"""One request after the other, which every backend of `vllm-sim replay` can serve."""
SCHEDULERS = {False: ("Scheduler", "step", 1), True: ("AsyncScheduler", "step_with_batch_queue", 2)}
"""The class, the engine's step function and the batches in flight, by async_scheduling."""

console = Console(width=150)


def run_side(python: Path, side: str, folder: Path, model: str, jobs: list[dict[str, Any]]) -> None:
    """Runs cases in one process; what it prints goes to a log in the folder."""
    log = folder / f"{side}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    if side != "real":
        environment["VLLM_SIM_TRACE_PATH"] = jobs[0]["trace"]
    command = [str(python), "-m", "parity.engine", side, str(folder), model, json.dumps(jobs)]
    with log.open("w") as file:
        if subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file).returncode:
            raise SystemExit(f"the {side} side failed:\n" + "\n".join(log.read_text().splitlines()[-30:]))


def check_facts(case: Case, real: dict[str, Any], simulated: dict[str, Any]) -> list[str]:
    """The classes that must have run on either side."""
    scheduler = SCHEDULERS[case.async_scheduling]
    found = []
    for side, facts in (("real", real), ("simulator", simulated)):
        if (facts["scheduler"], facts["step_fn"], facts["batch_queue_size"]) != scheduler:
            found.append(f"{side}: {facts}, and {scheduler} was asked for")
        if facts["pool"] != ("BlockPool" if case.policy == "lru" else "PolicyBlockPool"):
            found.append(f"{side}: pool {facts['pool']} under policy {case.policy}")
    if real["platform"] != "CpuPlatform" or real["executor"] in ("RowExecutor", "ReplayExecutor"):
        found.append(f"the real side ran on {real['platform']} with {real['executor']}")
    return found


def compare(folder: Path, cases: tuple[Case, ...]) -> list[str]:
    """Compares the logs of all cases and prints a table; returns what is wrong."""
    wrong: list[str] = []
    table = Table(title="real CPU execution and the simulator, step for step")
    names = ("case", "scheduler", "executor", "pool", "steps", "requests", "hit_tokens", "evictions", "preemptions")
    for name in (*names, "chunked_prefills", "output_tokens", "equal"):
        table.add_column(name.replace("_", "\n"))
    for case in cases:
        real, simulated = (
            json.loads((folder / f"{case.name}.{side}.json").read_text()) for side in ("real", "simulator")
        )
        found = check_facts(case, real["facts"], simulated["facts"]) + differences(real["steps"], simulated["steps"])
        seen = counts(real["steps"])
        if case.concurrency is None:
            found += missing(seen)
        wrong += [f"{case.name}: {line}" for line in found]
        facts = real["facts"]
        values = [facts["scheduler"], facts["executor"], facts["pool"], *(f"{count:,}" for count in seen.values())]
        table.add_row(case.name, *values, "no" if found else "yes")
    console.print(table)
    return wrong


def check_driver(folder: Path, cases: list[Case]) -> list[str]:
    """The driver of `vllm-sim replay`, with arrivals by its virtual clock; it knows no stop tokens, only lengths."""
    wrong = []
    fields = tuple(name for name in FIELDS if name != "tokens")
    for case in cases:
        real, driven = (json.loads((folder / f"{case.name}.{side}.json").read_text()) for side in ("real", "driver"))
        found = differences(real["steps"], driven["steps"], fields)
        console.print(f"driver of vllm-sim replay, {case.name}: {len(driven['steps'])} steps; {len(found)} differ")
        wrong += [f"driver, {case.name}: {line}" for line in found]
    return wrong


def check_wrong(folder: Path, cases: list[Case]) -> list[str]:
    """A simulator that is wrong on purpose must be found out."""
    passed = []
    for case in cases:
        real = json.loads((folder / f"{replace(case, block_size=BLOCK_SIZE).name}.real.json").read_text())
        simulated = json.loads((folder / f"{case.name}.{_wrong_side(case)}.json").read_text())
        found = differences(real["steps"], simulated["steps"], limit=1)
        console.print(f"wrong on purpose ({_wrong_side(case)}): {found[0] if found else 'NOT found'}")
        passed += [] if found else [f"{case}: wrong on purpose, and the comparison let it pass"]
    return passed


def _wrong_side(case: Case) -> str:
    return "one token late" if case.executor == "LateExecutor" else f"block size {case.block_size}"


def check_replay(folder: Path, model: str) -> list[str]:
    """Hits of each request by every backend of `vllm-sim replay`, against real execution one request at a time."""
    wrong = []
    for case in SERIAL:
        real = hits(json.loads((folder / f"{case.name}.real.json").read_text())["steps"])
        expected = [real[str(row)] for row in range(len(real))]
        for backend in ("engine", "blockpool", "fast"):
            out = folder / f"{case.name}.{backend}"
            command = [sys.executable, "-c", "from vllm_sim.cli import main; raise SystemExit(main())", "replay"]
            command += [str(folder / f"{case.name}.jsonl"), "--out", str(out), "--model", model, "--backend", backend]
            command += ["--block-size", str(case.block_size), "--capacity-blocks", str(case.capacity_blocks)]
            command += ["--policy", case.policy, "--seed", str(case.seed)]
            if backend == "engine":
                command += ["--concurrency", "1", "--latency-model", "zero"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            rows = [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]
            found = [row["hit_tokens"] for row in rows]
            differing = [row for row, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]]
            console.print(
                f"vllm-sim replay --backend {backend:9} --policy {case.policy:6}: {sum(found):,} hit tokens in "
                f"{len(found)} requests; {len(differing)} requests differ from real execution"
            )
            wrong += [
                f"{case.name}, {backend}: row {row} hits {found[row]}, really {expected[row]}" for row in differing[:3]
            ]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m parity", description="Real model execution against the simulator, step by step."
    )
    parser.add_argument("--quick", action="store_true", help="two cases, and nothing else")
    parser.add_argument("--no-http", action="store_true", help="without the two servers")
    parser.add_argument("--startup", action="store_true", help="how long a real and a simulated server take to start")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the logs and traces here")
    options = parser.parse_args()
    if not REAL_PYTHON.exists():
        raise SystemExit(f"{REAL_PYTHON} is not there: run parity/install.sh (make parity does)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.startup:
            over_http.measure_start(REAL_PYTHON, folder, str(EXPORTED))
            return 0
        model = make_model(folder / "model")
        cases = (BUSY[0], BUSY[2]) if options.quick else BUSY + SERIAL
        for case in cases:  # the CPU build starts one engine in a process
            run_side(REAL_PYTHON, "real", folder, model, [{"case": asdict(case)}])
        late, other = replace(BUSY[0], executor="LateExecutor"), replace(BUSY[0], block_size=2 * BLOCK_SIZE)
        jobs = [{"case": asdict(case), "trace": str(folder / f"{case.name}.jsonl")} for case in cases]
        jobs += [
            {"case": asdict(case), "trace": str(folder / f"{case.name}.jsonl"), "side": _wrong_side(case)}
            for case in (late, other)
        ]
        run_side(Path(sys.executable), "simulator", folder, model, jobs)
        driven = [case for case in cases if case.policy == "lru" and not case.async_scheduling]
        for case in driven:
            job = {"case": asdict(case), "trace": str(folder / f"{case.name}.jsonl")}
            run_side(Path(sys.executable), "driver", folder, model, [job])
        wrong = compare(folder, cases) + check_driver(folder, driven) + check_wrong(folder, [late, other])
        if not options.quick:
            wrong += check_replay(folder, model)
            if not options.no_http:
                wrong += over_http.check(REAL_PYTHON, folder, model)
    for line in wrong:
        console.print(line, markup=False)
    console.print("parity: equal" if not wrong else f"parity: {len(wrong)} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
