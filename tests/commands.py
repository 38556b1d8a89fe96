"""`vllm-sim` in the process of the tests, which has imported what a new process would spend a second of CPU on.

For what a command says and writes. A test of what needs a process (a kill, jobs, a reader that leaves, imports) starts
one.
"""

import io
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from vllm_sim.cli import main


def vllm_sim(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs a command; an exception that reaches the caller would be a traceback for a user."""
    given, out, err = [str(word) for word in words], io.StringIO(), io.StringIO()
    with patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(given)
        except SystemExit as left:  # argparse
            code = left.code if isinstance(left.code, int) else 1
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())
