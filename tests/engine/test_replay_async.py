"""Asynchronous scheduling in virtual time: a step is scheduled when the one before it begins."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import MODEL
from tests.engine.test_replay import ROW_FILES, conversations, rows_of, settings, write
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.models.work import dense_work
from vllm_sim.replay.files import replay
from vllm_sim.replay.latency import Roofline
from vllm_sim.replay.rows import MISSES
from vllm_sim.step_load import load_of


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    path = tmp_path_factory.mktemp("replay") / "conversations.jsonl"
    return write(path, conversations(12, 5, seed=1))


def test_every_row_gets_its_whole_answer_and_every_token_a_reason_again_and_again(trace: Path, tmp_path: Path) -> None:
    sync = replay(trace, tmp_path / "sync", settings(max_num_seqs=4))
    for run in ("first", "second"):
        summary = replay(trace, tmp_path / run, settings(max_num_seqs=4, async_scheduling=True))
    assert (sync.config.async_scheduling, summary.config.async_scheduling) == (False, True)
    for name in ROW_FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    for row, other in zip(rows_of(tmp_path / "first"), rows_of(tmp_path / "sync"), strict=True):
        assert row["output_tokens"] == other["output_tokens"]
        assert row["hit_tokens"] + sum(row[name] for name in MISSES) == row["prompt_tokens"]
        assert row["first_scheduled_ms"] < row["first_token_ms"] <= row["end_ms"]
    assert summary.evicted_blocks > 0
    assert summary.orphan_blocks == 0
    assert 0.5 < summary.hit_tokens / sync.hit_tokens < 2


def test_hits_equal_synchronous_ones_where_nothing_is_evicted_and_rows_come_one_by_one(
    trace: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"capacity_blocks": None, "concurrency": 1}
    replay(trace, tmp_path / "sync", settings(**options))
    replay(trace, tmp_path / "async", settings(**options, async_scheduling=True))
    names = ("hit_tokens", "hit_generated_tokens", *MISSES)
    both = [[[row[name] for name in names] for row in rows_of(tmp_path / run)] for run in ("sync", "async")]
    assert both[0] == both[1]


@pytest.mark.usefixtures("trace")
def test_what_arrives_during_a_step_is_scheduled_with_the_step_after_the_next(tmp_path: Path) -> None:
    model = Roofline(dense_work(json.loads((MODEL / "config.json").read_text())), "l4")
    prefill = model.step_ms(load_of([(20, 0, True)]))
    rows: list[dict[str, Any]] = [
        {"prompt_token_ids": list(range(20)), "output_length": 9, "finish_reason": "length", "timestamp": 0},
        {"prompt_token_ids": list(range(50, 60)), "output_length": 1, "timestamp": prefill / 2},
    ]
    trace = write(tmp_path / "two.jsonl", rows)
    first_decode = model.step_ms(load_of([(1, 20, True)]))
    replay(trace, tmp_path / "sync", settings(device="l4"))
    assert rows_of(tmp_path / "sync")[1]["first_scheduled_ms"] == round(prefill, 3)
    replay(trace, tmp_path / "async", settings(device="l4", async_scheduling=True))
    first, second = rows_of(tmp_path / "async")
    assert first["first_token_ms"] == round(prefill, 3)
    # Scheduled when the first decode begins, computed when it has ended.
    assert second["first_scheduled_ms"] == round(prefill, 3)
    both = model.step_ms(load_of([(1, 21, True), (10, 0, True)]))
    assert second["first_token_ms"] == pytest.approx(prefill + first_decode + both, abs=0.002)


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(
    ("async_scheduling", "more", "steps"),
    [
        (True, {}, 6),  # the end token comes as a surprise: the step after it is scheduled already
        (True, {"max_tokens": 99}, 6),
        (True, {"max_tokens": 5}, 5),
        (True, {"finish_reason": "length"}, 5),
        (False, {}, 5),
    ],
)
def test_no_scheduler_foresees_an_end_token(
    tmp_path: Path, async_scheduling: bool, more: dict[str, Any], steps: int
) -> None:
    row = {"prompt_token_ids": list(range(20)), "output_length": 5, "timestamp": 0, **more}
    timeline = tmp_path / "timeline.json"
    replay(
        write(tmp_path / "one.jsonl", [row]),
        tmp_path / "out",
        settings(async_scheduling=async_scheduling),
        timeline=timeline,
    )
    assert rows_of(tmp_path / "out")[0]["output_tokens"] == 5
    events = json.loads(timeline.read_text())["traceEvents"]
    assert sum("prefill_requests" in event["args"] for event in events) == steps


@pytest.mark.usefixtures("trace")
def test_a_row_that_fills_the_cache_ends_though_the_step_after_its_end_has_no_block(tmp_path: Path) -> None:
    # 30 + 11 - 1 tokens are five blocks of eight; the token after the end would be in a sixth.
    row = {"prompt_token_ids": list(range(30)), "output_length": 11}
    options: dict[str, Any] = {"capacity_blocks": 5, "concurrency": 1, "async_scheduling": True}
    replay(write(tmp_path / "two.jsonl", [row, row]), tmp_path / "out", settings(**options))
    assert [found["output_tokens"] for found in rows_of(tmp_path / "out")] == [11, 11]


@pytest.mark.usefixtures("trace")
def test_preempted_requests_are_answered_whole(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [
        {
            "prompt_token_ids": [i, *range(20)],
            "response_token_ids": draw.choices(range(1000), k=draw.randint(30, 60)),
            "finish_reason": "length",
            "timestamp": 0,
        }
        for i in range(8)
    ]
    summary = replay(
        write(tmp_path / "c.jsonl", rows), tmp_path / "out", settings(capacity_blocks=40, async_scheduling=True)
    )
    assert summary.preemptions > 0
    for row, given in zip(rows_of(tmp_path / "out"), rows, strict=True):
        assert row["output_tokens"] == len(given["response_token_ids"])


@pytest.mark.parametrize("policy", ["arc", "workload_aware", "belady"])
def test_policies_serve_a_batch_that_is_scheduled_ahead(trace: Path, tmp_path: Path, policy: str) -> None:
    summary = replay(trace, tmp_path, settings(max_num_seqs=4, async_scheduling=True, policy=policy))
    assert summary.evicted_blocks > 0
    assert summary.orphan_blocks == 0
    assert summary.to_row().get("policy_future") == ("order of rows" if policy == "belady" else None)
    for row in rows_of(tmp_path):
        assert row["hit_tokens"] + sum(row[name] for name in MISSES) == row["prompt_tokens"]
