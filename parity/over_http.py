"""A real server and the simulator's, one connection each: the same texts and the same `cached_tokens`.

Both are vLLM's own API server, with synchronous scheduling: with one request at a time nothing depends on the host's
clock. The prompts are texts; a next turn sends the conversation so far, its answers included.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from parity.checks import Found, Row, console
from parity.workload import BLOCK_SIZE

ROOT = Path(__file__).parents[1]
CAPACITY_BLOCKS = 60
SESSIONS, TURNS = 35, 3
START_SECONDS = 400
WORDS = ("block", "request", "prefix", "hit", "cache", "turn", "answer", "token", "queue", "evict", "free", "the", "of")


@contextmanager
def serve(
    python: Path, model: str, trace: Path | None, log: Path, dtype: str = "float32"
) -> Iterator[tuple[str, float]]:
    """A server; yields its address and the seconds until it answered. trace: None for real execution."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if trace is not None:
        environment["VLLM_SIM_TRACE_PATH"] = str(trace)
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "tiny"),
        *("--load-format", "dummy", "--dtype", dtype, "--enforce-eager", "--block-size", str(BLOCK_SIZE)),
        *("--num-gpu-blocks-override", str(CAPACITY_BLOCKS + 1), "--gpu-memory-utilization", "0.3"),
        *("--max-model-len", "1024", "--max-num-seqs", "4", "--max-num-batched-tokens", "256"),
        *("--no-async-scheduling", "--enable-prompt-tokens-details", "--generation-config", "vllm"),
        *("--host", "localhost", "--port", str(port)),
    ]
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://localhost:{port}"
    try:
        for _ in range(START_SECONDS * 5):
            if process.poll() is not None:
                raise SystemExit(f"the server ended:\n{log.read_text()[-3000:]}")
            try:
                if httpx.get(f"{address}/health").is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        else:
            raise SystemExit(f"the server does not answer after {START_SECONDS} s: {log}")
        yield address, time.monotonic() - start
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], patience_s: float = 60) -> None:
    """Ends a server and what it started in its session, by force where it does not heed the signal to stop."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask_all(address: str) -> list[dict[str, Any]]:
    """Asks all requests, one after the other; what each turn says depends on the answers before it."""
    rng = random.Random(5)

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    systems = [words(50), words(110)]
    conversations = [rng.choice(systems) + " " + words(rng.randrange(10, 90)) for _ in range(SESSIONS)]
    answers = []
    with httpx.Client(timeout=120) as client:
        for number in range(SESSIONS * TURNS):
            session = number // 5 // TURNS * 5 + number % 5  # five sessions take turns
            body = {
                "model": "tiny",
                "prompt": conversations[session],
                "max_tokens": rng.randrange(5, 40),
                "temperature": 1.0,
                "return_token_ids": True,
            }
            reply = client.post(f"{address}/v1/completions", json=body)
            reply.raise_for_status()
            found = reply.json()
            choice, usage = found["choices"][0], found["usage"]
            conversations[session] += choice["text"] + " " + words(rng.randrange(3, 20))
            answers.append(
                {
                    "text": choice["text"],
                    "finish_reason": choice["finish_reason"],
                    "prompt_token_ids": choice["prompt_token_ids"],
                    "response_token_ids": choice["token_ids"],
                    "cached_tokens": (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0),
                    "usage": usage,
                }
            )
    return answers


def check(real_python: Path, folder: Path, model: str) -> Found:
    """Serves the same requests really and simulated, and compares texts, token ids, usage and `cached_tokens`."""
    with serve(real_python, model, None, folder / "real-server.log") as (address, _):
        real = ask_all(address)
    trace = folder / "http.jsonl"
    names = ("prompt_token_ids", "response_token_ids", "finish_reason")
    trace.write_text("".join(json.dumps({name: answer[name] for name in names}) + "\n" for answer in real))
    with serve(Path(sys.executable), model, trace, folder / "simulator-server.log") as (address, _):
        simulated = ask_all(address)
    wrong = [
        f"HTTP request {number}, {name}: {one[name]!r:.200}, and {other[name]!r:.200} in the simulator"
        for number, (one, other) in enumerate(zip(real, simulated, strict=True))
        for name in one
        if one[name] != other[name]
    ]
    cached = sum(answer["cached_tokens"] for answer in real)
    console.print(
        f"over HTTP: {len(real)} requests on one connection, {cached:,} cached tokens; {len(wrong)} differences"
    )
    row = {"requests": len(real), "cached_tokens": cached, "differences": len(wrong)}
    return Found([row], wrong[:5] + ([] if cached else ["HTTP: no token was cached, nothing was compared"]))


def measure_start(real_python: Path, folder: Path, model: str) -> Row:
    """Seconds that servers of a model take until they answer, same options: real (random weights), simulated.

    Each is started twice and the second start counts: the first one fills caches.
    """
    trace = folder / "start.jsonl"
    trace.write_text(json.dumps({"prompt": "hehe", "response": "hahaha!"}) + "\n")
    sides = {"real": (real_python, None), "simulator": (Path(sys.executable), trace)}
    seconds = {}
    for name, (python, answers) in sides.items():
        for _ in range(2):
            with serve(python, model, answers, folder / f"{name}-start.log", "bfloat16") as (_, seconds[name]):
                pass
    real_s, simulator_s = (round(seconds[name], 1) for name in sides)
    ratio = round(simulator_s / real_s, 2)
    console.print(f"start-up, {Path(model).name}: real {real_s} s, simulator {simulator_s} s; ratio {ratio}")
    return {"model": Path(model).name, "real_s": real_s, "simulator_s": simulator_s, "ratio": ratio}
