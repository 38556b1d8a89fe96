"""A soak: many requests of every kind through one server. Memory stays flat, and its metrics count what was sent.

`make test-all` sends 20,000; by hand SOAK_REQUESTS says how many.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serving import NAME, Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(100_000)]

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "20000"))
WORKERS = 64
CLIENTS_THAT_LEAVE = 200
GROWTH_MIB = 100
"""Of all processes together, from half of the requests to all of them."""
ROWS: list[dict[str, Any]] = [
    *({"prompt": f"prompt {i} " + "word " * (i % 60), "response": "reply " * (i % 9)} for i in range(500)),
    *(
        {"messages": [{"role": "user", "content": f"ask {i} " + "word " * (i % 60)}], "response": "answer " * (i % 9)}
        for i in range(500)
    ),
]


def memory_mib() -> float:
    """Of the server's processes, what no other process shares."""
    return sum(child.memory_full_info().uss for child in psutil.Process().children(recursive=True)) / 2**20


async def events(response: httpx.Response) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


async def send(client: httpx.AsyncClient, rng: random.Random, counts: Counter[str]) -> None:
    """A request of a kind that is drawn; its answer is compared, its tokens are counted."""
    kind = rng.choices(("whole", "stream", "cut", "miss"), (40, 40, 10, 10))[0]
    row = rng.choice(ROWS)
    chat = "messages" in row
    body = {"model": NAME, "max_tokens": 2 if kind == "cut" else 50}
    if kind == "miss":
        body |= {"messages": [{"role": "user", "content": "never"}]} if chat else {"prompt": "never"}
    else:
        body |= {"messages": row["messages"]} if chat else {"prompt": row["prompt"]}
    if kind == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    text, usage = "", None
    async with client.stream("POST", "/v1/chat/completions" if chat else "/v1/completions", json=body) as response:
        assert response.status_code == (404 if kind == "miss" else 200)
        async for event in events(response) if kind == "stream" else aiter_one(response):
            for choice in event.get("choices", ()):
                text += (choice.get("delta") or choice["message"]).get("content") or "" if chat else choice["text"]
            usage = event.get("usage") or usage
    counts[kind] += 1
    if kind != "miss":
        assert usage is not None
        assert text == row["response"] if kind != "cut" else row["response"].startswith(text)
        counts["prompt tokens"] += usage["prompt_tokens"]
        counts["generated tokens"] += usage["completion_tokens"]


async def aiter_one(response: httpx.Response) -> AsyncIterator[Any]:
    yield json.loads(await response.aread())


async def leave(server: Server) -> None:
    """Clients that go away after the first byte of an answer that goes on."""
    body = {"model": NAME, "max_tokens": 4000, "stream": True, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        for row in ROWS[:CLIENTS_THAT_LEAVE]:
            async with client.stream("POST", "/v1/completions", json=body | {"prompt": row["prompt"]}) as response:
                await anext(response.aiter_bytes())


async def soak(server: Server, report: Path) -> tuple[Counter[str], list[float]]:
    """What was sent, and the memory after each tenth."""
    counts: Counter[str] = Counter()
    memory: list[float] = []
    left = iter(range(REQUESTS))
    limits = httpx.Limits(max_connections=WORKERS)
    begun = time.monotonic()

    async def work(worker: int, client: httpx.AsyncClient) -> None:
        rng = random.Random(worker)
        for number in left:
            await send(client, rng, counts)
            if (number + 1) % (REQUESTS // 10) == 0:
                memory.append(memory_mib())
                with report.open("a") as file:
                    print(f"{number + 1} {time.monotonic() - begun:.0f} s {memory[-1]:.0f} MiB", file=file)

    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(work(worker, client) for worker in range(WORKERS)))
    return counts, memory


def test_memory_stays_flat_and_metrics_count_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "600")  # a busy machine may leave a connection idle for long
    options = ("--max-model-len", "8192", "--max-num-seqs", "64", "--disable-uvicorn-access-log")
    with serve(tmp_path, ROWS, *options) as server:
        counts, memory = asyncio.run(soak(server, tmp_path / "memory.txt"))
        served = counts["whole"] + counts["stream"] + counts["cut"]
        assert served + counts["miss"] == REQUESTS
        assert server.metric("vllm:request_success_total") == served
        assert server.metric("vllm:prompt_tokens_total") == counts["prompt tokens"]
        assert server.metric("vllm:generation_tokens_total") == counts["generated tokens"]
        asyncio.run(leave(server))
        until = time.monotonic() + 60
        while server.metric("vllm:num_requests_running") and time.monotonic() < until:
            time.sleep(0.2)
        assert server.metric("vllm:num_requests_running") == server.metric("vllm:num_requests_waiting") == 0
    assert "Traceback" not in server.log.read_text()
    assert memory[-1] - memory[4] < GROWTH_MIB, memory
