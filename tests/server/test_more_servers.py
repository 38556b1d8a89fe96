"""Servers of other shapes, each started for itself: part of `make test-all`."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import psutil
import pytest

from tests.conftest import ROWS
from tests.serving import MODEL, NAME, ROOT, arguments, environment, free_port, serve, write_trace
from vllm_sim.engine.failures import Failures
from vllm_sim.trace.tokens import prompt_digest

pytestmark = pytest.mark.slow

SIZES = ("--max-model-len", "512", "--max-num-seqs", "16", "--block-size", "8")
LOADS = [row for row in ROWS if str(row.get("prompt", "")).startswith("load ")]


@pytest.mark.parametrize(
    "options",
    [
        ("--api-server-count", "2"),
        ("--no-async-scheduling", "--num-gpu-blocks-override", "70", "--max-num-batched-tokens", "64"),
        ("--kv-cache-memory-bytes", "64M", "--no-enable-prefix-caching"),
    ],
    ids=lambda options: options[0],
)
def test_server_of_another_shape_gives_the_same_answers(tmp_path: Path, options: tuple[str, ...]) -> None:
    with serve(tmp_path, ROWS, *SIZES, *options) as server:
        prompts = [row["prompt"] for row in LOADS]
        reply = server.client().completions.create(model=NAME, prompt=prompts, max_tokens=50)
        assert [choice.text for choice in reply.choices] == [row["response"] for row in LOADS]


@pytest.mark.parametrize(("size", "method"), [(2, "spawn"), (4, "fork")])
def test_engines_in_parallel_all_serve_and_forked_ones_share_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, method: str
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", method)
    with serve(tmp_path, ROWS, *SIZES, "--data-parallel-size", str(size)) as server:
        reply = server.client().completions.create(model=NAME, prompt=[row["prompt"] for row in LOADS], max_tokens=50)
        assert [choice.text for choice in reply.choices] == [row["response"] for row in LOADS]
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        counters = [line for line in lines if line.startswith("vllm:request_success_total{")]
        ended = [line for line in counters if not line.endswith(" 0.0")]
        assert {re.search(r'engine="(\d+)"', line)[1] for line in ended} == {str(rank) for rank in range(size)}
        children = psutil.Process(server.pid).children(recursive=True)
        engines = [one for one in children if "EngineCore" in " ".join(one.cmdline())]
        memory = [one.memory_full_info() for one in engines]
        assert len(engines) == size
        assert (sum(one.pss for one in memory) < sum(one.rss for one in memory) / 2) == (method == "fork")


def test_the_option_alone_puts_the_engines_process_under_a_policy(tmp_path: Path) -> None:
    option = ("--additional-config", '{"vllm_sim": {"eviction": "arc"}}', "--num-gpu-blocks-override", "70")
    with serve(tmp_path, ROWS, *SIZES, *option) as server:
        prompts = [row["prompt"] for row in LOADS]
        reply = server.client().completions.create(model=NAME, prompt=prompts, max_tokens=50)
        assert [choice.text for choice in reply.choices] == [row["response"] for row in LOADS]
        assert "vllm_sim evicts by policy arc" in server.log.read_text()


def test_failures_reach_a_client_by_the_prompts_that_are_drawn(tmp_path: Path) -> None:
    rows = [{"prompt_token_ids": [9, *range(100 + row, 130 + row)], "output_length": 9} for row in range(40)]
    shares = {"reject": 0.25, "abort": 0.25, "delay": 0.2, "delay_ms": 700, "seed": 3}
    drawn = [Failures(shares).draw(digest(row["prompt_token_ids"])) for row in rows]
    assert set(drawn) == {"reject", "abort", "delay", None}
    option = ("--additional-config", json.dumps({"vllm_sim": {"failures": shares}}))
    with serve(tmp_path, rows, *SIZES, *option) as server:
        for row, kind in zip(rows, drawn, strict=True):
            begun = time.monotonic()
            body = {"model": NAME, "prompt": row["prompt_token_ids"], "max_tokens": 9}
            reply = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
            took = time.monotonic() - begun
            expected = {"reject": 503, "abort": 500}.get(kind or "", 200)
            assert reply.status_code == expected, (kind, reply.text)
            if expected == 200:
                assert reply.json()["usage"]["completion_tokens"] == 9
                assert kind is None or took >= 0.7
        again = Failures(shares)
        row = next(row for row, kind in zip(rows, drawn, strict=True) if kind == "abort")
        again.draw(digest(row["prompt_token_ids"]))
        retry = again.draw(digest(row["prompt_token_ids"]))
        body = {"model": NAME, "prompt": row["prompt_token_ids"], "max_tokens": 9, "stream": True}
        text = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).text
        assert ('"error"' in text) == (retry in ("abort", "reject"))


def digest(tokens: list[int]) -> bytes:
    return prompt_digest(np.array(tokens, dtype=np.int32))


def test_synthesised_answers_run_to_max_tokens_and_are_deterministic(tmp_path: Path) -> None:
    option = ("--additional-config", '{"vllm_sim": {"on_miss": "synthesize"}}')
    with serve(tmp_path, ROWS, *SIZES, *option) as server:
        client = server.client()
        replies = [client.completions.create(model=NAME, prompt="unheard of", max_tokens=40) for _ in range(2)]
        assert [reply.usage.completion_tokens for reply in replies] == [40, 40]
        assert replies[0].choices[0].text == replies[1].choices[0].text
        assert client.completions.create(model=NAME, prompt="hehe").choices[0].text == "hahaha!"
        with pytest.raises(openai.BadRequestError):
            client.completions.create(model=NAME, prompt="hehe", logprobs=1)


@pytest.mark.parametrize(
    ("rows", "options", "reasons"),
    [
        ([{"prompt": "a"}], (), ("trace.jsonl, line 1", "response")),
        ([{"prompt": "a", "response": "half \ufffd"}], (), ("trace.jsonl, line 1", "detokeniser")),
        (ROWS[:1], ("--additional-config", '{"vllm_sim": {"on_mis": "x"}}'), ("on_mis", "on_miss")),
        (ROWS[:1], ("--enable-lora",), ("LoRA",)),
    ],
)
def test_bad_start_ends_with_one_clear_error(
    tmp_path: Path, rows: list[dict], options: tuple[str, ...], reasons: tuple[str, ...]
) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", rows)
    command = arguments(free_port(), *SIZES, *options)
    done = subprocess.run(
        command, env=environment(trace), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode != 0
    for reason in reasons:
        assert reason in done.stderr


CONFIGURE = """
import sys
from vllm.engine.arg_utils import EngineArgs
for skip in (True, False):
    EngineArgs(model=sys.argv[1], max_model_len=512, skip_tokenizer_init=skip).create_engine_config()
"""


def test_start_without_a_tokenizer_is_no_verdict_on_the_trace(tmp_path: Path) -> None:
    variables = environment(write_trace(tmp_path / "trace.jsonl", ROWS)) | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", CONFIGURE, str(MODEL)]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def test_a_start_that_fails_says_the_reason_last_in_one_line_and_nothing_of_vllms_code(tmp_path: Path) -> None:
    trace = tmp_path / "bad.jsonl"
    trace.write_text('{"prompt": 7, "response": "b"}\n')
    command, variables = arguments(free_port()), environment(trace)
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"vllm_sim: error: {trace}, line 1: prompt is 7; allowed: a text"
    assert "Traceback" not in done.stdout + done.stderr
