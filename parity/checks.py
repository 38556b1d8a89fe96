"""What is compared: each check prints what it saw, and returns its rows for results/parity.json and what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from parity.compare import copied_blocks, counts, differences, hits, missing
from parity.model import MODELS
from parity.workload import BLOCK_SIZE, Case

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
SCHEDULERS = {False: ("Scheduler", "step", 1), True: ("AsyncScheduler", "step_with_batch_queue", 2)}
"""The class, the engine's step function and the batches in flight, by async_scheduling."""
CLASSES = ("platform", "executor", "scheduler", "pool", "step_fn", "batch_queue_size")

console = Console(width=170)


class Found(NamedTuple):
    """What a check has found."""

    rows: list[Row]
    """Counts that are the same in every run."""
    wrong: list[str]


def read(folder: Path, case: Case, side: str) -> dict[str, Any]:
    """The log of a side."""
    return json.loads((folder / f"{case.name}.{side}.json").read_text(encoding="utf-8"))


def check_facts(case: Case, real: Row, simulated: Row) -> list[str]:
    """The classes that must have run on either side."""
    scheduler = SCHEDULERS[case.async_scheduling]
    found = []
    for side, facts in (("real", real), ("simulator", simulated)):
        if (facts["scheduler"], facts["step_fn"], facts["batch_queue_size"]) != scheduler:
            found.append(f"{side}: {facts}, and {scheduler} was configured")
        ours = "PolicyBlockPool" if MODELS[case.model].groups == ("full",) else "GroupBlockPool"
        if facts["pool"] != ("BlockPool" if case.policy == "lru" else ours):
            found.append(f"{side}: pool {facts['pool']} under policy {case.policy}")
    if real["platform"] != "CpuPlatform" or real["executor"] in ("RowExecutor", "ReplayExecutor"):
        found.append(f"the real side ran on {real['platform']} with {real['executor']}")
    return found


def check_steps(folder: Path, cases: Sequence[Case]) -> Found:
    """Compares the logs of all cases and prints a table."""
    rows, wrong = [], []
    table = Table(title="real CPU execution and the simulator, step for step")
    names = ("case", "scheduler", "executor", "pool", "steps", "requests", "hit_tokens", "evictions", "preemptions")
    for name in (*names, "chunked_prefills", "output_tokens", "equal"):
        table.add_column(name.replace("_", "\n"))
    for case in cases:
        real, simulated = read(folder, case, "real"), read(folder, case, "simulator")
        found = check_facts(case, real["facts"], simulated["facts"]) + differences(real["steps"], simulated["steps"])
        seen = counts(real["steps"])
        copied = {} if case.tier is None else copied_blocks(real["steps"])
        if case.concurrency is None:
            found += missing(seen | copied)
        wrong += [f"{case.name}: {line}" for line in found]
        facts = real["facts"]
        values = [facts["scheduler"], facts["executor"], facts["pool"], *(f"{count:,}" for count in seen.values())]
        table.add_row(case.name, *values, "no" if found else "yes")
        flags = {name: value for name, value in asdict(case).items() if name not in ("sessions", "executor", "shape")}
        classes = {
            side: {name: log["facts"][name] for name in CLASSES}
            for side, log in (("real", real), ("simulator", simulated))
        }
        rows.append({"case": case.name} | flags | classes | seen | copied | {"differences": len(found)})
    console.print(table)
    return Found(rows, wrong)


def check_driver(folder: Path, cases: Sequence[Case]) -> Found:
    """The driver of `vllm-sim replay`, with arrivals by its virtual clock."""
    rows, wrong = [], []
    for case in cases:
        real, driven = (read(folder, case, side)["steps"] for side in ("real", "driver"))
        found = differences(real, driven)
        console.print(f"driver of vllm-sim replay, {case.name}: {len(driven)} steps; {len(found)} differ")
        wrong += [f"driver, {case.name}: {line}" for line in found]
        rows.append({"case": case.name, "steps": len(driven), "differences": len(found)})
    return Found(rows, wrong)


def check_wrong(folder: Path, cases: Sequence[Case]) -> Found:
    """A simulator that is wrong on purpose must be found out."""
    rows, passed = [], []
    for case in cases:
        real = read(folder, replace(case, block_size=BLOCK_SIZE), "real")
        found = differences(real["steps"], read(folder, case, wrong_side(case))["steps"], limit=1)
        console.print(f"wrong on purpose ({wrong_side(case)}): {found[0] if found else 'NOT found'}")
        passed += [] if found else [f"{case}: wrong on purpose, and the comparison let it pass"]
        rows.append({"wrong": wrong_side(case), "found": bool(found)})
    return Found(rows, passed)


def wrong_side(case: Case) -> str:
    """What is wrong with a case, as the name of its log."""
    return "one token late" if case.executor == "LateExecutor" else f"block size {case.block_size}"


def check_replay(folder: Path, models: str, cases: Sequence[Case]) -> Found:
    """Hits of each request by every backend of `vllm-sim replay`, against real execution one request at a time."""
    rows, wrong = [], []
    runs = [(case, backend) for case in cases for backend in ("engine", "blockpool", "fast")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found_hits = pool.map(lambda run: _replay_hits(folder, models, *run), runs)
    for (case, backend), found in zip(runs, found_hits, strict=True):
        real = hits(read(folder, case, "real")["steps"])
        expected = [real[str(row)] for row in range(len(real))]
        differing = [row for row, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]]
        console.print(
            f"vllm-sim replay --backend {backend:9} --policy {case.policy:6}, {case.model}: {sum(found):,} hit "
            f"tokens in {len(found)} requests; {len(differing)} requests differ from real execution"
        )
        wrong += [
            f"{case.name}, {backend}: row {row} hits {found[row]}, really {expected[row]}" for row in differing[:3]
        ]
        counted = {"requests": len(found), "hit_tokens": sum(found), "differences": len(differing)}
        rows.append({"model": case.model, "backend": backend, "policy": case.policy} | counted)
    return Found(rows, wrong)


def _replay_hits(folder: Path, models: str, case: Case, backend: str) -> list[int]:
    out = folder / f"{case.name}.{backend}"
    command = [sys.executable, "-c", "from vllm_sim.cli import main; raise SystemExit(main())", "replay"]
    command += [
        str(folder / f"{case.name}.jsonl"),
        "--out",
        str(out),
        "--model",
        str(Path(models) / case.model),
        "--backend",
        backend,
    ]
    command += ["--block-size", str(case.block_size), "--capacity-blocks", str(case.capacity_blocks)]
    command += ["--policy", case.policy, "--seed", str(case.seed)]
    if arguments := case.cache_arguments:
        command += ["--engine-args", json.dumps(arguments | {"dtype": MODELS[case.model].dtype})]
        command += ["--max-num-batched-tokens", str(case.max_num_batched_tokens)]
    if backend == "engine":
        command += ["--concurrency", "1", "--latency-model", "zero"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line)["hit_tokens"] for line in (out / "requests.jsonl").read_text().splitlines()]
