"""A server that keeps time against the replay of the same arrivals: times at a client, and in virtual time."""

import asyncio
import json
import random
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from tests.serving import MODEL, NAME, Server, serve, write_trace
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import request_results
from vllm_sim.replay.run import load, run

pytestmark = pytest.mark.slow

PACE = 8.0
REQUESTS = 32
SIZES = {"max_model_len": 2048, "max_num_seqs": 16, "block_size": 16}


def make_rows(gap_ms: float, seed: int) -> list[dict[str, Any]]:
    """Prompts that share nothing, arriving at random."""
    draw, now, rows = random.Random(seed), 0.0, []
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


def late_share(server: Server) -> float:
    """How much of the model's time the steps of a server that has ended were late by: the machine had other work."""
    found = re.search(r"steps of ([\d.]+) s by .* between them, ([\d.]+) s too late", server.log.read_text())
    assert found is not None
    return float(found[2]) / float(found[1])


def test_a_paced_server_agrees_with_the_replay_of_its_arrivals(tmp_path: Path) -> None:
    """At two loads. What TTFT has more at the client is the front end's: it is the same for all, and no share of it."""
    loads = [make_rows(gap_ms, seed) for seed, gap_ms in enumerate((1500.0, 500.0))]
    options = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    config = {"vllm_sim": {"pace": PACE, "device": "l4"}}
    with serve(tmp_path, [*loads[0], *loads[1]], *options, "--additional-config", json.dumps(config)) as server:
        measured = [measure(server, rows) for rows in loads]
    late = late_share(server)
    for number, (rows, client) in enumerate(zip(loads, measured, strict=True)):
        virtual = replayed(write_trace(tmp_path / f"{number}.jsonl", rows))
        front_end_ms = float(np.median(client.ttft - virtual.ttft))
        print(f"TPOT client {client.tpot.mean():.2f} ms, replay {virtual.tpot.mean():.2f}; late {late:.1%}")
        print(f"TTFT {client.ttft.mean():.1f} ms, replay {virtual.ttft.mean():.1f}, front end {front_end_ms:.1f}")
        assert client.tpot.mean() == pytest.approx(virtual.tpot.mean(), rel=0.03 + 3 * late)
        assert 0 < front_end_ms < 150  # on a busy machine
        assert client.ttft.mean() - front_end_ms == pytest.approx(virtual.ttft.mean(), rel=0.1 + 3 * late)
