"""A scripted upstream, and a recorder in front of it, each a server on a port of its own."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import uvicorn

from vllm_sim.proxy.proxy import Proxy
from vllm_sim.proxy.recorder import Counts, Recorder
from vllm_sim.proxy.server import listen, parse_upstream
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import Record


@dataclass
class Reply:
    """What upstream sends: the chunks as they are cut here, then the end, or a broken connection, or nothing more."""

    chunks: list[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    end: Literal["whole", "break", "hang"] = "whole"
    wait_s: float = 0.0
    """Before the head."""
    pause_s: float = 0.0
    """Between chunks."""


def json_reply(value: Any, **options: Any) -> Reply:
    return Reply([json.dumps(value).encode()], **options)


def sse(*events: Any, done: bool = True, line_end: bytes = b"\n") -> bytes:
    lines = [json.dumps(e, ensure_ascii=False).encode() for e in events] + ([b"[DONE]"] if done else [])
    return b"".join(b"data: " + line + line_end * 2 for line in lines)


def sse_reply(*chunks: bytes, **options: Any) -> Reply:
    return Reply(list(chunks), content_type="text/event-stream; charset=utf-8", **options)


def chat_chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def chat_answer(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **more}
    return {"id": "chat-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def completion(*texts: str, finish: str = "stop") -> dict[str, Any]:
    choices = [{"index": i, "text": t, "finish_reason": finish, "logprobs": None} for i, t in enumerate(texts)]
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices}


@dataclass
class Seen:
    method: str
    path: str
    query: bytes
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Upstream:
    """An OpenAI-compatible server that answers each request as `script` says."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.owner = "somebody"
        self.script: Callable[[Seen], Reply] = lambda seen: json_reply(completion("hi"))
        self.seen: list[Seen] = []
        self.client_left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
        client_left = self.client_left  # of this test, if the request outlives it
        seen = Seen(scope["method"], scope["path"], scope["query_string"], headers, body)
        if seen.path == "/v1/models":
            reply = json_reply({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": self.owner}]})
        else:
            self.seen.append(seen)
            reply = self.script(seen)
        leaving = asyncio.create_task(self._watch(receive, client_left))
        await asyncio.sleep(reply.wait_s)
        head = [(b"content-type", reply.content_type.encode()), *reply.headers]
        if reply.content_type == "application/json" and reply.end == "whole":
            head.append((b"content-length", str(sum(map(len, reply.chunks))).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": head})
        for chunk in reply.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(reply.pause_s)
        if reply.end == "hang":
            await leaving
        leaving.cancel()
        if reply.end == "whole":
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Any, client_left: threading.Event) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        client_left.set()


@contextlib.contextmanager
def serving(make: Callable[[contextlib.AsyncExitStack], Any]) -> Iterator[int]:
    """Serves the application that `make` gives, in a thread; yields the port."""
    sockets: list[socket.socket] = listen("127.0.0.1", 0)
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        async with contextlib.AsyncExitStack() as stack:
            config = uvicorn.Config(
                make(stack), lifespan="off", log_config=None, timeout_graceful_shutdown=1, ws="none"
            )
            servers.append(uvicorn.Server(config))
            await servers[0].serve(sockets=sockets)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    while not servers or not servers[0].started:
        time.sleep(0.005)
    yield sockets[0].getsockname()[1]
    servers[0].should_exit = True
    thread.join()


class RecorderUnderTest:
    def __init__(self, url: str, out: Path, recorder: Recorder) -> None:
        self.url, self.out, self._recorder = url, out, recorder
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-secret-key", max_retries=0, timeout=20)

    @property
    def counts(self) -> Counts:
        return self._recorder.counts

    def records(self) -> list[Record]:
        return [r for _, r in iter_records(self.out)] if self.out.stat().st_size else []

    def wait_for(self, name: str, count: int = 1) -> None:
        """Waits until a count is reached that is taken after the client has what it wants."""
        end = time.monotonic() + 5
        while getattr(self.counts, name) < count and time.monotonic() < end:
            time.sleep(0.005)
        assert getattr(self.counts, name) == count, self.counts


@contextlib.contextmanager
def recording(upstream_url: str, out: Path, **timeouts: float) -> Iterator[RecorderUnderTest]:
    """A recorder for an upstream; timeouts as httpx.Timeout has them."""
    recorder = Recorder(out)
    limits = httpx.Timeout(**({"timeout": 20.0} | timeouts))

    def make(stack: contextlib.AsyncExitStack) -> Proxy:
        client = httpx.AsyncClient(timeout=limits)
        stack.push_async_callback(client.aclose)
        return Proxy(parse_upstream(upstream_url), client, recorder, "auto")

    with serving(make) as port:
        running = RecorderUnderTest(f"http://127.0.0.1:{port}", out, recorder)
        yield running
        running.client.close()
    recorder.close()
