"""`vllm-sim calibrate` from the metrics of a server of ours that keeps the time of a known table: it is found again."""

import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path

import httpx
import pytest

from tests.serving import NAME, Server, serve
from vllm_sim.replay.latency import LatencyTable, load_table
from vllm_sim.step_load import load_of

pytestmark = pytest.mark.slow

TRUE = LatencyTable(base_ms=30.0, prefill_request_ms=4.0, prefill_token_ms=0.04, decode_request_ms=1.5)
LOADS = list(product((2, 6, 16), (30, 900), (8, 25)))
"""Clients at a time, tokens of a prompt, and of an answer, all three up to twice as many."""
PHASE_S = 7.0
SECONDS = int(PHASE_S * len(LOADS))


async def load(server: Server) -> None:
    """Clients, in phases: each sends one request after the other, of prompts that nobody has sent."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async def work(client: httpx.AsyncClient, worker: int, phase: int, until: float) -> None:
        draw, (_, prompt, answer) = random.Random(f"{phase} {worker}"), LOADS[phase]
        while time.monotonic() < until:
            tokens = [128000, *draw.choices(range(1000, 90000), k=draw.randint(prompt // 2, 2 * prompt))]
            body = {"model": NAME, "prompt": tokens, "ignore_eos": True, "max_tokens": draw.randint(2, 2 * answer)}
            (await client.post("/v1/completions", json=body)).raise_for_status()

    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
        begun = time.monotonic()
        for phase, (workers, _, _) in enumerate(LOADS):
            until = begun + (phase + 1) * PHASE_S
            await asyncio.gather(*(work(client, worker, phase, until) for worker in range(workers)))


def test_the_table_of_a_paced_server_is_found_in_its_metrics(tmp_path: Path) -> None:
    known, found = tmp_path / "known.json", tmp_path / "found.json"
    known.write_text(json.dumps(asdict(TRUE)))
    pace = {"pace": 1.0, "latency_model": "table", "latency_file": str(known), "on_miss": "synthesize"}
    options = ("--max-model-len", "4096", "--max-num-seqs", "32", "--additional-config", json.dumps({"vllm_sim": pace}))
    with serve(tmp_path, [{"prompt": "a", "response": "b"}], *options) as server:
        command = [str(Path(sys.executable).with_name("vllm-sim")), "calibrate", f"{server.url}/metrics"]
        command += ["--seconds", str(SECONDS), "--out", str(found)]
        reading = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        asyncio.run(load(server))
        said = reading.communicate(timeout=60)[0]
    assert reading.returncode == 0
    print(said)
    table, held_out = load_table(found), json.loads(found.read_text())["held_out"]
    for requests, tokens, decodes in ((0, 0, 1), (0, 0, 16), (1, 500, 6), (2, 2000, 10)):
        parts = [(tokens // max(1, requests), 0, True)] * requests + [(1, 100, True)] * decodes
        step = load_of(parts)
        print(
            f"{requests} of {tokens} tokens, {decodes} decode: {table.step_ms(step):.1f} ms, {TRUE.step_ms(step):.1f}"
        )
        assert table.step_ms(step) == pytest.approx(TRUE.step_ms(step), rel=0.1)
    assert held_out["relative_error_p50"] < 0.1
    assert held_out["predicted_over_measured"] == pytest.approx(1, abs=0.1)
