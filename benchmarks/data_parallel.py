"""What several engines in one server cost until they are ready, for docs/server.md: prints a row for each way to start.

Each start is `vllm serve` over trace.jsonl with the sizes of `make serve`. CPU seconds are those of all its processes,
and say more than seconds on a busy machine. Memory is the proportional set size: a page that processes share counts
once.

usage: python -m benchmarks.data_parallel       in the project's folder and environment; takes 7 minutes on 2 cores
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from tests.serving import MODEL, NAME, ROOT, environment, free_port

SIZES = ("--max-model-len", "4096", "--max-num-seqs", "4", "--block-size", "8")
START_SECONDS = 400


class Case(NamedTuple):
    """How engines are started."""

    engines: int
    front_ends: int = 1
    """Of a server."""
    method: str = "spawn"
    """VLLM_WORKER_MULTIPROC_METHOD."""
    servers: int = 1


CASES = (
    *(Case(engines) for engines in (1, 2, 4)),
    *(Case(engines, engines) for engines in (2, 4)),
    *(Case(engines, method="fork") for engines in (1, 2, 4)),
    Case(1, servers=4),
)


def command(case: Case, port: int) -> list[str]:
    program = str(Path(sys.executable).with_name("vllm"))
    words = [program, "serve", str(MODEL), "--served-model-name", NAME, "--host", "localhost", "--port", str(port)]
    words += [*SIZES, "--data-parallel-size", str(case.engines), "--api-server-count", str(case.front_ends)]
    return words


def measure(case: Case) -> dict[str, Any]:
    """Starts servers, waits until all answer, and looks at their processes."""
    variables = environment(ROOT / "trace.jsonl") | {"VLLM_WORKER_MULTIPROC_METHOD": case.method}
    ports, begun = [free_port() for _ in range(case.servers)], time.monotonic()
    with ExitStack() as stack:
        running = [start(command(case, port), variables, stack) for port in ports]
        for port in ports:
            wait(port, begun)
        ready = time.monotonic() - begun
        for port in ports:
            body = {"model": NAME, "prompt": "hehe", "max_tokens": 20}
            reply = httpx.post(f"http://localhost:{port}/v1/completions", json=body, timeout=60)
            assert reply.json()["choices"][0]["text"] == "hahaha!"
        found = [one for server in running for one in (server, *server.children(recursive=True))]
        times = [one.cpu_times() for one in found]
        return case._asdict() | {
            "ready_s": round(ready, 1),
            "cpu_s": round(sum(one.user + one.system for one in times), 1),
            "memory_gb": round(sum(one.memory_full_info().pss for one in found) / 1e9, 2),
            "processes": len(found),
        }


def start(words: list[str], variables: dict[str, str], stack: ExitStack) -> psutil.Process:
    """A server that ends with the stack."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, env=variables, cwd=ROOT, stdout=quiet, stderr=quiet)
    stack.callback(process.wait, 60)
    stack.callback(process.send_signal, signal.SIGTERM)
    return psutil.Process(process.pid)


def wait(port: int, begun: float) -> None:
    """Until a server answers."""
    while time.monotonic() < begun + START_SECONDS:
        try:
            if httpx.get(f"http://localhost:{port}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"no server on port {port} after {START_SECONDS} s")


def main() -> None:
    for case in CASES:
        print(json.dumps(measure(case) | {"load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
