"""How tests run `vllm-sim sweep`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.commands import vllm_sim
from tests.serving import MODEL

SLOW = """import os
import time

from vllm_sim.eviction.policy import Policy


class Slow(Policy):
    def started(self, request, hittable):
        time.sleep(float(os.environ.get("PAUSE_S", "0")))
"""
"""A user's policy in plain Python, found through PYTHONPATH; slow where the environment says so: a kill comes in the
middle.
"""


def command(trace: Path, out: Path, *options: str) -> list[str]:
    program = str(Path(sys.executable).with_name("vllm-sim"))
    return [program, "sweep", str(trace), "--out", str(out), "--model", str(MODEL), *options]


def run(trace: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(trace, out, *options), capture_output=True, text=True, timeout=300, check=False)


def run_here(trace: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In this process; with `--jobs 1` no other is started."""
    return vllm_sim(*command(trace, out, *options)[1:])


def with_modules(folder: Path) -> dict[str, str]:
    """The environment in which a folder's modules are found, besides those that are found here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
