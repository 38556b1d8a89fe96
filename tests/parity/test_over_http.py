"""How `make parity` ends the servers that it starts."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity.over_http import end, serve

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def test_a_server_that_ended_by_itself_is_known_by_its_log(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such model\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SystemExit, match="no such model"), serve(python, "model", None, tmp_path / "log"):
        pass


def test_a_server_that_does_not_stop_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as output:
        output.readline()
    end(process, patience_s=0.5)
    assert process.returncode == -signal.SIGKILL
