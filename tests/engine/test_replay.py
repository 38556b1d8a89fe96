"""The engine backend in virtual time, against the backends that know no schedule, and against arithmetic."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import MODEL
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.names import LITERATURE
from vllm_sim.models.work import dense_work
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.replay.latency import DEVICES, Roofline
from vllm_sim.replay.rows import MISSES
from vllm_sim.step_load import load_of
from vllm_sim.trace.record import TraceError

BLOCK = 8
SHARED_FIELDS = ("status", "prompt_tokens", "output_tokens", "hit_tokens", "hit_generated_tokens", *MISSES)
ATTENTIVE = "tests.eviction.user_policies:Attentive"
ROW_FILES = ("requests.jsonl", "summary.jsonl", "evictions.jsonl", "blocks.jsonl", "sessions.jsonl")
SHARED_FIELDS += ("evicted_by", "blocks_allocated")
SMALL: dict[str, Any] = {
    "capacity_blocks": 10,
    "block_size": BLOCK,
    "max_model_len": 1000,
    "model_positions": 131072,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 512,
}
"""A Setup of ten blocks."""


def conversations(sessions: int, turns: int, seed: int) -> list[dict[str, Any]]:
    """Sessions of growing histories that take turns at random, as token ids; all share a first part."""
    draw = random.Random(seed)
    system = [128000, *draw.choices(range(1000), k=19)]
    retention = {"action_type": "session", "payload": {"retention_priority": 60, "retention_ms": 100}}
    histories = {session: list(system) for session in range(sessions)}
    turn_of = dict.fromkeys(histories, 0)
    rows = []
    while histories:
        session = draw.choice(sorted(histories))
        prompt = histories[session] + draw.choices(range(1000), k=draw.randint(1, 30))
        response = [*draw.choices(range(1000), k=draw.randint(0, 40)), 128009]
        think = {"think_time_ms": 50.0} if turn_of[session] else {}
        rows.append(
            {
                "prompt_token_ids": prompt,
                "response_token_ids": response,
                "session_id": session,
                "turn": turn_of[session],
                "workload": "even" if session % 2 == 0 else "odd",
                "timestamp": 10.0 * len(rows),
                "session_end": turn_of[session] == turns - 1,
                **({"next_turn_ms": 7 * session} if session % 2 else {"kv_hints": {"actions": [retention]}}),
                **think,
            }
        )
        turn_of[session] += 1
        histories[session] = prompt + response
        if turn_of[session] == turns:
            del histories[session]
    return rows


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    path = tmp_path_factory.mktemp("replay") / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(12, 5, seed=1)))
    return path


def settings(**values: Any) -> RunConfig:
    return RunConfig(model=str(MODEL), **{"block_size": BLOCK, "capacity_blocks": 60} | values)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return lines(folder / "requests.jsonl")


@pytest.mark.parametrize(
    ("policy", "capacity"),
    [
        ("lru", 60),
        ("lru", 25),
        ("arc", 60),
        ("belady", 40),
        ("workload_aware", 40),
        ("hybrid", 40),
        (ATTENTIVE, 40),
        *(pytest.param(name, 40, marks=pytest.mark.slow) for name in LITERATURE),
    ],
)
def test_engine_at_concurrency_one_equals_the_backends_without_a_schedule(
    trace: Path, tmp_path: Path, policy: str, capacity: int
) -> None:
    found = {}
    for backend in ("engine", "blockpool", "fast"):
        options = {"backend": backend, "policy": policy, "capacity_blocks": capacity, "concurrency": 1}
        summary = replay(trace, tmp_path / backend, settings(**options))
        found[backend] = [{name: row[name] for name in SHARED_FIELDS} for row in rows_of(tmp_path / backend)]
        assert summary.evicted_blocks > 0
        assert summary.orphan_blocks == 0
    assert found["engine"] == found["blockpool"] == found["fast"]


def test_every_prompt_token_has_one_reason_and_evictions_add_up(trace: Path, tmp_path: Path) -> None:
    summary = replay(trace, tmp_path, settings(max_num_seqs=4))
    for row in rows_of(tmp_path):
        assert row["hit_tokens"] + sum(row[name] for name in MISSES) == row["prompt_tokens"]
    assert summary.hit_generated_tokens > 0
    assert summary.miss_evicted_tokens > 0
    evictions = lines(tmp_path / "evictions.jsonl")
    for by in ("workload", "tenant", "session"):
        assert sum(row["blocks"] for row in evictions if row["by"] == by) == summary.evicted_blocks > 0
    assert {row["owner"] for row in evictions if row["by"] == "workload"} == {"even", "odd"}
    assert {row["evictor"] for row in evictions if row["by"] == "session"} == {"other session"}
    blocks = {(row["kind"], row["clock"]): row for row in lines(tmp_path / "blocks.jsonl")}
    for row in blocks.values():
        assert sum(row["below"].values()) == row["blocks"]
    for clock in ("computed_tokens", "requests", "virtual_ms"):
        lifetime, idle = blocks["lifetime", clock], blocks["idle", clock]
        assert lifetime["blocks"] == idle["blocks"] == summary.evicted_blocks
        assert lifetime["max"] >= idle["max"] > 0
        assert lifetime["mean"] >= idle["mean"]
    sessions = lines(tmp_path / "sessions.jsonl")
    assert len(sessions) == summary.sessions
    assert sum(row["hit_tokens"] for row in sessions) == summary.hit_tokens


def test_two_runs_write_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    for run in ("first", "second"):
        replay(trace, tmp_path / run, settings(max_num_seqs=4))
    for name in ROW_FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_unlimited_cache_evicts_nothing_and_a_smaller_one_hits_less(trace: Path, tmp_path: Path) -> None:
    unlimited = replay(trace, tmp_path / "unlimited", settings(capacity_blocks=None))
    small = replay(trace, tmp_path / "small", settings(max_num_seqs=4))
    assert unlimited.evicted_blocks == unlimited.miss_evicted_tokens == 0
    assert small.hit_tokens < unlimited.hit_tokens
    assert small.working_set_blocks == unlimited.working_set_blocks


def test_next_turn_arrives_think_time_after_the_answer(trace: Path, tmp_path: Path) -> None:
    replay(trace, tmp_path, settings(max_num_seqs=4))
    last_end: dict[int, float] = {}
    for row in rows_of(tmp_path):
        if row["session_id"] in last_end:
            assert row["arrival_ms"] == pytest.approx(last_end[row["session_id"]] + 50, abs=0.002)
        assert row["arrival_ms"] <= row["first_scheduled_ms"] < row["first_token_ms"] <= row["end_ms"]
        last_end[row["session_id"]] = row["end_ms"]


def test_preempted_requests_count_their_readmissions_apart(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    rows = [
        {"prompt_token_ids": [128000, i, *range(20)], "output_length": 60, "finish_reason": "length", "timestamp": 0}
        for i in range(8)
    ]
    trace = tmp_path / "crowd.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = replay(trace, tmp_path / "out", settings(capacity_blocks=40))
    assert summary.preemptions > 0
    assert summary.readmission_prompt_tokens == 22 * summary.preemptions
    assert summary.readmission_hit_tokens > 0
    assert summary.output_tokens == 8 * 60
    for row in rows_of(tmp_path / "out"):
        assert row["hit_tokens"] + sum(row[name] for name in MISSES) == row["prompt_tokens"]


def test_request_that_cannot_fit_is_rejected_and_counted(trace: Path, tmp_path: Path) -> None:
    summary = replay(trace, tmp_path, settings(capacity_blocks=20, concurrency=1))
    rejected = [row for row in rows_of(tmp_path) if row["status"] == "rejected"]
    assert summary.rejected_requests == len(rejected) > 0
    assert all(row["hit_tokens"] == 0 and row["end_ms"] is None for row in rejected)


def test_a_row_of_hash_ids_says_that_generated_blocks_are_never_hit(trace: Path, tmp_path: Path) -> None:
    hashes = tmp_path / "hashes.jsonl"
    hashes.write_text(json.dumps({"hash_ids": [1, 2], "input_length": 20, "hash_block_size": 16, "output_length": 3}))
    options = {"capacity_blocks": 40, "concurrency": 1}
    assert replay(hashes, tmp_path / "out", settings(**options)).generated_blocks == "never hit"
    assert "generated_blocks" not in replay(trace, tmp_path / "out", settings(**options)).to_row()


def test_open_loop_without_timestamps_names_the_line(tmp_path: Path) -> None:
    trace = tmp_path / "untimed.jsonl"
    trace.write_text('{"prompt": "a", "response": "b", "timestamp": 1}\n{"prompt": "a", "response": "b"}\n')
    with pytest.raises(TraceError, match=r"line 2: no timestamp"):
        replay(trace, tmp_path / "out", settings())


def test_no_attribution_leaves_the_schedule_as_it_is(trace: Path, tmp_path: Path) -> None:
    replay(trace, tmp_path / "with", settings(max_num_seqs=4))
    replay(trace, tmp_path / "without", settings(max_num_seqs=4, attribution=False))
    times = ("arrival_ms", "first_scheduled_ms", "first_token_ms", "end_ms", "preemptions", "output_tokens")
    both = [[{name: row[name] for name in times} for row in rows_of(tmp_path / run)] for run in ("with", "without")]
    assert both[0] == both[1]


def test_roofline_of_a_prefill_and_a_decode_step_by_hand() -> None:
    config = {
        "hidden_size": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 2,
        "intermediate_size": 8,
        "vocab_size": 10,
    }
    model = Roofline(dense_work(config), "h100")
    # A layer: queries and output 4 x 4 each, keys and values 4 x 2 each, three matrices of 4 x 8: 144 weights.
    assert model.work.layer_weights == 2 * 144
    peak, bandwidth = DEVICES["h100"].tflops * 1e9 * 0.6, DEVICES["h100"].gb_per_s * 1e6 * 0.8
    # Prefill of 3 tokens: 1 + 2 + 3 pairs. Weights move at 2 bytes, keys and values of 3 tokens are written and read.
    operations = 2 * (288 * 3 + 40) + 4 * 2 * 2 * 2 * 6
    moved = 2 * (288 + 40) + 2 * 1 * 2 * 2 * 2 * 6
    assert model.step_ms(load_of([(3, 0, True)])) == max(operations / peak, moved / bandwidth)
    # Decode of one token after 100: 101 pairs; keys and values of 100 are read, of one written and read.
    operations = 2 * (288 + 40) + 4 * 2 * 2 * 2 * 101
    moved = 2 * (288 + 40) + 2 * 1 * 2 * 2 * 2 * 102
    assert model.step_ms(load_of([(1, 100, True)])) == max(operations / peak, moved / bandwidth)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.usefixtures("trace")
def test_clock_of_a_lone_request_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    row = {"prompt_token_ids": list(range(20)), "output_length": 5, "finish_reason": "length", "timestamp": 100}
    replay(write(tmp_path / "one.jsonl", [row]), tmp_path / "out", settings(device="l4"))
    (found,) = rows_of(tmp_path / "out")
    model = Roofline(dense_work(json.loads((MODEL / "config.json").read_text())), "l4")
    first = 100 + model.step_ms(load_of([(20, 0, True)]))
    assert (found["arrival_ms"], found["first_scheduled_ms"]) == (100, 100)
    assert found["first_token_ms"] == round(first, 3)
    assert found["end_ms"] == round(first + sum(model.step_ms(load_of([(1, 20 + i, True)])) for i in range(4)), 3)


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize("backend", ["engine", "blockpool", "fast"])
def test_largest_request_may_need_every_block(tmp_path: Path, backend: str) -> None:
    # 30 + 11 - 1 tokens are computed: five blocks of eight, to the last slot.
    row = {"prompt_token_ids": list(range(30)), "output_length": 11, "finish_reason": "length"}
    trace = write(tmp_path / "one.jsonl", [row])
    replay(trace, tmp_path / "out", settings(backend=backend, capacity_blocks=5, concurrency=1))
    (found,) = rows_of(tmp_path / "out")
    assert (found["status"], found["output_tokens"], found["blocks_allocated"]) == ("ok", 11, 5)
    replay(trace, tmp_path / "out", settings(backend=backend, capacity_blocks=4, concurrency=1))
    assert rows_of(tmp_path / "out")[0]["status"] == "rejected"


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize("backend", ["engine", "blockpool", "fast"])
def test_requests_of_other_salts_share_nothing(tmp_path: Path, backend: str) -> None:
    salts: list[dict[str, Any]] = [{}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"cache_salt": "a"}, {}]
    rows = [{"prompt_token_ids": list(range(20)), "output_length": 1, **salt} for salt in salts]
    replay(write(tmp_path / "salts.jsonl", rows), tmp_path / "out", settings(backend=backend, concurrency=1))
    assert [row["hit_tokens"] for row in rows_of(tmp_path / "out")] == [0, 0, 0, 16, 16]


def test_warmup_is_left_out_of_the_rates(trace: Path, tmp_path: Path) -> None:
    summary = replay(trace, tmp_path, settings(backend="fast", warmup=0.3))
    rows = rows_of(tmp_path)
    skipped = int(0.3 * len(rows))
    assert summary.warmup_requests == skipped > 0
    assert summary.prompt_tokens == sum(row["prompt_tokens"] for row in rows[skipped:])
    assert summary.token_hit_rate == round(sum(row["hit_tokens"] for row in rows[skipped:]) / summary.prompt_tokens, 6)


@pytest.mark.usefixtures("trace")
def test_rejected_rows_leave_nothing_in_the_executor(tmp_path: Path) -> None:
    from vllm_sim.engine.backends.driver import Arrival, Driver, RequestSettings, Setup, make_core
    from vllm_sim.trace.tokens import load_tokenised

    rows = [{"prompt_token_ids": list(range(n)), "output_length": 2} for n in (900, 20, 901)]
    path = write(tmp_path / "three.jsonl", rows)
    setup = Setup(**SMALL)
    tokens = load_tokenised(path, str(MODEL))
    driver = Driver(make_core(path, str(MODEL), setup), tokens, None, [RequestSettings()] * 3)
    outcomes = list(driver.run([Arrival(row, None, 0.0) for row in range(3)]))
    assert sorted(one.row for one in outcomes if one.rejected) == [0, 2]
    assert set(driver.executor.held_requests()) <= {"1"}


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(
    ("policy", "params", "is_known", "message"),
    [
        ("arc", {"share": 3}, True, "policy arc has no parameter 'share'; allowed: none"),
        ("slru", {"protected": 3}, True, "protected is 3; allowed"),
        ("belady", {}, True, "policy belady needs the future"),
        ("lru", {"share": 3}, True, "policy lru has no parameter 'share'; allowed: none"),
        ("arc", {}, False, "policy arc needs the rows' categories; allowed without them: lru"),
    ],
)
def test_a_wrong_policy_is_refused_before_there_is_an_engine(
    tmp_path: Path, policy: str, params: dict[str, Any], is_known: bool, message: str
) -> None:
    from vllm_sim.engine.backends.driver import RowFacts, Setup, make_core

    setup = Setup(**SMALL, policy=policy, policy_params=params)
    known = RowFacts(np.zeros(1, np.int64), [None], None) if is_known else None
    with pytest.raises(ValueError, match=message):
        make_core(tmp_path / "none.jsonl", str(tmp_path / "no_model"), setup, known)


BUSY = "while True: sum(range(10**6))"


@pytest.mark.slow
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_loaded_machine_writes_the_same_bytes(trace: Path, tmp_path: Path, async_scheduling: bool) -> None:
    command = [str(Path(sys.executable).with_name("vllm-sim")), "replay", str(trace), "--model", str(MODEL)]
    command += ["--block-size", str(BLOCK), "--capacity-blocks", "60", "--max-num-seqs", "4"]
    command += ["--async-scheduling"] * async_scheduling

    def run(name: str) -> float:
        timeline = ["--timeline", str(tmp_path / name / "timeline.json")]
        start = time.monotonic()
        subprocess.run([*command, "--out", str(tmp_path / name), *timeline], check=True, capture_output=True)
        return time.monotonic() - start

    idle_s = run("idle")
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        loaded_s = run("loaded")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert loaded_s > idle_s  # the load was felt
    for name in (*ROW_FILES, "timeline.json"):
        assert (tmp_path / "idle" / name).read_bytes() == (tmp_path / "loaded" / name).read_bytes()
