"""A server that keeps time against the replay of the same arrivals: times at a client, and in virtual time."""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from tests.serving import MODEL, NAME, Server, serve
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import request_results
from vllm_sim.replay.run import load, run

pytestmark = pytest.mark.slow

PACE = 8.0
REQUESTS = 48
SIZES = {"max_model_len": 2048, "max_num_seqs": 16, "block_size": 16}


def make_rows(gap_ms: float) -> list[dict[str, Any]]:
    """Prompts that share nothing, arriving at random."""
    draw, now, rows = random.Random(4), 0.0, []
    for _ in range(REQUESTS):
        prompt = [128000, *draw.choices(range(1000, 90000), k=draw.randint(100, 800))]
        answer = draw.choices(range(1000, 90000), k=draw.randint(15, 40))
        rows.append({"prompt_token_ids": prompt, "response_token_ids": answer, "timestamp": now})
        rows[-1]["finish_reason"] = "length"
        now += draw.expovariate(1 / gap_ms)
    return rows


class Times(NamedTuple):
    """Of each request, in ms, [n]."""

    ttft: np.ndarray
    tpot: np.ndarray


async def send(client: httpx.AsyncClient, row: dict[str, Any], begin_s: float) -> tuple[float, float]:
    """Sends a request at its time; returns TTFT and TPOT, by the client's clock from just before it is sent."""
    await asyncio.sleep(max(0.0, begin_s + row["timestamp"] / 1000 - time.monotonic()))
    tokens = len(row["response_token_ids"])
    body = {"model": NAME, "prompt": row["prompt_token_ids"], "stream": True, "max_tokens": tokens}
    sent, seen = time.monotonic(), []
    async with client.stream("POST", "/v1/completions", json=body, timeout=300) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                seen.append(time.monotonic())
    return 1000 * (seen[0] - sent), 1000 * (seen[-1] - seen[0]) / (tokens - 1)


def measure(server: Server, rows: list[dict[str, Any]]) -> Times:
    async def run_all() -> list[tuple[float, float]]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=server.url, limits=limits) as client:
            await asyncio.gather(*(client.get("/health") for _ in range(REQUESTS)))  # connections are there
            begin_s = time.monotonic() + 0.5
            return await asyncio.gather(*(send(client, row, begin_s) for row in rows))

    return Times(*np.array(asyncio.run(run_all())).T)


def replayed(trace: Path) -> Times:
    """The same arrivals in virtual time: steps at their own length over times divided by PACE, then stretched by it."""
    loaded = load(trace, str(MODEL))
    config = RunConfig(model=str(MODEL), device="l4", speedup=PACE, async_scheduling=True, **SIZES)
    found = list(request_results(run(loaded, config).outcome))
    ttft = [PACE * (one.first_token_ms - one.arrival_ms) for one in found]
    tpot = [PACE * (one.end_ms - one.first_token_ms) / (one.output_tokens - 1) for one in found]
    return Times(np.array(ttft), np.array(tpot))


@pytest.mark.parametrize("gap_ms", [1500.0, 500.0])
def test_a_paced_server_agrees_with_the_replay_of_its_arrivals(tmp_path: Path, gap_ms: float) -> None:
    rows = make_rows(gap_ms)
    options = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    config = {"vllm_sim": {"pace": PACE, "device": "l4"}}
    with serve(tmp_path, rows, *options, "--additional-config", json.dumps(config)) as server:
        client = measure(server, rows)
        inside = [
            1000 * server.metric(f"vllm:{name}_seconds_sum") / REQUESTS
            for name in ("time_to_first_token", "request_queue_time", "request_prefill_time")
        ]
    virtual = replayed(tmp_path / "trace.jsonl")
    print(
        f"gap {gap_ms}: TTFT ms mean client {client.ttft.mean():.1f} replay {virtual.ttft.mean():.1f} server {inside}"
    )
    print(
        f"  median client-replay {np.median(client.ttft - virtual.ttft):.1f}, quantiles",
        np.quantile(client.ttft - virtual.ttft, [0, 0.1, 0.5, 0.9, 1]).round(1),
    )
    print(f"  TPOT ms mean client {client.tpot.mean():.2f} replay {virtual.tpot.mean():.2f}")
    print([line for line in server.log.read_text().splitlines() if "Pace:" in line])
    assert client.tpot.mean() == pytest.approx(virtual.tpot.mean(), rel=0.1)
