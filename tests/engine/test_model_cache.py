"""`vllm-sim model cache`: what it says is what vLLM computes, for one device and for a share of a layer."""

import json
from pathlib import Path
from typing import Any

import pytest
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.models import registry
from vllm.v1.engine.core import EngineCore

from tests.commands import vllm_sim
from tests.engine.conftest import MODEL
from vllm_sim import RunConfig, load, request_results, run
from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.models.known import write_config

GIB = 2**30


@pytest.fixture(autouse=True)
def near(environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())  # see test_models.py


def facts(name: str, *options: str) -> dict[str, Any]:
    if not Path(name).is_dir():
        write_config(name, Path(name))
    done = vllm_sim("model", "cache", name, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["llama-3.1-8b", pytest.param("gpt-oss-20b", marks=pytest.mark.slow)])
def test_tokens_and_requests_that_fit_are_those_of_vllms_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts(name, "--memory", "5GiB", "--max-model-len", "8192")
    trace = Path("trace.jsonl")
    trace.write_text(json.dumps({"prompt_token_ids": [1, 2], "response_token_ids": [3]}) + "\n")
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    arguments = {"skip_tokenizer_init": True, "max_model_len": 8192, "kv_cache_memory_bytes": 5 * GIB}
    core = EngineCore(EngineArgs(model=name, **arguments).create_engine_config(), ReplayExecutor, log_stats=False)
    cache, pool = core.vllm_config.cache_config, core.scheduler.kv_cache_manager.block_pool
    core.shutdown()
    assert found["kv_cache_size_tokens"] == cache.kv_cache_size_tokens
    assert found["kv_cache_max_concurrency"] == cache.kv_cache_max_concurrency
    assert found["blocks"] == pool.num_gpu_blocks - 1
    assert found["blocks"] == 5 * GIB // found["bytes_per_block"] - 1


def test_memory_of_a_device_is_what_weights_and_reserve_leave() -> None:
    found = facts("llama-3.1-8b", "--device", "h100", "--reserve", "3GiB", "--gpu-memory-utilization", "0.9")
    assert found["weight_bytes"] == 2 * 8_030_261_248  # parameters of the published model, 2 bytes each
    assert found["memory_bytes"] == int(80 * GIB * 0.9) - found["weight_bytes"] - 3 * GIB
    assert found["bytes_per_token"] == 2 * 32 * 8 * 128 * 2
    assert found["kv_cache_size_tokens"] == (found["memory_bytes"] // found["bytes_per_block"]) * 16


@pytest.mark.parametrize("name", ["llama-3.1-8b", pytest.param("gpt-oss-20b", marks=pytest.mark.slow)])
def test_devices_share_heads_and_weights(name: str) -> None:
    alone, shared = (facts(name, "--device", "h100", "--tensor-parallel", t) for t in ("1", "8"))
    assert [group["page_bytes"] for group in shared["groups"]] == [g["page_bytes"] // 8 for g in alone["groups"]]
    assert alone["weight_bytes"] / 8 < shared["weight_bytes"] < alone["weight_bytes"] / 7


def test_two_devices_hold_the_same_head_where_there_are_more_than_heads() -> None:
    assert (
        facts("llama-3.1-8b", "--tensor-parallel", "16")["groups"]
        == facts("llama-3.1-8b", "--tensor-parallel", "8")["groups"]
    )


@pytest.mark.slow
def test_a_hybrids_blocks_are_those_of_its_share() -> None:
    alone, shared = facts("granite-4-h-small"), facts("granite-4-h-small", "--tensor-parallel", "2")
    assert shared["bytes_per_block"] < alone["bytes_per_block"]


@pytest.mark.parametrize(
    "name", [pytest.param("gpt-oss-20b", marks=pytest.mark.slow), pytest.param("qwen3.6-27b", marks=pytest.mark.slow)]
)
def test_the_shortest_prompt_is_hit_and_one_token_less_is_not(name: str) -> None:
    shortest = facts(name)["shortest_prompt_hit_tokens"]
    rows = [range(start, start + length) for start, length in ((1000, shortest), (5000, shortest - 1))]
    trace = Path("trace.jsonl")
    trace.write_text(
        "".join(json.dumps({"prompt_token_ids": [*row], "response_token_ids": [7]}) + "\n" for row in (*rows, *rows))
    )
    config = RunConfig(model=name, concurrency=1, latency_model="zero")
    hits = [row.hit_tokens for row in request_results(run(load(trace, None), config).outcome)]
    assert hits == [0, 0, shortest - 1, 0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("nowhere",), "nowhere holds no config.json; allowed: a folder"),
        ((MODEL, "--device", "tpu"), "device is 'tpu'; allowed where memory is needed: h100, a100, l4"),
        ((MODEL, "--device", "laptop"), "device is 'laptop'; allowed where memory"),
        ((MODEL, "--memory", "40"), "size is '40'; allowed: bytes as in 512MiB"),
        ((MODEL, "--reserve", "1GiB"), "--reserve says what a device keeps besides the cache; allowed: with --device"),
        ((MODEL, "--tensor-parallel", "0"), "tensor-parallel is 0; allowed: 1 device or more"),
        ((MODEL, "--tensor-parallel", "3"), "must be divisible by tensor parallel size (3)"),
        ((MODEL, "--memory", "64MiB"), "KV cache is needed"),
        ((MODEL, "--device", "l4", "--weights", "30GiB"), "leave nothing for the cache; allowed: more devices"),
    ],
)
def test_what_cannot_be_found_is_one_clear_error(options: tuple[object, ...], reason: str) -> None:
    done = vllm_sim("model", "cache", *options)
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_names_groups_and_the_shortest_prompt() -> None:
    done = vllm_sim("model", "cache", MODEL, "--memory", "1GiB", "--max-model-len", "8192")
    assert "full_attention" in done.stdout
    assert "shortest prompt that can be hit again, tokens" in done.stdout
    assert "32,768" in done.stdout  # 1 GiB at 32 KiB a token
