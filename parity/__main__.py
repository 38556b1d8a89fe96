"""`make parity`: real model execution against the simulator, step by step; ends with 1 where anything differs.

A whole run writes its counts to results/parity.json, `--startup` its ratio.

usage: python -m parity [--quick | --startup] [--no-http] [--keep DIR]
In the project's environment, after parity/install.sh.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from parity import checks, over_http
from parity.model import EXPORTED, make_model
from parity.results import update
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


def run_side(python: Path, side: str, folder: Path, model: str, jobs: list[dict[str, Any]]) -> None:
    """Runs jobs of cases in one process; what it prints goes to a log in the folder."""
    log = folder / f"{side}-{Case(**jobs[0]['case']).name}.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # more threads make so small a model slower
        "PYTHONPATH": str(ROOT),
    }
    if side != "real":
        environment["VLLM_SIM_TRACE_PATH"] = jobs[0]["trace"]
    command = [str(python), "-m", "parity.engine", side, str(folder), model, json.dumps(jobs)]
    with log.open("w") as file:
        if subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file).returncode:
            raise SystemExit(f"the {side} side failed:\n" + "\n".join(log.read_text().splitlines()[-30:]))


def run_cases(folder: Path, model: str, cases: Sequence[Case], wrong: Sequence[Case]) -> None:
    """Runs all cases on all sides; `wrong` on the simulator's side alone."""

    def job(case: Case) -> dict[str, Any]:
        return {"case": asdict(case), "trace": str(folder / f"{case.name}.jsonl")}

    def run_real(case: Case) -> None:  # the CPU build starts one engine in a process
        run_side(REAL_PYTHON, "real", folder, model, [{"case": asdict(case)}])

    def run_simulated(side: str) -> None:
        late = [job(case) | {"side": checks.wrong_side(case)} for case in wrong] if side == "simulator" else []
        run_side(Path(sys.executable), side, folder, model, [*map(job, cases), *late])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run_real, cases))
        list(pool.map(run_simulated, ("simulator", "driver")))


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
            update("parity", {"startup": over_http.measure_start(REAL_PYTHON, folder, str(EXPORTED))})
            return 0
        model = make_model(folder / "model")
        cases = (BUSY[0], BUSY[2]) if options.quick else BUSY + SERIAL
        wrong = replace(BUSY[0], executor="LateExecutor"), replace(BUSY[0], block_size=2 * BLOCK_SIZE)
        run_cases(folder, model, cases, wrong)
        found = {
            "cases": checks.check_steps(folder, cases),
            "driver": checks.check_driver(folder, cases),
            "wrong_on_purpose": checks.check_wrong(folder, wrong),
        }
        if not options.quick:
            found["replay"] = checks.check_replay(folder, model, SERIAL)
            if not options.no_http:
                found["http"] = over_http.check(REAL_PYTHON, folder, model)
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
