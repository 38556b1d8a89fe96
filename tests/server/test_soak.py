"""A soak: many requests of every kind through one server. Memory stays flat, and its metrics count what was sent.

`make test-all` sends 20,000; by hand SOAK_REQUESTS says how many, and `-s` shows memory and rate as they go:

    SOAK_REQUESTS=1000000 python -m pytest -s -m slow tests/server/test_soak.py

The client writes ready requests into plain connections: httpx takes as long for one as the server does.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
KINDS = {"whole": 40, "stream": 40, "cut": 10, "miss": 10}
"""How many of a hundred requests are of a kind."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that is ready to be sent."""

    kind: str
    is_chat: bool
    message: bytes
    response: str


def ask(kind: str, row: dict[str, Any]) -> Ask:
    is_chat = "messages" in row
    body = {name: value for name, value in row.items() if name != "response"}
    body |= {"model": NAME, "max_tokens": 2 if kind == "cut" else 50}
    if kind == "miss":
        body |= {"messages": [{"role": "user", "content": "never"}]} if is_chat else {"prompt": "never"}
    if kind == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    content = json.dumps(body).encode()
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    head = (f"POST {path} HTTP/1.1", "host: soak", "content-type: application/json", f"content-length: {len(content)}")
    return Ask(kind, is_chat, "\r\n".join((*head, "", "")).encode() + content, row["response"])


class Connection:
    """One to the server, which stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer

    async def send(self, message: bytes) -> tuple[int, bytes]:
        """Sends a request; returns the answer's status and body."""
        self._writer.write(message)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, is_long, rest = head.partition(b"content-length: ")
        if is_long:
            body = await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        else:
            parts = []
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                parts.append((await self._reader.readexactly(size + 2))[:-2])
            await self._reader.readexactly(2)
            body = b"".join(parts)
        return int(head[9:12]), body


def memory_mib() -> float:
    """Of the server's processes, what no other process shares."""
    return sum(child.memory_full_info().uss for child in psutil.Process().children(recursive=True)) / 2**20


async def send(connection: Connection, wanted: Ask, counts: Counter[str]) -> None:
    """A request; its answer is compared, its tokens are counted."""
    status, body = await connection.send(wanted.message)
    counts[wanted.kind] += 1
    if wanted.kind == "miss":
        assert status == 404
        return
    assert status == 200
    text, usage = "", None
    lines = body.split(b"data: ")[1:-1] if wanted.kind == "stream" else [body]
    for event in map(json.loads, lines):
        for choice in event["choices"]:
            if wanted.is_chat:
                text += (choice["delta"] if wanted.kind == "stream" else choice["message"]).get("content") or ""
            else:
                text += choice["text"]
        usage = event.get("usage") or usage
    assert usage is not None
    assert text == wanted.response if wanted.kind != "cut" else wanted.response.startswith(text)
    counts["prompt tokens"] += usage["prompt_tokens"]
    counts["generated tokens"] += usage["completion_tokens"]


async def leave(server: Server) -> None:
    """Clients that go away after the first byte of an answer that goes on."""
    body = {"model": NAME, "max_tokens": 4000, "stream": True, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        for row in ROWS[:CLIENTS_THAT_LEAVE]:
            async with client.stream("POST", "/v1/completions", json=body | {"prompt": row["prompt"]}) as response:
                await anext(response.aiter_bytes())


async def soak(server: Server) -> tuple[Counter[str], list[float]]:
    """What was sent, and the memory before and after each tenth."""
    counts: Counter[str] = Counter()
    asks = {kind: [ask(kind, row) for row in ROWS] for kind in KINDS}
    left = iter(range(REQUESTS))
    begun, memory = time.monotonic(), [memory_mib()]
    print(f"at the start {memory[0]:.0f} MiB", flush=True)

    async def work(worker: int) -> None:
        url, rng = urlsplit(server.url), random.Random(worker)
        connection = Connection(*await asyncio.open_connection(url.hostname, url.port))
        for number in left:
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            await send(connection, rng.choice(asks[kind]), counts)
            if (number + 1) % (REQUESTS // 10) == 0:
                memory.append(memory_mib())
                print(f"{number + 1} after {time.monotonic() - begun:.0f} s: {memory[-1]:.0f} MiB", flush=True)

    await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    return counts, memory


def test_memory_stays_flat_and_metrics_count_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "600")  # a busy machine may leave a connection idle for long
    options = ("--max-model-len", "8192", "--max-num-seqs", "64", "--disable-uvicorn-access-log")
    with serve(tmp_path, ROWS, *options) as server:
        counts, memory = asyncio.run(soak(server))
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
    assert memory[-1] - memory[5] < GROWTH_MIB, memory
