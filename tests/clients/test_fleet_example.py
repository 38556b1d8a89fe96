"""examples/fleet: two real servers, and PyPI's vllm-router before them that follows their KV events."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.clients.environments import python_of
from tests.serving import MODEL, NAME, ROOT, free_port, write_trace

pytestmark = pytest.mark.slow

ROWS = [
    {"prompt": f"Session {place}: " + f"word {place} " * 60, "response": f"the answer of {place}"} for place in range(6)
]
START_SECONDS = 420


class Fleet:
    """A running example."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, ports: list[int]):
        self.process, self.url, self.ports = process, url, ports

    def served(self) -> list[int]:
        """How many requests each server has ended."""
        found = []
        for port in self.ports:
            lines = httpx.get(f"http://localhost:{port}/metrics").text.splitlines()
            ended = [line for line in lines if line.startswith("vllm:request_success_total{")]
            found.append(int(sum(float(line.rsplit(" ", 1)[1]) for line in ended)))
        return found


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    trace, log, port = write_trace(tmp_path / "trace.jsonl", ROWS), tmp_path / "log", free_port()
    command = [sys.executable, str(ROOT / "examples" / "fleet" / "serve.py"), str(trace), "--model", str(MODEL)]
    command += ["--policy", "kv_aware", "--port", str(port), "--", "--max-model-len", "2048", "--max-num-seqs", "8"]
    path = os.pathsep.join([str(python_of("router").parent), os.environ["PATH"]])
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=os.environ | {"PATH": path}, stdout=out, stderr=out, cwd=ROOT)
    try:
        end, line = time.monotonic() + START_SECONDS, None
        while line is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the example did not start:\n{log.read_text()[-6000:]}")
            time.sleep(0.5)
            line = re.search(r"2 servers on ports \[(\d+), (\d+)\], kv_aware", log.read_text())
        yield Fleet(process, f"http://localhost:{port}", [int(line[1]), int(line[2])])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_prompt_that_comes_again_goes_where_its_blocks_are_and_ctrl_c_ends_all(fleet: Fleet) -> None:
    def ask(row: dict[str, str]) -> None:
        body = {"model": NAME, "prompt": row["prompt"]}
        reply = httpx.post(f"{fleet.url}/v1/completions", json=body, timeout=120)
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["text"] == row["response"]

    for row in ROWS:
        ask(row)
    first = fleet.served()
    assert sum(first) == len(ROWS)
    time.sleep(2)  # events reach the router
    for _ in range(4):
        ask(ROWS[0])
    assert sorted(after - before for after, before in zip(fleet.served(), first, strict=True)) == [0, 4]
    children = psutil.Process(fleet.process.pid).children(recursive=True)
    assert len(children) >= 3
    fleet.process.send_signal(signal.SIGTERM)
    fleet.process.wait(60)
    assert psutil.wait_procs(children, timeout=60)[1] == []
