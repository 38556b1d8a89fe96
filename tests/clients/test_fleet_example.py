"""examples/fleet: two real servers, and PyPI's vllm-router before them that follows their KV events."""

import argparse
import os
import re
import runpy
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
EXAMPLE = ROOT / "examples" / "fleet" / "serve.py"


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


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """With vllm-router among the programs."""
    return os.environ | {"PATH": os.pathsep.join([str(python_of("router").parent), os.environ["PATH"]])}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Iterator[Fleet]:
    folder, port = tmp_path_factory.mktemp("fleet"), free_port()
    trace, log = write_trace(folder / "trace.jsonl", ROWS), folder / "log"
    command = [sys.executable, str(EXAMPLE), str(trace), "--model", str(MODEL)]
    command += ["--policy", "kv_aware", "--port", str(port), "--", "--max-model-len", "2048", "--max-num-seqs", "8"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out, cwd=ROOT)
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


def ask(url: str, row: dict[str, str]) -> None:
    reply = httpx.post(f"{url}/v1/completions", json={"model": NAME, "prompt": row["prompt"]}, timeout=120)
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["text"] == row["response"]


def test_a_prompt_that_comes_again_goes_where_its_blocks_are(fleet: Fleet) -> None:
    for row in ROWS:
        ask(fleet.url, row)
    first = fleet.served()
    assert sum(first) == len(ROWS)
    time.sleep(2)  # events reach the router
    for _ in range(4):
        ask(fleet.url, ROWS[0])
    assert sorted(after - before for after, before in zip(fleet.served(), first, strict=True)) == [0, 4]


@pytest.mark.parametrize("policy", ["cache_aware", "consistent_hash", "round_robin"])
def test_a_router_of_another_policy_gives_the_recorded_answers(
    fleet: Fleet, variables: dict[str, str], tmp_path: Path, policy: str
) -> None:
    port, before = free_port(), sum(fleet.served())
    options = argparse.Namespace(port=port, policy=policy, block_size=16)
    command = runpy.run_path(str(EXAMPLE))["router"](options, fleet.ports, [], [])
    with (tmp_path / "log").open("wb") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while not answers(f"http://localhost:{port}"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.3)
        for row in ROWS:
            ask(f"http://localhost:{port}", row)
        assert sum(fleet.served()) == before + len(ROWS)
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_ctrl_c_ends_all(fleet: Fleet) -> None:
    children = psutil.Process(fleet.process.pid).children(recursive=True)
    assert len(children) >= 3
    fleet.process.send_signal(signal.SIGTERM)
    fleet.process.wait(60)
    assert psutil.wait_procs(children, timeout=60)[1] == []
