"""Study three on a mix that is made here: what its rows say of each other, of replays and of ladders."""

from pathlib import Path

import pytest

from milestone3_code.routing.numbers import is_served, over, pays, rows_at, spread, still_fresh
from milestone3_code.routing.plan import ENGINE, RUNS, points
from milestone3_code.routing.run import PLAN, row_again, run_study
from milestone3_code.routing.table import finding, section
from milestone3_code.study.build import build_mixes
from milestone3_code.study.study import Study
from tests.commands import script
from tests.milestone3.making import MODEL, make_study
from vllm_sim.fleet.names import ROUTERS
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.run import load, run
from vllm_sim.sweep.results import pick, read_rows

CHOSEN = ["round_robin", "session", "kv_events"]
TOML = """
mixes = ["tiny"]
seeds = 2

[quick]
mixes = ["tiny"]
seeds = 1
capacities = ["40%"]
replicas = [1, 4]
routers = ["round_robin", "session", "kv_events"]
policies = ["lru", "hybrid"]
delays_ms = [0]

[[grid]]
experiment = "fleet"
capacities = ["40%", "80%"]
replicas = [1, 4]
routers = ["round_robin", "session", "kv_events"]
policies = ["lru", "hybrid"]

[[grid]]
experiment = "ladder"
capacities = ["40%"]
routers = ["round_robin", "kv_events"]

[[grid]]
experiment = "stale"
capacities = ["40%"]
routers = ["kv_events"]
delays_ms = [0, 1000, 10000000]

[[grid]]
experiment = "fleet_engine"
quick = false
capacities = ["80%"]
replicas = [2]
seeds = 1
device = "l4"
load = 2.0
seconds = 120
warmup_s = 40
routers = ["round_robin", "kv_events"]
policies = ["lru", "hybrid"]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    folder = tmp_path_factory.mktemp("routing")
    _, two = make_study(folder)
    build_mixes([two.configs / "report_tiny.toml"], two.data, False, lambda text: None, seeds=2)
    plan = folder / "routing.toml"
    plan.write_text(TOML)
    hashes = (folder / "hashes.jsonl",)
    study = Study(configs=two.configs, data=two.data, model=MODEL, results=folder / "rows", mixes=("tiny",))
    study = Study(**{name: getattr(study, name) for name in study.__slots__} | {"hash_traces": hashes})
    run_study(plan, study, lambda text: None, ("cache",), jobs=1)
    return plan, study


@pytest.fixture(scope="module")
def rows(made: tuple[Path, Study]) -> list[dict]:
    return read_rows(made[1].results / RUNS)


def test_each_point_has_a_row_and_one_replica_has_no_router(rows: list[dict]) -> None:
    traces = [("tiny", 0), ("tiny", 1), ("hashes.jsonl", 0)]
    found = pick(rows, "fleet")
    assert list(dict.fromkeys((row["mix"], row["mix_seed"]) for row in found)) == traces
    assert len(found) == len(traces) * 2 * 2 * (1 + len(CHOSEN))
    assert all(("router" in row) == (row["replicas"] > 1) for row in found)
    assert len({row["key"] for row in rows}) == len(rows)


def test_a_row_is_the_replay_with_the_same_settings(made: tuple[Path, Study], rows: list[dict]) -> None:
    study = made[1]
    for row in rows_at(rows, "tiny", "40%", 4, "kv_events", "hybrid"):
        trace = study.data / row["trace"]
        config = RunConfig(
            model=MODEL,
            backend="fast",
            capacity_blocks=row["capacity_blocks"],
            policy="hybrid",
            replicas=4,
            router="kv_events",
        )
        summary = run(load(trace, MODEL), config).summary.to_row()
        for name in ("trace_sha256", "token_hit_rate", "rejected_requests", "router", "policy"):
            assert row[name] == summary[name]
        busiest = max(part["prompt_tokens"] - part["hit_tokens"] for part in summary["by_replica"].values())
        computed = summary["prompt_tokens"] - summary["hit_tokens"]
        assert row["imbalance"] == pytest.approx(busiest * 4 / computed, abs=1e-4)


def test_gains_are_differences_of_rows_and_the_optimum_bounds_lru(rows: list[dict]) -> None:
    for router in CHOSEN:
        own, base = (rows_at(rows, "tiny", "40%", 4, router, policy) for policy in ("hybrid", "lru"))
        plain = rows_at(rows, "tiny", "40%", 4, "round_robin", "hybrid")
        for one, lru, two in zip(own, base, plain, strict=True):
            assert one["gain_over_lru"] == pytest.approx(one["token_hit_rate"] - lru["token_hit_rate"], abs=2e-6)
            assert one["gain_over_round_robin"] == pytest.approx(
                one["token_hit_rate"] - two["token_hit_rate"], abs=2e-6
            )
            assert lru["optimum_hit_rate"] >= lru["token_hit_rate"]
            assert "optimum_hit_rate" not in one


def test_a_ladder_adds_up_to_what_was_not_found(rows: list[dict]) -> None:
    for row in pick(rows, "ladder"):
        assert sum(row["steps"].values()) + row["token_hit_rate"] == pytest.approx(1, abs=1e-5)
    routed, plain = (
        spread([row["steps"] for row in pick(rows, "ladder", mix="tiny", router=router)], "routing").mean
        for router in ("kv_events", "round_robin")
    )
    assert routed < plain


def test_events_that_come_too_late_cost_hits(rows: list[dict]) -> None:
    for row in pick(rows, "stale", delay_ms=0):
        assert row["gain_over_fresh"] == 0
    late = spread(pick(rows, "stale", mix="tiny", delay_ms=10000000), "gain_over_fresh")
    assert late.mean < -0.01
    assert still_fresh(rows, "kv_events")["tiny"] < 10000000


def test_seeds_draw_other_traffic_and_give_the_interval(rows: list[dict]) -> None:
    found = rows_at(rows, "tiny", "40%", 4, "session", "lru")
    assert len({row["trace_sha256"] for row in found}) == 2
    rates = [row["token_hit_rate"] for row in found]
    own = spread(found, "token_hit_rate")
    assert own.mean == pytest.approx(sum(rates) / 2)
    assert own.high - own.mean == pytest.approx(12.706 * abs(rates[0] - rates[1]) / 2)
    assert over([1.0]) == (1.0, 1.0, 1.0)
    given = rows_at(rows, "hashes.jsonl", "40%", 4, "session", "lru")
    assert list(spread(given, "token_hit_rate")[1:]) == given[0]["token_hit_rate_ci95"]


def test_cells_whose_replicas_cannot_hold_a_request_are_left_out(rows: list[dict]) -> None:
    assert pays(rows)
    rejecting = [{**row, "rejected_requests": 1} if row["mix_seed"] else row for row in rows]
    assert is_served(rows, "tiny", "80%", 4)
    assert not is_served(rejecting, "tiny", "80%", 4)
    assert {one.mix for one in pays(rejecting)} == {one.mix for one in pays(rows)} - {"tiny"}


def test_a_killed_run_goes_on_and_rows_are_computed_again(made: tuple[Path, Study], rows: list[dict]) -> None:
    plan, study = made
    path = study.results / RUNS
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:7]) + '{"key": "half')
    run_study(plan, study, lambda text: None, ("cache",), jobs=1)
    assert path.read_text() == whole
    for row in (rows[3], rows[-1]):
        again = row_again(
            row, study.trace(row["trace"]) if row["mix_seed"] == 0 else study.data / row["trace"], MODEL, plan
        )
        assert again == {name: value for name, value in row.items() if name not in ("key", "code")}
    assert row_again(rows[0] | {"key": "none"}, study.trace("tiny"), MODEL, plan) is None


def test_the_scripts_make_rows_and_plots_and_a_missing_mix_names_the_step_before(
    made: tuple[Path, Study], tmp_path: Path
) -> None:
    plan, study = made
    given = ("--plan", plan, "--data", study.data, "--model", MODEL, "--jobs", 1, "--out", tmp_path / "rows")
    done = script("milestone3_code/compare_routers.py", *given, "--quick")
    assert done.returncode == 0, done.stderr
    assert all(row["quick"] for row in read_rows(tmp_path / "rows" / RUNS))
    done = script("milestone3_code/visualize_routing.py", "--results", tmp_path / "rows", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.png")} == {"routing_pays", "routing_ladder", "routing_stale"}
    with pytest.raises(ValueError, match="rows of a quick run are no results"):
        section(tmp_path / "rows")
    done = script("milestone3_code/compare_routers.py", "--data", tmp_path)
    assert (done.returncode, "first run milestone3_code/build_mixes.py --seeds 4" in done.stderr) == (1, True)


def test_the_table_names_every_trace(made: tuple[Path, Study]) -> None:
    found = section(made[1].results)
    assert "| tiny |" in found
    assert "| hashes |" in found
    gains, where = finding(made[1].results)
    assert gains.startswith("in points of token hit rate: tiny +")
    assert "; hashes -" in gains
    assert where.startswith("4 replicas; `kv_events` in place of `round_robin`")


def test_the_plan_of_the_study_has_every_router_and_the_engine(tmp_path: Path) -> None:
    study = Study(configs=tmp_path, data=tmp_path, model=MODEL, results=tmp_path, mixes=("chat", "agents"))
    found = list(points(PLAN, study))
    assert {point.router for point in found} == set(ROUTERS)
    assert {point.mix_seed for point in found} == set(range(4))
    assert {point.timing.device for point in found if point.timing is not None} == {"l4"}


@pytest.mark.slow
def test_the_engine_gives_times_and_steps_of_schedule(made: tuple[Path, Study]) -> None:
    plan, study = made
    run_study(plan, study, lambda text: None, ("engine",), jobs=1)
    found = read_rows(study.results / ENGINE)
    assert [(row["router"], row["policy"]) for row in found] == [
        (router, policy) for router in ("round_robin", "kv_events") for policy in ("lru", "hybrid")
    ]
    for row in found:
        low, high = row["ttft_ms_p99_ci95"]
        assert 0 < low <= row["ttft_ms_p99"] <= high
        assert {"schedule", "preemption"} <= set(row["steps"])
    assert "| engine | router |" in section(study.results)
