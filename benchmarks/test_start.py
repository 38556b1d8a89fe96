"""How long `vllm-sim replay` takes until its first request has ended, over what the import of vLLM alone takes; and how
long a server takes until it answers, over one of vLLM's CPU build with random weights.

Tokens and block hashes are cached. The first request generates one token, so it ends with the engine's first step.
"""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.rows import Measured, Measurement
from parity import over_http
from parity.sides import REAL_PYTHON
from tests.serving import MODEL, write_trace
from vllm_sim.replay.rows import PARTIAL

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROUNDS = 3
IMPORT = "import gc; gc.disable(); import vllm.engine.arg_utils, vllm.v1.engine.core"
ROWS = [
    {"prompt_token_ids": [1000 + i] * 20, "response_token_ids": [9] * (1 if i == 0 else 500), "finish_reason": "length"}
    for i in range(200)
]


def first_end(trace: Path, out: Path) -> tuple[float, float]:
    """Seconds of wall time and of CPU until the first request of a replay has ended."""
    command = [str(Path(sys.executable).with_name("vllm-sim")), "replay", str(trace), "--out", str(out)]
    start = time.monotonic()
    process = subprocess.Popen([*command, "--model", str(MODEL), "--concurrency", "4"], stdout=subprocess.DEVNULL)
    partial = out / PARTIAL
    while process.poll() is None and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.01)
    assert process.returncode is None, "the replay has ended before its first request was seen"
    wall, fields = time.monotonic() - start, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    assert process.wait() == 0
    return wall, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def import_seconds() -> float:
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORT], check=True)
    return time.monotonic() - start


def test_a_replay_reaches_its_first_step_soon_after_vllm_is_imported(tmp_path: Path, measured: Measured) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", ROWS)
    first_end(trace, tmp_path / "run")  # writes tokens and hashes
    wall = cpu = alone = math.inf
    for round_ in range(ROUNDS):
        found = first_end(trace, tmp_path / f"run{round_}")
        wall, cpu, alone = min(wall, found[0]), min(cpu, found[1]), min(alone, import_seconds())
    measured(
        Measurement(
            name="start",
            what="wall time of `vllm-sim replay` until its engine has made its first step, tokens cached",
            value=wall,
            unit="s",
            at_most=6.0,
            aim=4.0,
            parts={"CPU, s": cpu, "import of vLLM alone, s": alone},
        )
    )


@pytest.mark.skipif(not REAL_PYTHON.exists(), reason="no vLLM that executes: `make parity` installs it")
def test_a_server_starts_twice_as_fast_as_a_real_one(tmp_path: Path, measured: Measured) -> None:
    found = over_http.measure_start(REAL_PYTHON, tmp_path, str(MODEL))
    measured(
        Measurement(
            name="server_start",
            what=f"time until a server of {found['model']} answers, over one that executes it on the CPU",
            value=found["simulator_s"] / found["real_s"],
            unit="times",
            at_most=0.5,
            parts={"real, s": found["real_s"], "simulator, s": found["simulator_s"]},
        )
    )
