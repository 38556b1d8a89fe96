"""Several engines on one clock, against one engine and against caches that know no schedule."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engine.conftest import MODEL
from tests.engine.test_replay import BLOCK, SHARED_FIELDS, conversations, rows_of, settings
from vllm_sim.engine.backends import fleet as engine_fleets
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.fleet.router import Replica, RoutedRequest
from vllm_sim.fleet.routers.kv_events import KVEventsRouter
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.replay.ladder import STEPS, explain
from vllm_sim.replay.run import load

FLEET_FIELDS = ("replicas", "router", "by_replica", "replica")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    path = tmp_path_factory.mktemp("fleet") / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(10, 4, seed=2)))
    return path


def files_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a run without what only a fleet has."""
    names = ("summary", "requests", "sessions", "evictions", "blocks")
    found = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").open()] for name in names}
    return {
        name: [{k: v for k, v in row.items() if k not in FLEET_FIELDS} for row in rows] for name, rows in found.items()
    }


def as_a_fleet(config: RunConfig, router: str) -> RunConfig:
    """One replica after a router, which a configuration does not allow: there a router has no choice."""
    msgspec.structs.force_setattr(config, "router", router)
    return config


@pytest.mark.parametrize(
    "values",
    [
        {"max_num_seqs": 4, "speedup": 4.0},
        {"concurrency": 5, "capacity_blocks": 30},
        {"async_scheduling": True, "speedup": 4.0},
        {"latency_model": "zero", "policy": "hybrid"},
        {"speedup": 4.0, "capacity_blocks": 40, "kv_offloading_size": 0.01},
    ],
)
def test_one_engine_of_a_fleet_gives_the_rows_of_an_engine_alone(
    trace: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    replay(trace, tmp_path / "alone", settings(**values))
    replay(trace, tmp_path / "fleet", as_a_fleet(settings(**values), "least_loaded"))
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "fleet")


def test_each_engine_of_a_fleet_with_cpu_memory_serves_as_it_would_alone(trace: Path, tmp_path: Path) -> None:
    values = {"capacity_blocks": 40, "kv_offloading_size": 0.01, "offload_gbps": 0.05}
    fleet_values = values | {"replicas": 2, "capacity_blocks": 80, "router": "session"}
    summary, alone = replay(trace, tmp_path / "fleet", settings(**fleet_values)).to_row(), []
    lines, fleet = trace.read_text().splitlines(), rows_of(tmp_path / "fleet")
    assert sum(row["external_hit_tokens"] for row in fleet) > 0
    for replica in (0, 1):
        share = tmp_path / f"share{replica}.jsonl"
        share.write_text("".join(lines[row["row"]] + "\n" for row in fleet if row["replica"] == replica))
        alone.append(replay(share, tmp_path / share.stem, settings(**values)).to_row())
        own = [row for row in fleet if row["replica"] == replica]
        for one, other in zip(own, rows_of(tmp_path / share.stem), strict=True):
            same = one.keys() - {"row", "replica", "evicted_by", "evicted_by_row"}
            assert {name: one[name] for name in same} == {name: other[name] for name in same}
    for name in ("chunks", "stored_bytes", "loaded_bytes", "unused_bytes", "stall_ms"):
        assert summary[f"tier_{name}"] == pytest.approx(sum(one[f"tier_{name}"] for one in alone), abs=0.002)


@pytest.mark.parametrize("router", ["round_robin", "session"])
def test_engines_that_serve_one_request_at_a_time_hit_what_caches_hit(trace: Path, tmp_path: Path, router: str) -> None:
    found = {}
    for backend in ("engine", "blockpool", "fast"):
        values = {"backend": backend, "concurrency": 1, "replicas": 3, "router": router, "capacity_blocks": 90}
        summary = replay(trace, tmp_path / backend, settings(**values))
        names = (*SHARED_FIELDS, "replica")
        found[backend] = [{name: row[name] for name in names} for row in rows_of(tmp_path / backend)]
        assert sum(one.evicted_blocks for one in summary.by_replica.values()) == summary.evicted_blocks > 0
        assert sum(one.hit_tokens for one in summary.by_replica.values()) == summary.hit_tokens
    assert found["engine"] == found["blockpool"] == found["fast"]


def test_two_runs_of_a_fleet_give_the_same_bytes_and_sparse_steps_change_none(trace: Path, tmp_path: Path) -> None:
    shared = {"replicas": 3, "router": "cost", "router_params": {"delay_ms": 2.0}, "speedup": 4.0}
    for name in ("first", "second"):
        replay(trace, tmp_path / name, settings(**shared))
    shared = {"replicas": 3, "router": "least_loaded", "speedup": 4.0}
    for name, plain in (("sparse", False), ("plain", True)):
        replay(trace, tmp_path / name, settings(plain_steps=plain, **shared))
    for one, other in (("first", "second"), ("sparse", "plain")):
        for file in ("summary", "requests", "sessions", "evictions", "blocks"):
            name = f"{file}.jsonl"
            assert (tmp_path / one / name).read_bytes() == (tmp_path / other / name).read_bytes(), name
    assert len({row["replica"] for row in rows_of(tmp_path / "sparse")}) == 3


class Comparing(KVEventsRouter):
    """Takes turns, and notes whether its index and the engines' pools agree, and what is outstanding."""

    wrong = 0
    most = 0
    looked = 0

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        held = self.index.longest(request.blocks.tolist())
        for number, blocks in enumerate(held):
            pool = min(blocks, (request.prompt_tokens - 1) // BLOCK)
            Comparing.wrong += pool != replicas[number].hit_blocks(request)
            Comparing.looked += blocks > 0
        Comparing.most = max(Comparing.most, sum(one.outstanding_requests for one in replicas))
        return request.row % self.replicas


def test_events_say_what_the_pools_hold_when_no_step_is_under_way(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = engine_fleets.FleetDriver

    class Looking(make):  # type: ignore[misc,valid-type]
        """Grants a router of events the look that only an oracle has."""

        def __init__(self, drivers: Any, router: Any, describe: Any, names: Any, *more: Any):
            super().__init__(drivers, router, describe, names, *more)
            for replica, driver in zip(self._replicas, drivers, strict=True):
                replica.look = engine_fleets._looking(driver, names)

    monkeypatch.setattr(engine_fleets, "FleetDriver", Looking)
    router = f"{__name__}:Comparing"
    replay(trace, tmp_path, settings(replicas=2, router=router, concurrency=1, capacity_blocks=70))
    assert (Comparing.wrong, Comparing.most) == (0, 0)
    assert Comparing.looked > 10
    replay(trace, tmp_path, settings(replicas=2, router=router, concurrency=6, capacity_blocks=200))
    assert Comparing.wrong > 0  # what a step that is under way has cached is in the pool, and not published yet
    assert Comparing.most == 5


def test_the_ladder_of_engines_adds_up_and_charges_what_is_computed_again(trace: Path) -> None:
    loaded = load(trace, str(MODEL))
    config = settings(replicas=2, router="session", concurrency=8, capacity_blocks=70)
    ladder = explain(loaded, config)
    assert tuple(ladder.steps) == tuple(name for name in STEPS if name != "tier")
    schedule, parts = ladder.result.outcome.schedule, ladder.result.outcome.parts
    assert schedule is not None
    assert parts is not None
    again = ladder.result.outcome.prompt_tokens * schedule.preemptions - schedule.readmission_hit_tokens
    assert (ladder.steps["preemption"] == again).all()
    assert again.any()
    assert (sum(ladder.steps.values()) == ladder.result.outcome.prompt_tokens - parts.hit + again).all()
    assert ladder.steps["schedule"].any()
    alone = explain(loaded, settings(replicas=2, router="session", concurrency=1, capacity_blocks=70))
    assert not alone.steps["schedule"].any()
    assert not alone.steps["preemption"].any()


def test_a_closed_loop_counts_the_requests_of_the_whole_fleet(trace: Path, tmp_path: Path) -> None:
    summary = replay(trace, tmp_path, settings(replicas=2, concurrency=4, capacity_blocks=200))
    rows = rows_of(tmp_path)
    for row in rows:
        begun = row["arrival_ms"]
        assert sum(other["arrival_ms"] <= begun < other["end_ms"] for other in rows) <= 4
    assert summary.to_row()["router"] == "round_robin"


def test_what_a_fleet_of_engines_cannot_do_is_said(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="policy belady must know before the run"):
        replay(trace, tmp_path, settings(replicas=2, policy="belady"))
    with pytest.raises(ValueError, match="a timeline draws one engine, and replicas is 2"):
        replay(trace, tmp_path, settings(replicas=2), timeline=tmp_path / "t.json")
