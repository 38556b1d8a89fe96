"""Blocks in CPU memory by vLLM's own connector: hits of both tiers, reasons, bytes, and the time of copies."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_offload.base import ReqContext
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

from tests.engine.conftest import MODEL, Start, generate, prompts_of
from tests.engine.test_replay import BLOCK, ROW_FILES, SHARED_FIELDS, conversations, rows_of
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.models.known import write_config
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.replay.ladder import explain
from vllm_sim.replay.latency import LatencyTable
from vllm_sim.replay.rows import GROUP_MISSES, MISSES, TIER_MISSES, RunSummary
from vllm_sim.replay.run import load, tier_version
from vllm_sim.replay.run import run as run_loaded

Replay = Callable[..., tuple[RunSummary, list[dict[str, Any]]]]
TOKEN_BYTES = 16 * 2 * 8 * 64 * 2
"""Keys and values of Llama 3.2 1B in 16 bits: layers, both, heads, size of a head, bytes."""
ONE_MS = LatencyTable(1.0, 0.0, 0.0, 0.0)


@pytest.fixture
def run(environment: pytest.MonkeyPatch, tmp_path: Path) -> Replay:
    """Replays rows in turn, with a tier of 1 GiB by default: run(rows, **settings)."""
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")

    def replay_rows(rows: list[dict[str, Any]], **settings: Any) -> tuple[RunSummary, list[dict[str, Any]]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        trace = folder / "trace.jsonl"
        trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
        wanted = {"model": str(MODEL), "block_size": BLOCK, "kv_offloading_size": 1.0, "latency_model": "zero"}
        summary = replay(trace, folder / "run", RunConfig(**wanted | settings))
        return summary, rows_of(folder / "run")

    return replay_rows


def gib(blocks: int) -> float:
    return blocks * BLOCK * TOKEN_BYTES / 2**30


def rounds(sessions: int, tokens: int, times: int) -> list[dict[str, Any]]:
    """The same prompts in turn."""
    draw = random.Random(3)
    prompts = [draw.choices(range(1000), k=tokens) for _ in range(sessions)]
    return [{"prompt_token_ids": prompt, "response_token_ids": [5, 6, 7]} for prompt in prompts * times]


def test_the_tier_gives_back_what_the_gpu_has_lost(run: Replay) -> None:
    rows = rounds(sessions=6, tokens=1000, times=3)
    alone, _ = run(rows, capacity_blocks=260, concurrency=1, kv_offloading_size=None)
    summary, found = run(rows, capacity_blocks=260, concurrency=1)
    assert alone.hit_tokens == 0
    assert [row["external_hit_tokens"] for row in found] == [0] * 6 + [1000] * 12
    assert [row["hit_tokens"] for row in found] == [0] * 6 + [1000] * 12
    assert summary.tier_stored_bytes == 6 * 1000 * TOKEN_BYTES
    assert summary.tier_loaded_bytes == 12 * 1000 * TOKEN_BYTES
    assert summary.tier_unused_bytes == 0


def test_a_tier_that_is_smaller_than_a_cycle_stores_all_and_gives_nothing(run: Replay) -> None:
    rows = rounds(sessions=6, tokens=1000, times=3)
    summary, _ = run(rows, capacity_blocks=260, concurrency=1, kv_offloading_size=gib(3 * 125))
    assert summary.tier_chunks == 3 * 125
    assert summary.external_hit_tokens == summary.tier_loaded_bytes == 0
    assert summary.tier_stored_bytes == summary.tier_unused_bytes == 18 * 1000 * TOKEN_BYTES
    assert summary.tier_evicted_tokens == summary.miss_evicted_tokens > 0


def test_a_chunk_below_the_threshold_is_pending(run: Replay) -> None:
    rows = rounds(sessions=6, tokens=1000, times=3)
    summary, found = run(rows, capacity_blocks=260, concurrency=1, offload_store_threshold=2)
    assert [row["external_hit_tokens"] for row in found] == [0] * 12 + [1000] * 6
    assert summary.tier_pending_tokens == summary.miss_evicted_tokens == 6 * 992


def test_generated_tokens_and_parts_of_chunks_are_never_stored(run: Replay) -> None:
    first = [*range(100, 200)]
    other = [[*range(start, start + 200)] for start in (1000, 2000)]
    rows = [{"prompt_token_ids": first, "response_token_ids": [*range(300, 360)]}]
    rows += [{"prompt_token_ids": prompt, "response_token_ids": [5]} for prompt in other]
    rows += [{"prompt_token_ids": [*first, *range(300, 350)], "response_token_ids": [5]}]
    summary, found = run(rows, capacity_blocks=27, concurrency=1)
    assert found[-1]["external_hit_tokens"] == 96
    assert summary.tier_never_tokens == found[-1]["miss_evicted_tokens"] == 48
    summary, found = run(rows, capacity_blocks=27, concurrency=1, offload_block_size=32)
    assert found[-1]["external_hit_tokens"] == 96
    assert found[-1]["tier_never_tokens"] == 48
    rows[-1]["prompt_token_ids"] = [*first[:90], 7]
    summary, found = run(rows, capacity_blocks=27, concurrency=1, offload_block_size=32)
    assert [found[-1][name] for name in ("external_hit_tokens", "tier_never_tokens", "miss_cold_tokens")] == [64, 24, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"kv_offloading_size": gib(90)},
        {"kv_offloading_size": gib(60), "offload_policy": "arc", "latency_model": "roofline", "offload_gbps": 0.05},
        {"async_scheduling": True, "max_num_batched_tokens": 64, "max_num_seqs": 8, "latency_model": "roofline"},
        {"offload_block_size": 24, "offload_store_threshold": 2, "max_num_batched_tokens": 64, "max_num_seqs": 8},
    ],
)
def test_every_token_has_one_reason_and_the_evicted_have_one_in_the_tier(run: Replay, settings: dict[str, Any]) -> None:
    summary, found = run(conversations(12, 5, seed=1), capacity_blocks=60, **settings)
    for row in found:
        assert row["hit_tokens"] + sum(row[name] for name in MISSES) == row["prompt_tokens"]
        assert sum(row[name] for name in TIER_MISSES) == row["miss_evicted_tokens"]
        assert 0 <= row["external_hit_tokens"] <= row["hit_tokens"]
        assert row["hit_generated_tokens"] <= row["hit_tokens"]
    assert summary.external_hit_tokens > 0
    assert summary.hit_generated_tokens > 0
    assert 0 <= summary.tier_unused_bytes <= summary.tier_stored_bytes
    assert summary.slots_filled <= summary.slots_allocated
    if not summary.preemptions and "offload_block_size" not in settings:
        assert summary.tier_loaded_bytes == summary.external_hit_tokens * TOKEN_BYTES


def test_a_load_takes_its_bytes_over_the_bandwidth(run: Replay) -> None:
    rows = rounds(sessions=3, tokens=1000, times=2)
    last_ms = []
    for gb_per_s in (1.0, 2.0):
        options = {"latency_model": "table", "latency_table": ONE_MS, "offload_gbps": gb_per_s}
        _, found = run(rows, capacity_blocks=130, concurrency=1, **options)
        load_ms = [row["first_scheduled_ms"] - row["arrival_ms"] for row in found[3:]]
        assert min(load_ms) == pytest.approx(1000 * TOKEN_BYTES / (gb_per_s * 1e6), abs=0.01)
        last_ms.append(found[-1]["end_ms"])
    assert last_ms[0] > last_ms[1]


def test_blocks_that_are_needed_before_they_are_copied_stall_the_step(run: Replay) -> None:
    rows = rounds(sessions=3, tokens=1000, times=1)
    options = {"latency_model": "table", "latency_table": ONE_MS, "capacity_blocks": 130, "concurrency": 1}
    summary, found = run(rows, **options, offload_gbps=1.0)
    copy_ms = 1000 * TOKEN_BYTES / 1e6
    assert summary.tier_stall_ms > 0.8 * copy_ms  # the second prompt overwrites the first while it is copied
    assert found[1]["first_token_ms"] - found[1]["arrival_ms"] > 0.8 * copy_ms
    quick, _ = run(rows, **options, offload_gbps=1e6)
    assert quick.tier_stall_ms < 0.01


def test_two_runs_with_a_tier_write_the_same_bytes(run: Replay, tmp_path: Path) -> None:
    rows = conversations(8, 4, seed=2)
    for _ in range(2):
        run(rows, capacity_blocks=60, latency_model="roofline", kv_offloading_size=gib(90))
    for name in ROW_FILES:
        assert (tmp_path / "0" / "run" / name).read_bytes() == (tmp_path / "1" / "run" / name).read_bytes()


def test_requests_that_finish_in_one_step_leave_the_tier_in_the_order_of_their_rows(
    run: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[str] = []
    upstream = CPUOffloadingManager.on_request_finished

    def on_request_finished(self: CPUOffloadingManager, context: ReqContext) -> None:
        finished.append(context.req_id)
        upstream(self, context)

    monkeypatch.setattr(CPUOffloadingManager, "on_request_finished", on_request_finished)
    run(rounds(sessions=12, tokens=100, times=1), capacity_blocks=300, concurrency=12)
    assert finished == [str(row) for row in range(12)]  # as a set of names they come in another order


def test_a_tier_smaller_than_a_request_is_refused(run: Replay) -> None:
    with pytest.raises(ValueError, match="kv_offloading_size holds 100 chunks, and the longest prompt has 125"):
        run(rounds(1, 1000, 1), capacity_blocks=300, concurrency=1, kv_offloading_size=gib(100))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kv_offloading_size": 0.0}, "kv_offloading_size is 0.0; allowed: more than 0"),
        ({"kv_offloading_size": 1.0, "offload_gbps": 0.0}, "offload_gbps is 0.0; allowed: more than 0"),
        ({"offload_block_size": 32}, "offload_block_size is 32; allowed: with --kv-offloading-size GIB"),
        ({"kv_offloading_size": 1.0, "offload_store_threshold": 0}, "offload_store_threshold is 0; allowed: 1 or more"),
        ({"kv_offloading_size": 1.0, "backend": "blockpool"}, "backend blockpool knows no CPU memory; allowed: "),
        (
            {"kv_offloading_size": 1.0, "backend": "fast", "offload_policy": "arc"},
            "offload_policy is arc, which backend fast does not know; allowed: engine",
        ),
        (
            {"kv_offloading_size": 1.0, "backend": "fast", "offload_block_size": 32},
            "offload_block_size is 32, which backend fast does not know; allowed: engine",
        ),
    ],
)
def test_a_tier_that_cannot_be_is_one_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**{"model": str(MODEL)} | settings)


def test_a_server_answers_right_with_a_tier_and_finds_there_what_its_gpu_has_lost(start: Start) -> None:
    rows = rounds(sessions=4, tokens=400, times=1)
    llm = start(rows, kv_offloading_size=1.0, num_gpu_blocks_override=121, max_model_len=512)
    for _ in range(2):
        for row, prompt in zip(rows, prompts_of(llm), strict=True):
            assert generate(llm, [prompt])[0].token_ids[:3] == row["response_token_ids"]
    tier = llm.llm_engine.model_executor.tier
    assert tier.copies.stored_bytes == tier.copies.loaded_bytes == 1600 * TOKEN_BYTES


@pytest.mark.parametrize(
    ("transfer", "name"),
    [
        ({"kv_connector": "ExampleConnector"}, "the KV connector ExampleConnector"),
        (
            {
                "kv_connector": "OffloadingConnector",
                "kv_connector_extra_config": {"spec_name": "TieringOffloadingSpec"},
            },
            "the offloading specification TieringOffloadingSpec",
        ),
    ],
)
def test_another_connector_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: dict[str, Any], name: str
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"prompt": "hehe", "response": "hahaha!"}\n')
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    with pytest.raises(ValueError, match=f"vllm_sim cannot simulate {name}"):
        EngineArgs(
            model=str(MODEL), max_model_len=1024, kv_transfer_config={"kv_role": "kv_both"} | transfer
        ).create_engine_config()


@pytest.mark.parametrize("options", [{}, {"offload_policy": "arc"}])
def test_the_ladder_of_an_engine_has_the_tier_alone_and_then_the_schedule(
    environment: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]
) -> None:
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in conversations(8, 4, seed=1)))
    wanted = {"model": str(MODEL), "block_size": BLOCK, "capacity_blocks": 40, "kv_offloading_size": gib(60)} | options
    loaded = load(trace, str(MODEL))
    ladder = explain(loaded, RunConfig(**wanted, concurrency=4, offload_gbps=0.01))
    assert list(ladder.steps) == [
        "nothing_to_share", "block_rules", "capacity", "routing", "policy", "tier", "schedule", "preemption",
    ]  # fmt: skip
    alone = run_loaded(loaded, RunConfig(**wanted, concurrency=1, latency_model="zero")).outcome
    names = ("schedule", "preemption")
    expected = alone.prompt_tokens - alone.parts.hit
    assert (sum(step for name, step in ladder.steps.items() if name not in names) == expected).all()
    assert ladder.steps["schedule"].any()


OURS = "vllm_sim.eviction.policies.{}"


@pytest.mark.skipif(tier_version() != "0.32", reason="our lru counts a use as vLLM 0.32 does; see docs/limits.md")
def test_our_lru_by_the_plug_in_gives_what_upstreams_lru_gives_one_request_after_the_other(run: Replay) -> None:
    rows = conversations(12, 5, seed=1)
    found = {}
    for policy in ("lru", OURS.format("lru:Lru")):
        wanted = {"capacity_blocks": 60, "kv_offloading_size": gib(90), "offload_policy": policy}
        summary, requests = run(rows, **wanted, concurrency=1)
        assert summary.tier_evicted_tokens > 0
        found[policy] = [{name: row[name] for name in ("hit_tokens", *MISSES, *TIER_MISSES)} for row in requests]
    ours, upstreams = found.values()
    assert ours == upstreams


@pytest.mark.parametrize("policy", [OURS.format("arc:Arc"), 'slru{"protected": 0.3}', "s3fifo", "fifo"])
def test_a_policy_on_the_tier_keeps_it_full_and_every_reason_in_place(run: Replay, policy: str) -> None:
    options = {"capacity_blocks": 60, "kv_offloading_size": gib(90), "max_num_seqs": 4, "offload_gbps": 0.5}
    summary, found = run(
        conversations(12, 5, seed=1), **options, latency_model="roofline", offload_policy=policy, async_scheduling=True
    )
    assert summary.external_hit_tokens > 0
    assert summary.tier_evicted_tokens > 0
    for row in found:
        assert sum(row[name] for name in TIER_MISSES) == row["miss_evicted_tokens"]


@pytest.mark.parametrize(
    ("policy", "message"),
    [("lfru", "policy is 'lfru'; allowed: "), ("belady", "knows the future"), ("slru{", "are not JSON")],
)
def test_a_policy_that_the_tier_cannot_have_is_one_error(run: Replay, policy: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(rounds(1, 100, 1), capacity_blocks=60, concurrency=1, offload_policy=policy)


def test_a_tier_of_several_groups_of_layers_gives_back_all_of_them(run: Replay, tmp_path: Path) -> None:
    config = write_config("gpt-oss-20b", tmp_path / "model")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 4, "layer_types": None}))
    rows = rounds(sessions=4, tokens=1000, times=3)
    for settings in ({}, {"kv_offloading_size": 0.005}, {"max_num_seqs": 3, "concurrency": None}):
        options = {"model": str(config.parent), "block_size": 16, "capacity_blocks": 150, "concurrency": 1} | settings
        timed = [row | {"timestamp": 5.0 * place} for place, row in enumerate(rows)]
        _, found = run(timed, **options, latency_model="table", latency_table=ONE_MS)
        for row in found:
            parts = sum(row[name] for name in (*MISSES, *GROUP_MISSES))
            assert row["hit_tokens"] + parts == row["prompt_tokens"]
            assert sum(row[name] for name in TIER_MISSES) == row["miss_evicted_tokens"]
        if not settings:
            assert [row["external_hit_tokens"] for row in found[4:]] == [992] * 8


def with_copies(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some prompts of whole blocks, sent twice and extended, and answers of one token, between others."""
    draw = random.Random(5)
    made = []
    for row in rows:
        made.append(row)
        if draw.random() < 0.3:
            prompt = row["prompt_token_ids"]
            whole = prompt[: len(prompt) // BLOCK * BLOCK]
            made += [{"prompt_token_ids": whole, "response_token_ids": [5] * draw.randint(1, 3)}] * draw.randint(1, 2)
    return made


@pytest.mark.parametrize(
    ("capacity", "chunks", "options"),
    [
        (60, 90, {}),
        (40, 60, {}),
        (40, 200, {"policy": "arc"}),
        (40, 200, {"policy": "hybrid"}),
        (40, 200, {"policy": "priority"}),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_fast_equals_the_engine_one_request_after_the_other_with_copies_of_no_time(
    run: Replay, capacity: int, chunks: int, options: dict[str, Any], seed: int
) -> None:
    rows = with_copies(conversations(12, 5, seed=seed))
    rows = [row | {"retention_priority": 10 * (place % 8)} for place, row in enumerate(rows)]
    size = gib(chunks)
    found = {}
    for backend, more in (("engine", {"concurrency": 1}), ("fast", {})):
        wanted = {"capacity_blocks": capacity, "kv_offloading_size": size, "backend": backend} | options | more
        summary, requests = run(rows, **wanted)
        names = (*SHARED_FIELDS, "external_hit_tokens", *TIER_MISSES)
        totals = {name: value for name, value in summary.to_row().items() if name.startswith("tier_")}
        found[backend] = [totals, *({name: row[name] for name in names} for row in requests)]
        assert summary.external_hit_tokens > 0
    assert found["fast"] == found["engine"]
