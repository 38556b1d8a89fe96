"""Requests per second over HTTP at concurrency 64: the server with the replay executor over the same server with an
executor that returns one constant token; and how long a start takes. Both servers run at once and get requests in turn.
"""

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.rows import Measured, Measurement
from tests.serving import NAME, Server, serve

pytestmark = pytest.mark.bench

CONCURRENCY, REQUESTS, ROUNDS, OUTPUT_TOKENS = 64, 384, 12, 32
CUT = {"output_length": OUTPUT_TOKENS, "finish_reason": "length"}
ROWS = [{"prompt": f"{i} what is it", **CUT} for i in range(REQUESTS)]
OPTIONS = ("--max-model-len", "1024", "--max-num-seqs", "64", "--block-size", "16")
CONSTANT = ("--distributed-executor-backend", "benchmarks.constant.ConstantExecutor")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("constant", "replay")}
    start = time.perf_counter()
    with serve(folders["replay"], ROWS, *OPTIONS) as replay:
        print(f"\nstart of the server until it answers: {time.perf_counter() - start:.1f} s")
        with serve(folders["constant"], ROWS, *OPTIONS, *CONSTANT) as constant:
            yield {"constant": constant, "replay": replay}


async def ask_all(url: str) -> float:
    """Requests per second."""
    gate = asyncio.Semaphore(CONCURRENCY)
    async with httpx.AsyncClient(
        timeout=120, limits=httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=0)
    ) as client:

        async def ask(prompt: str) -> None:
            body = {"model": NAME, "prompt": prompt, "max_tokens": OUTPUT_TOKENS}
            async with gate:
                reply = await client.post(f"{url}/v1/completions", json=body)
            assert reply.json()["usage"]["completion_tokens"] == OUTPUT_TOKENS

        start = time.perf_counter()
        await asyncio.gather(*(ask(row["prompt"]) for row in ROWS))
        return REQUESTS / (time.perf_counter() - start)


def test_server_keeps_95_percent_of_a_constant_executors_requests(
    servers: dict[str, Server], measured: Measured
) -> None:
    best = dict.fromkeys(servers, 0.0)
    for _ in range(ROUNDS):
        for name, server in servers.items():
            best[name] = max(best[name], asyncio.run(ask_all(server.url)))
    measured(
        Measurement(
            name="http",
            what=f"requests/s over HTTP at concurrency {CONCURRENCY}: the same two executors",
            value=best["replay"] / best["constant"],
            unit="times",
            at_least=0.95,
            parts={f"{name} executor, requests/s": rate for name, rate in best.items()},
        )
    )
