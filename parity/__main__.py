"""`make parity`: real model execution against the simulator, step by step; ends with 1 where anything differs.

A whole run writes its counts to results/parity.json, `--startup` its ratio, `--search` what it drew and saw.

usage: python -m parity [--quick | --startup] [--no-http] [--keep DIR]
       python -m parity --search N [--seed S] [--tier | --sabotage] [--keep DIR]
       python -m parity --repeat FILE [--keep DIR]
In the project's environment, after parity/install.sh.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from parity import checks, over_http, search
from parity.drawing import CASES_OF_A_SEED
from parity.model import EXPORTED, make_models
from parity.results import update
from parity.sides import REAL_PYTHON, SIMULATOR_PYTHON, real_job, run_side, simulated_job
from parity.workload import BLOCK_SIZE, Case, fitted

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
    Case(seed=1, tier_chunks=120),
    Case(seed=2, tier_chunks=600, async_scheduling=True),
    Case(seed=3, policy="arc", tier_chunks=300, copy_steps=5),
)
GROUPS = tuple(
    fitted(Case(seed=5, model=model, policy=policy, async_scheduling=is_async, sessions=40), room=1.25)
    for model, policy, is_async in (
        ("gemma3", "lru", False),
        ("gemma3", "hybrid", True),
        ("gpt-oss", "lru", True),
        ("mistral", "lru", False),
        ("llama4", "lru", True),
        ("lfm2", "lru", True),
        ("lfm2", "arc", False),
        ("qwen3-next", "lru", False),
    )
)
"""Models whose layers do not all keep the same: windows, chunks, states."""
SERIAL = tuple(Case(seed=4, policy=policy, concurrency=1, sessions=30) for policy in ("lru", "arc", "s3fifo", "hybrid"))
"""One request after the other, which every backend of `vllm-sim replay` can serve."""
SERIAL_GROUPS = tuple(
    fitted(Case(seed=4, model=model, concurrency=1, sessions=30), room=1.5)
    for model in ("gemma3", "gpt-oss", "llama4", "lfm2", "qwen3-next")
)
"""The same of several cache groups, which `fast` serves under `lru`."""


def run_cases(folder: Path, models: str, cases: Sequence[Case], wrong: Sequence[Case]) -> None:
    """Runs all cases on all sides; `wrong` on the simulator's side alone."""

    def run_real(lane: int) -> None:
        if jobs := [real_job(case) for case in cases[lane :: search.LANES]]:
            run_side(REAL_PYTHON, "real", folder, models, jobs)

    def run_simulated(side: str) -> None:
        late = [simulated_job(folder, case, checks.wrong_side(case)) for case in wrong] if side == "simulator" else []
        run_side(SIMULATOR_PYTHON, side, folder, models, [*(simulated_job(folder, case) for case in cases), *late])

    with ThreadPoolExecutor(search.LANES) as pool:
        list(pool.map(run_real, range(search.LANES)))
        list(pool.map(run_simulated, ("simulator", "driver")))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m parity", description="Real model execution against the simulator, step by step."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="two cases, and nothing else")
    what.add_argument("--startup", action="store_true", help="how long a real and a simulated server take to start")
    what.add_argument("--search", type=int, metavar="N", help="N configurations and workloads drawn at random")
    what.add_argument("--repeat", type=Path, metavar="FILE", help="the case of a file that a search has left")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the search")
    parser.add_argument("--tier", action="store_true", help="every case of the search has CPU memory")
    parser.add_argument("--sabotage", action="store_true", help="the search must find a simulator wrong on purpose")
    parser.add_argument("--no-http", action="store_true", help="without the two servers")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the logs and traces here")
    options = parser.parse_args()
    for name in ("sabotage", "tier"):
        if getattr(options, name) and options.search is None:
            parser.error(f"--{name} is for --search")
    if options.search is not None and not 0 < options.search < CASES_OF_A_SEED:
        parser.error(f"--search is {options.search}; allowed: 1 to {CASES_OF_A_SEED - 1}")
    return options


def main() -> int:
    options = parse()
    if not REAL_PYTHON.exists():
        raise SystemExit(f"{REAL_PYTHON} is not there: run parity/install.sh (make parity does)")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.startup:
            update("parity", {"startup": over_http.measure_start(REAL_PYTHON, folder, str(EXPORTED))})
            return 0
        models = make_models(folder / "models")
        if options.search is not None:
            return search.search(folder, models, options.search, options.seed, options.sabotage, options.tier)
        if options.repeat is not None:
            return search.repeat(folder, models, options.repeat)
        cases = (BUSY[0], BUSY[2]) if options.quick else BUSY + GROUPS + SERIAL + SERIAL_GROUPS
        wrong = replace(BUSY[0], executor="LateExecutor"), replace(BUSY[0], block_size=2 * BLOCK_SIZE)
        run_cases(folder, models, cases, wrong)
        found = {
            "cases": checks.check_steps(folder, cases),
            "driver": checks.check_driver(folder, cases),
            "wrong_on_purpose": checks.check_wrong(folder, wrong),
        }
        if not options.quick:
            found["replay"] = checks.check_replay(folder, models, SERIAL + SERIAL_GROUPS)
            if not options.no_http:
                found["http"] = over_http.check(REAL_PYTHON, folder, str(Path(models) / "llama"))
                facts = checks.read(folder, cases[0], "real")["facts"]
                versions = {name: facts[name] for name in ("vllm", "torch")}
                update("parity", versions | {name: part.rows for name, part in found.items()})
    lines = [line for part in found.values() for line in part.wrong]
    for line in lines:
        checks.console.print(line, markup=False)
    checks.console.print("parity: equal" if not lines else f"parity: {len(lines)} differences")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
