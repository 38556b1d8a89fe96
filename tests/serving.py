"""vLLM's own API server over a trace, in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from openai import OpenAI

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "exported_models" / "Llama-3.2-1B-Instruct"
NAME = "meta-llama/Llama-3.2-1B-Instruct"
START_SECONDS = 240


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers. `log` is what it printed."""

    url: str
    log: Path
    rows: list[dict]
    pid: int

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def metric(self, name: str) -> float:
        """The sum of a Prometheus counter or gauge over its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def write_trace(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def environment(trace: Path | str) -> dict[str, str]:
    """Without what a command that ran in this process has said of vLLM's log."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_LOGGING_")}
    return kept | {"VLLM_SIM_TRACE_PATH": str(trace)}


def arguments(port: int, *more: str) -> list[str]:
    """The command line of the README."""
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL), "--tokenizer", str(MODEL)),
        *("--served-model-name", NAME, "--device", "cpu", "--host", "localhost", "--port", str(port), *more),
    ]


@contextmanager
def serve(folder: Path, rows: Sequence[dict], *more: str) -> Iterator[Server]:
    """Starts a server over a trace of these rows and ends it with the block."""
    trace = write_trace(folder / "trace.jsonl", rows)
    log = folder / "server.log"
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments(port, *more),
            env=environment(trace),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://localhost:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()[-6000:]}")
            time.sleep(0.3)
        yield Server(url, log, list(rows), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
