"""`vllm-sim plan`: its answer meets the level, a smaller one does not, and nothing runs twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vllm_sim
from tests.engine.conftest import MODEL

GIB = 2**30


@pytest.fixture
def trace(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Six sessions of three turns that come back every second: their prefixes are hit where the cache keeps them."""
    rows, size = [], 256
    for turn in range(3):
        for session in range(6):
            ids = [session * 100 + place for place in range(10 + 4 * turn)]
            own = {"session_id": session, "turn": turn, "timestamp": 1000 * turn + 150 * session, "output_length": 4}
            rows.append({"hash_ids": ids, "hash_block_size": size, "input_length": size * len(ids), **own})
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(trace: Path, level: str, *options: object) -> tuple[object, ...]:
    fixed = ("--model", MODEL, "--device", "l4", "--reserve", "18GiB", "--max-replicas", "2")
    return "plan", trace, "--slo", level, "--out", trace.parent / "plan", *fixed, *options


def plan(trace: Path, level: str, *options: object) -> tuple[int, list[dict[str, Any]], str]:
    done = vllm_sim(*command(trace, level, "--json", *options))
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_the_plan_meets_the_level_and_what_is_smaller_does_not(trace: Path) -> None:
    code, (row,), said = plan(trace, "ttft_p90<=150ms", "--price-per-hour", "0.5")
    assert code == 0, said
    assert (row["met"], row["replicas"], row["cost_per_hour"]) == (True, 1, 0.5)
    assert row["ttft_ms"]["p90"] <= 150
    assert row["capacity_gib"] == pytest.approx(row["capacity_blocks"] * 16 * 32768 / GIB, abs=0.001)
    assert 0 < row["capacity_share"] < 1
    assert sum(row["bound_by"][name] for name in ("compute", "bandwidth", "links", "host")) == pytest.approx(
        1, abs=0.001
    )
    runs = (trace.parent / "plan" / "runs.jsonl").read_text()
    tried = {run["capacity_blocks"]: run for run in map(json.loads, runs.splitlines())}
    failed = [blocks for blocks, run in tried.items() if run["rejected_requests"] or run["ttft_ms_p90"] > 150]
    assert max(failed) < row["capacity_blocks"] <= max(failed) * 1.05 + 1
    assert (trace.parent / "plan" / "plan-1-lru-16.png").is_file()
    page = trace.parent / "page.html"
    drawn = vllm_sim("plot", trace.parent / "plan" / "runs.jsonl", "--out", trace.parent / "plots", "--html", page)
    assert drawn.returncode == 0, drawn.stderr
    assert all(str(run["ttft_ms_p90"]) in page.read_text() for run in tried.values())
    again = plan(trace, "ttft_p90<=150ms", "--price-per-hour", "0.5")[1]
    assert again == [row]
    assert (trace.parent / "plan" / "runs.jsonl").read_text() == runs
    table = vllm_sim(*command(trace, "ttft_p90<=150ms", "--price-per-hour", "0.5")).stdout
    assert f"{row['capacity_tokens']:,}" in table
    assert f"{row['goodput_requests_per_s']:.2f}" in table


def test_several_replicas_are_a_fleet_behind_each_router(trace: Path) -> None:
    fixed = ("--max-num-seqs", "1", "--load", "4", "--routers", "session,kv_events")
    code, rows, said = plan(trace, "ttft_p99<=400ms", *fixed)
    assert code == 0, said
    assert [(row["replicas"], row["router"]) for row in rows] == [(2, "session"), (2, "kv_events")]
    runs = [json.loads(line) for line in (trace.parent / "plan" / "runs.jsonl").read_text().splitlines()]
    for row in rows:
        blocks = 2 * row["capacity_blocks"]
        (run,) = (one for one in runs if (one.get("router"), one["capacity_blocks"]) == (row["router"], blocks))
        assert (run["replicas"], run["requests"]) == (2, 18)
        assert {one["capacity_blocks"] for one in run["by_replica"].values()} == {row["capacity_blocks"]}
        assert row["ttft_ms"]["p99"] == run["ttft_ms_p99"] <= 400
        assert (trace.parent / "plan" / f"plan-4-lru-16-{row['router']}.png").is_file()


def test_a_plan_with_cpu_memory_says_what_it_gave_and_cost(trace: Path) -> None:
    code, (row,), said = plan(trace, "ttft_p90<=150ms", "--kv-offloading-size", "1", "--offload-gbps", "20")
    assert code == 0, said
    tier = row["tier"]
    assert (tier["kv_offloading_size"], tier["offload_gbps"]) == (1.0, 20.0)
    runs = [json.loads(line) for line in (trace.parent / "plan" / "runs.jsonl").read_text().splitlines()]
    (ran,) = [run for run in runs if run["capacity_blocks"] == row["capacity_blocks"]]
    assert tier["external_hit_rate"] == pytest.approx(ran["external_hit_tokens"] / ran["prompt_tokens"], abs=1e-6)
    assert [tier[f"{name}_bytes"] for name in ("stored", "loaded", "unused")] == [
        ran[f"tier_{name}_bytes"] for name in ("stored", "loaded", "unused")
    ]
    assert tier["stored_bytes"] > 0


def test_a_level_that_cannot_be_met_says_what_it_would_take(trace: Path) -> None:
    code, (row,), _ = plan(trace, "ttft_p50<=1ms")
    assert (code, row["met"]) == (1, False)
    assert row["what_it_would_take"].startswith("a device ")
    assert "times as fast, or more of them for each layer: a request alone" in row["what_it_would_take"]


@pytest.mark.parametrize(
    ("level", "options", "reason"),
    [
        ("ttft<=1s", (), "service level has 'ttft<=1s'; allowed: ttft, tpot, e2e"),
        ("ttft_p99<=1s", ("--device", "tpu"), "device is 'tpu'; allowed where memory is needed: h100, a100, l4"),
        ("ttft_p99<=1s", ("--load", "0"), "'0' is not a list of loads above 0"),
        ("ttft_p99<=1s", ("--max-replicas", "0"), "--max-replicas is 0; allowed: 1 or more"),
        ("ttft_p99<=1s", ("--weights", "9GiB"), "leave nothing for the cache; allowed: more devices"),
        ("ttft_p99<=1s", ("--routers", "nearest"), "router is 'nearest'; allowed: round_robin"),
        ("ttft_p99<=1s", ("--kv-offloading-size", "0"), "kv_offloading_size is 0.0; allowed: more than 0"),
        ("ttft_p99<=1s", ("--offload-gbps", "9"), "offload_gbps is 9.0; allowed: with --kv-offloading-size GIB"),
        ("ttft_p99<=1s", ("--price-per-hour", "-1"), "--price-per-hour is -1.0; allowed: 0 or more"),
    ],
)
def test_bad_use_is_one_clear_error(trace: Path, level: str, options: tuple[str, ...], reason: str) -> None:
    code, rows, said = plan(trace, level, *options)
    assert code in (1, 2)
    assert rows == []
    assert reason in said
    assert "Traceback" not in said
