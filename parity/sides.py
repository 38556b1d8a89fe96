"""Starts the processes that run cases: on the real side in the second environment, else in this one."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parity.workload import Case

ROOT = Path(__file__).parents[1]
REAL_PYTHON = ROOT / ".venv-parity" / "bin" / "python"
SIMULATOR_PYTHON = Path(sys.executable)
Job = dict[str, Any]
"""A case; where the simulator runs it, the trace that it answers from, and the side where that is another one."""


def real_job(case: Case) -> Job:
    """Runs a case on the real side, which makes its trace."""
    return {"case": asdict(case)}


def simulated_job(folder: Path, case: Case, side: str | None = None) -> Job:
    """Runs a case with its trace; its log is named by the side, the process's own by default."""
    return real_job(case) | {"trace": str(folder / f"{case.name}.jsonl")} | ({} if side is None else {"side": side})


def real_environment() -> dict[str, str]:
    """The variables of a process that executes the model."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")} | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # more threads make so small a model slower
        "PYTHONPATH": str(ROOT),
    }


def try_side(python: Path, side: str, folder: Path, models: str, jobs: list[Job], log: Path) -> bool:
    """Runs jobs of cases, one after the other, and returns whether all went well; what they print goes to the log."""
    environment = real_environment()
    if side != "real":
        environment["VLLM_SIM_TRACE_PATH"] = jobs[0]["trace"]
    command = [str(python), "-m", "parity.engine", side, str(folder), models, json.dumps(jobs)]
    with log.open("w") as file:
        return not subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file).returncode


def run_side(python: Path, side: str, folder: Path, models: str, jobs: list[Job]) -> None:
    """As try_side, with a log in the folder; ends this process with the log's end where something fails."""
    log = folder / f"{side}-{Case.read(jobs[0]['case']).name}.log"
    if not try_side(python, side, folder, models, jobs, log):
        raise SystemExit(f"the {side} side failed:\n" + "\n".join(log.read_text().splitlines()[-30:]))
