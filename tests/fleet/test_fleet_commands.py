"""Fleets on the command line: rows, sweeps, and what is wrong is said in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vllm_sim
from tests.making import settings, small_trace
from vllm_sim.fleet.check import run_router_checks
from vllm_sim.fleet.names import ROUTERS
from vllm_sim.replay.config import config_of
from vllm_sim.replay.files import replay

USER = "tests.fleet.user_routers"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_replica_gives_today_s_bytes_whatever_the_router(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    replay(trace, tmp_path / "alone", settings())
    for router in ROUTERS:
        replay(trace, tmp_path / router, settings(replicas=1, router=router, router_params={"any": 1}))
        for name in ("summary", "requests", "sessions"):
            file = f"{name}.jsonl"
            assert (tmp_path / router / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


def test_rows_name_the_fleet_and_its_replicas_add_up(tmp_path: Path) -> None:
    trace, config = small_trace(tmp_path), settings(replicas=3, router="session", capacity_blocks=100)
    summary = replay(trace, tmp_path / "out", config)
    row, requests = summary.to_row(), lines(tmp_path / "out" / "requests.jsonl")
    assert (row["replicas"], row["router"], row["capacity_blocks"]) == (3, "session", 100)
    assert "router_params" not in row
    assert config_of(row, config.model) == config
    assert set(row["by_replica"]) == {"0", "1", "2"}
    for number, one in row["by_replica"].items():
        own = [request for request in requests if request["replica"] == int(number)]
        assert one["capacity_blocks"] == 33
        assert (one["requests"], one["hit_tokens"]) == (len(own), sum(request["hit_tokens"] for request in own))
    for session in {request["session_id"] for request in requests}:
        assert len({request["replica"] for request in requests if request["session_id"] == session}) == 1


def test_a_sweep_takes_lists_of_replicas_and_routers_and_runs_one_replica_once(tmp_path: Path) -> None:
    trace, out = small_trace(tmp_path), tmp_path / "rows.jsonl"
    words = [
        "--block-size",
        "4",
        "--capacities",
        "60",
        "--replicas",
        "1,3",
        "--routers",
        "round_robin,session,kv_events",
    ]
    params = ["--router-params", '{"kv_events": {"delay_ms": 200}}', "--jobs", "1"]
    found = vllm_sim("sweep", trace, "--out", out, *words, *params)
    assert found.returncode == 0, found.stderr
    assert "kv_events" in found.stdout
    rows = lines(out)
    fleets = [(row.get("replicas", 1), row.get("router"), row.get("router_params")) for row in rows]
    assert fleets == [
        (1, None, None),
        (3, "round_robin", None),
        (3, "session", None),
        (3, "kv_events", {"delay_ms": 200}),
    ]
    assert rows[2]["hit_tokens"] > rows[1]["hit_tokens"]
    single = replay(trace, tmp_path / "one", settings(capacity_blocks=60, replicas=3, router="session"))
    assert rows[2]["hit_tokens"] == single.hit_tokens
    again = vllm_sim("sweep", trace, "--out", out, *words, *params)
    assert again.returncode == 0
    assert lines(out) == rows


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--replicas", "0"], "replicas is 0; allowed: 1 or more"),
        (["--replicas", "50"], "replicas is 50, more than the 40 blocks that they share"),
        (["--replicas", "2", "--router", "nearest"], "router is 'nearest'; allowed: round_robin"),
        (["--replicas", "2", "--router", f"{USER}:Astray"], "chose replica 7 for row 0; allowed: 0 to 1"),
        (
            ["--replicas", "2", "--router", "session", "--router-params", '{"k": 1}'],
            "router session has no parameter 'k'",
        ),
        (["--replicas", "2", "--router", "kv_events", "--policy", "belady"], "policy belady must know before the run"),
    ],
)
def test_a_fleet_that_cannot_be_is_one_error(tmp_path: Path, words: list[str], reason: str) -> None:
    trace = small_trace(tmp_path)
    options = ["--backend", "fast", "--block-size", "4", "--capacity-blocks", "40"]
    found = vllm_sim("replay", trace, "--out", tmp_path / "out", *options, *words)
    assert found.returncode == 1
    assert reason in found.stderr
    assert found.stderr.count("\n") == 1


def test_the_routers_are_listed_and_pass_their_checks() -> None:
    listed = json.loads(vllm_sim("router", "list", "--json").stdout)
    assert set(ROUTERS) <= set(listed)
    assert all(one["rule"] for one in listed.values())
    for name in (*ROUTERS, f"{USER}:Shortest"):
        assert [result.error for result in run_router_checks(name)] == [None] * 3
    found = json.loads(vllm_sim("router", "check", "cost", "--json").stdout)
    assert found["cost"]["hit_blocks"] > found["cost"]["round_robin_hit_blocks"]


@pytest.mark.parametrize(
    ("name", "claim"),
    [("Astray", "Every request"), ("Moody", "The same traffic")],
)
def test_a_router_that_breaks_a_rule_fails_its_check(name: str, claim: str) -> None:
    found = vllm_sim("router", "check", f"{USER}:{name}")
    assert found.returncode == 1
    assert any(line.startswith("FAILED") and claim in line for line in found.stdout.splitlines())
