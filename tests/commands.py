"""`vllm-sim` and the studies' scripts in the process of the tests, which has imported what a new process would spend
seconds of CPU on.

For what a command says and writes. A test of what needs a process (a kill, jobs, a reader that leaves, imports) starts
one.
"""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from vllm_sim.cli import main

ROOT = Path(__file__).parents[1]


def vllm_sim(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs a command; an exception that reaches the caller would be a traceback for a user."""
    given = [str(word) for word in words]
    return _outcome(given, lambda: main(given))


def script(path: str, *words: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs a script of the repository in a folder."""
    given = [str(ROOT / path), *map(str, words)]

    def run() -> int:
        runpy.run_path(given[0], run_name="__main__")
        return 0

    with patch.object(sys, "argv", given), patch.object(sys, "path", [*sys.path]), contextlib.chdir(folder):
        return _outcome(given, run)


def _outcome(given: list[str], run: Callable[[], int]) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        try:
            code = run()
        except SystemExit as left:  # argparse, and the end of a script
            code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())
