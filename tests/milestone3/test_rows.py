"""Study two on a mix that is made here: what its rows say of each other, and of replays."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest

from milestone3_code.study.random_traffic import STREAMS, _Source, make_traffic
from milestone3_code.study.run import row_again, run_study
from milestone3_code.study.spread import over, sign_test
from milestone3_code.study.stationary import Traffic, write_stationary
from milestone3_code.study.study import GAPS, HASH, MATRIX, RUNS, SEEDS, Study
from milestone3_code.study.table import random_runs
from milestone3_code.study.view import View, capacity_of, hit_tokens, requests_of
from tests.milestone3.making import ROOT, make_study
from vllm_sim.eviction.chains import link
from vllm_sim.eviction.simulate import simulate
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.sweep.results import NEEDED, pick, read_rows
from vllm_sim.sweep.runner import PlannedRun, run_grid
from vllm_sim.trace.files import iter_records


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Study]:
    plan, study = make_study(tmp_path_factory.mktemp("mixed"))
    study = replace(study, hash_traces=(plan.parent / "hashes.jsonl",))
    run_study(plan, study, lambda text: None, ("cache",), jobs=1)
    return plan, study


@pytest.fixture(scope="module")
def rows(made) -> list[dict]:
    return read_rows(made[1].results / RUNS)


@pytest.fixture(scope="module")
def gaps(made) -> list[dict]:
    return read_rows(made[1].results / GAPS)


def test_a_row_of_the_mix_is_the_replay_with_the_same_settings(made, rows, tmp_path):
    study = made[1]
    for row in pick(rows, "mix", policy="hybrid"):
        settings = RunConfig(model=study.model, backend="fast", capacity_blocks=row["capacity_blocks"], policy="hybrid")
        summary = replay(study.trace("tiny"), tmp_path, settings).to_row()
        for name in ("trace_sha256", "hit_tokens", "token_hit_rate", "block_hit_rate", "evicted_blocks"):
            assert row[name] == summary[name]
        chat = summary["by_workload"]["chat"]
        for name in ("requests", "prompt_tokens", "hit_tokens", "token_hit_rate"):
            assert row["by_workload"]["chat"][name] == chat[name]


def test_unlimited_is_lru_and_what_is_lost_to_policy_and_capacity(rows):
    for row in pick(rows, "loss"):
        parts = row["lru_hit_rate"] + row["lost_to_policy"] + row["lost_to_capacity"]
        assert parts == pytest.approx(row["unlimited_hit_rate"], abs=3e-6)
        low, high = row["lost_to_policy_ci95"]
        assert low <= row["lost_to_policy"] <= high
    assert pick(rows, "loss")[0]["lost_to_policy"] > 0


def test_a_workload_alone_has_no_less_than_in_the_mix_under_the_optimum(rows):
    mix = pick(rows, "mix", policy="lru", capacity="10%")[0]
    for row in pick(rows, "alone", policy="lru", capacity="10%"):
        assert row["capacity_blocks"] == mix["capacity_blocks"]
        assert row["prompt_tokens"] == mix["by_workload"][row["workload"]]["prompt_tokens"]
        assert row["token_hit_rate"] >= mix["by_workload"][row["workload"]]["token_hit_rate"]


def test_the_optimum_closes_the_gap_and_lru_nothing_of_it(gaps):
    for mix, capacity in product(("tiny", "all"), ("10%", "30%", None)):
        found = pick(gaps, "gap", mix=mix, capacity=capacity)
        closed = {row["policy"]: (row["gap_closed"], row["compute_gap_closed"]) for row in found}
        assert (closed["belady"], closed["lru"]) == ((1.0, 1.0), (0.0, 0.0))


def test_a_gap_is_the_mean_over_draws_of_runs_of_each_draw(made, gaps):
    study = made[1]
    rates, closed = [], []
    for seed in range(2):
        view = View(study.trace("tiny", seed), study.model, 16)
        prompt = requests_of(view).requests.prompt_tokens.sum()
        hits = {
            policy: hit_tokens(view, policy, capacity_of("30%", view)).sum() for policy in ("lru", "hybrid", "belady")
        }
        rates.append(hits["hybrid"] / prompt)
        closed.append((hits["hybrid"] - hits["lru"]) / (hits["belady"] - hits["lru"]))
    (row,) = pick(gaps, "gap", mix="tiny", capacity="30%", policy="hybrid")
    assert closed[0] != closed[1]
    assert row["gap_closed_by_seed"] == pytest.approx(closed, abs=1e-4)
    assert row["token_hit_rate"] == pytest.approx(np.mean(rates), abs=1e-6)
    assert row["gap_closed_ci95"] == pytest.approx(list(over(closed)[1:]), abs=1e-6)
    whole = sum(part["gain_over_lru"] for part in row["by_workload"].values())
    assert (whole > 0) == (row["gain_over_lru"] > 0)


def test_the_mean_of_ten_and_its_interval_are_students_and_the_sign_test_is_exact():
    found = over([float(value) for value in range(10)])
    assert found == pytest.approx((4.5, 4.5 - 2.1658, 4.5 + 2.1658), abs=1e-3)
    assert sign_test([1.0] * 10) == pytest.approx(2 / 1024, abs=1e-6)
    assert sign_test([1.0] * 9 + [-1.0]) == pytest.approx(22 / 1024, abs=1e-6)
    assert sign_test([0.0, 1.0, -1.0]) == 1.0


def test_a_load_is_more_sessions_and_no_shorter_pauses(made, tmp_path):
    study = made[1]
    mix = [record for _, record in iter_records(study.trace("tiny"))]
    pauses = {record.id: record.think_time_ms for record in mix}
    counts = {}
    for load in (1.0, 2.0):
        write_stationary(study.trace("tiny"), study.model, Traffic(load, 100.0, 300.0), tmp_path / "out.jsonl")
        found = [record for _, record in iter_records(tmp_path / "out.jsonl")]
        counts[load] = len({record.session_id or record.id for record in found})
        times = [record.timestamp for record in found]
        assert times == sorted(times)
        assert max(times) < 100_000
        assert all(record.think_time_ms == pauses[record.id] for record in found)
    assert 1.5 < counts[2.0] / counts[1.0] < 2.7
    with pytest.raises(ValueError, match="allowed: up to 3"):
        write_stationary(study.trace("tiny"), study.model, Traffic(4.0, 100.0, 300.0), tmp_path / "out.jsonl")


def test_what_is_lost_to_others_is_what_was_missed_after_an_eviction(made, rows):
    for row in pick(read_rows(made[1].results / MATRIX), "lost"):
        missed = pick(rows, "mix", policy=row["policy"], capacity=row["capacity"])[0]["miss_evicted_tokens"]
        for table in row["lost_tokens"].values():
            assert sum(sum(line.values()) for line in table.values()) == missed


def test_isolation_costs_nothing_without_salts_and_most_with_one_for_each_session(rows):
    cost = {row["tenants"]: row["cost"] for row in pick(rows, "isolation", capacity="unlimited")}
    assert cost["none"] == 0.0
    assert 0 <= cost["tenant"] <= cost["session"]
    assert 0 < cost["2"] <= cost["session"]


def test_the_hybrid_asks_for_no_tags(rows):
    cells: dict = {}
    for row in pick(rows, "guarantee", workload=None):
        cells.setdefault((row["block_size"], row["capacity"]), set()).add(row["hits_sha256"])
    assert all(len(found) == 1 for found in cells.values())
    assert len(cells) == 6


def test_lru_needs_at_least_the_bytes_that_reach_the_rate_of_the_hybrid(made, rows):
    study = made[1]
    view = View(study.trace("tiny"), study.model, 16)
    for row in pick(rows, "bytes"):
        wanted = hit_tokens(view, "hybrid", row["capacity_blocks"]).sum()
        assert hit_tokens(view, "lru", row["lru_blocks"]).sum() >= wanted
        if row["lru_blocks"] > capacity_of("largest", view):
            assert hit_tokens(view, "lru", row["lru_blocks"] - 1).sum() < wanted
        assert row["saved_share"] == pytest.approx(row["saved_bytes"] / row["lru_bytes"], abs=1e-6)
        assert row["saved_bytes"] == row["lru_bytes"] - row["capacity_bytes"]


def test_the_burst_moves_calls_and_loses_none(made, rows):
    study = made[1]
    plain = View(study.trace("tiny"), study.model, 16)
    before, after = requests_of(plain), requests_of(plain._replace(burst=True))
    assert sorted(record.id for record in before.records) == sorted(record.id for record in after.records)
    assert before.chains.working_set == after.chains.working_set
    row = pick(rows, "windows", kind="burst")[0]
    assert row["burst_windows"]
    assert len(row["hit_rates"]) == 20


def test_halves_of_a_hash_trace_are_halves_of_its_time(made):
    found = read_rows(made[1].results / HASH)
    requests = {row["part"]: row["requests"] for row in found}
    assert requests == {"whole": 240, "first": 120, "second": 120}
    whole = pick(found, "hash_trace", part="whole", capacity="60")
    rates = {row["policy"]: row["block_hit_rate"] for row in whole}
    assert 0 < rates["lru"] <= rates["belady"] < 1
    assert all(row["raw_blocks"] and row["block_size"] == 512 for row in found)
    view = View(made[1].hash_traces[0], made[1].model, 512, raw_blocks=True)
    first, second = (requests_of(view._replace(part=part)).records for part in ("first", "second"))
    assert max(record.timestamp for record in first) < min(record.timestamp for record in second)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(made):
    plan, study = made
    paths = [study.results / name for name in (RUNS, MATRIX, HASH, SEEDS, GAPS)]
    whole = [path.read_text() for path in paths]
    lines = whole[0].splitlines(keepends=True)
    paths[0].write_text("".join(lines[:20]) + lines[20][:30])
    for path in (paths[1], paths[3]):
        path.write_text("")
    said: list[str] = []
    run_study(plan, study, said.append, ("cache",), jobs=2)
    assert [path.read_text() for path in paths] == whole
    assert any(text.startswith(f"{20 + whole[2].count(chr(10))} of ") for text in said)


def test_rows_of_other_code_are_dropped(made):
    plan, study = made
    path = study.results / RUNS
    whole = path.read_text()
    first, *rest = whole.splitlines(keepends=True)
    path.write_text(json.dumps(json.loads(first) | {"code": "old"}) + "\n" + "".join(rest))
    said: list[str] = []
    run_study(plan, study, said.append, ("cache",), jobs=1)
    assert "1 rows of another plan, trace or code are dropped" in said[0]
    assert path.read_text() == whole


def test_every_row_says_where_its_data_comes_from(made, rows):
    study = made[1]
    for row in rows:
        is_drawn = row["experiment"] == "random"
        assert row["data"]["source"] == ("drawn by seed" if is_drawn else "built")
        assert is_drawn or row["trace_sha256"] == study.sha256(row["mix"])
        assert row["quick"] is False


def test_a_stored_row_is_computed_again_from_its_key(made, rows, gaps):
    plan, study = made
    for row in [*rows[::9], *gaps[::9]]:
        again = row_again(row, study.trace("tiny"), study.model, plan, study.results)
        assert again == {name: value for name, value in row.items() if name not in ("key", "code")}
    assert row_again(rows[0] | {"key": "none"}, study.trace("tiny"), study.model, plan) is None


def test_random_traffic_is_a_seeds_own_and_has_every_policy_beside_lru(rows):
    found = pick(rows, "random")
    assert [(row["mix_seed"], row["capacities"]) for row in found] == [(seed, ["10%", "50%"]) for seed in (0, 1)]
    assert found[0]["trace_sha256"] != found[1]["trace_sha256"]
    requests = make_traffic(0, 16)
    chains = link(requests, 16)
    cells = random_runs(found)
    assert [(row["mix_seed"], row["capacity"]) for row in cells] == list(product((0, 1), ("10%", "50%")))
    for row, blocks in zip(cells, found[0]["blocks"], strict=False):
        rates = {
            policy: int(simulate(chains, policy, blocks).hit.sum()) * 16 / row["prompt_tokens"]
            for policy in ("lru", "arc", "hybrid", "belady")
        }
        assert row["lru_hit_rate"] == pytest.approx(rates["lru"], abs=1e-5)
        assert row["belady_hit_rate"] == pytest.approx(rates["belady"], abs=1e-5)
        for policy in ("arc", "hybrid"):
            assert row["gains_over_lru"][policy] == pytest.approx(rates[policy] - rates["lru"], abs=1e-5)
        assert max(row["gains_over_lru"].values()) <= rates["belady"] - rates["lru"] + 2e-5
    assert int(requests.prompt_tokens.sum()) == found[0]["prompt_tokens"]


def test_random_traffic_is_the_same_again_and_its_streams_reuse_what_they_should():
    one, two = make_traffic(0, 16), make_traffic(0, 16)
    assert (one.ids == two.ids).all()
    assert (np.diff(one.begins) * 16 == one.prompt_tokens).all()
    for stream in STREAMS:
        prompts = list(stream(_Source(1), 100.0, 9000.0))
        assert len(prompts) >= 5
        assert min(time for time, _ in prompts) >= 100
        lengths = [blocks.size for _, blocks in prompts]
        assert min(lengths) > 0
        distinct = len(np.unique(np.concatenate([blocks for _, blocks in prompts])))
        assert (distinct == sum(lengths)) == (stream.__name__ == "_one_off")


def test_two_runs_of_a_study_do_not_write_into_one_folder(tmp_path):
    rows = tmp_path / "rows.jsonl"
    plan, row = [PlannedRun("a", "", (rows,), 0, ())], dict.fromkeys(NEEDED)

    def run_again(point: int) -> list[dict]:
        with pytest.raises(ValueError, match=f"{rows} is being written by another run; allowed: one at a time"):
            run_grid(plan, lambda point: [row], "model", print, jobs=1)
        return [row]

    assert run_grid(plan, run_again, "model", print, jobs=1) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "rows.run.json"]


def sleep_long(point: object) -> list[dict]:
    print(os.getpid(), flush=True)
    time.sleep(600)
    return []


def test_workers_end_with_a_killed_run(tmp_path):
    code = (
        "from tests.milestone3.test_rows import sleep_long\n"
        "from vllm_sim.sweep.runner import PlannedRun, run_grid\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    rows = Path({str(tmp_path)!r}) / 'rows.jsonl'\n"
        "    plan = [PlannedRun(str(n), '', (rows,), n, (n,)) for n in range(2)]\n"
        "    run_grid(plan, sleep_long, 'model', print, jobs=2)\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "run.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        workers = [int(run.stdout.readline()) for _ in range(2)]
        run.kill()
    ends = time.monotonic() + 60
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < ends
        time.sleep(0.2)
