"""The study of two tiers: its script, its rows and its plots, on a mix that is made here."""

import json
from pathlib import Path
from typing import Any

import pytest

from milestone3_code.study.tier_bounds import both, bounds_of
from milestone3_code.study.tiers import row_again
from report.check import check
from report.numbers.build import collect, typeset
from report.numbers.tiers import tiers_numbers
from tests.commands import script
from tests.milestone3.making import MODEL, ROOT, make_study
from vllm_sim.sweep.results import read_rows, run_file
from vllm_sim.trace.files import iter_records

PLAN = """
mixes = ["tiny"]

[engine]
device = "l4"
load = 1.0
seconds = 120
warmup_s = 40

[quick]
mixes = ["tiny"]
gpu = ["10%"]
cpu = ["none", "30%"]

[[grid]]
backend = "fast"
hash_traces = true
gpu = ["10%", "20%"]
cpu = ["none", "30%"]
policies = ["lru", "belady"]

[[grid]]
backend = "engine"
gpu = ["20%"]
cpu = ["none", "30%"]
"""
MORE = """
[[grid]]
backend = "engine"
gpu = ["20%"]
cpu = ["none", "30%"]
gbps = ["device", "0.01"]

[[grid]]
backend = "engine"
gpu = ["20%"]
cpu = ["30%"]
tier_policies = ["lru", "arc"]
thresholds = [1, 2]
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and rows of a run of the small plan."""
    return run_plan(tmp_path_factory.mktemp("tiers"), PLAN)


def run_plan(folder: Path, plan: str) -> tuple[Path, list[dict[str, Any]]]:
    _, study = make_study(folder)
    (folder / "tiers.toml").write_text(plan)
    given = ("--plan", folder / "tiers.toml", "--data", study.data, "--model", MODEL, "--jobs", 1)
    done = script(
        "milestone3_code/compare_tiers.py", *given, "--out", study.results, "--hash-trace", folder / "hashes.jsonl"
    )
    assert done.returncode == 0, done.stderr
    return folder, read_rows(study.results / "tiers.jsonl")


def test_every_run_of_the_plan_is_a_row_once(rows: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = rows
    assert len({row["key"] for row in found}) == len(found)
    fast = [row for row in found if row["backend"] == "fast"]
    assert len(fast) == 2 * 8  # of the mix and of the trace of hash ids
    engine = [row for row in found if row["backend"] == "engine"]
    assert [row["cpu"] for row in engine] == ["none", "30%"]
    assert [row.get("offload_gbps") for row in engine] == [None, 25.6]
    assert {(row["load"], row["warmup_s"]) for row in engine} == {(1.0, 40.0)}
    due_s = [record.timestamp / 1000 for _, record in iter_records(folder / "data" / engine[0]["trace"])]
    assert {row["warmup_requests"] for row in engine} == {sum(at < 40 for at in due_s)} != {0}
    assert {row["block_size"] for row in fast} == {16, 512}
    assert not any(row["quick"] or "by_turn" in row for row in found)


def test_no_two_tiers_hit_more_than_one_cache_of_both_sizes(rows: tuple[Path, list[dict[str, Any]]]) -> None:
    fast = [row for row in rows[1] if row["backend"] == "fast"]
    for row in fast:
        if row["policy"] == "lru":
            same = [other for other in fast if other["bound"]]
            (bound,) = [other for other in same if all(other[name] == row[name] for name in ("mix", "gpu", "cpu"))]
            last = (
                row["requests"] * row["block_size"]
            )  # of a prompt of whole blocks the last comes from CPU memory alone
            assert row["hit_tokens"] <= bound["hit_tokens"] + (last if row["cpu"] != "none" else 0)
            assert row["capacity_blocks"] <= bound["capacity_blocks"]
    assert any(row["external_hit_tokens"] for row in fast if "external_hit_tokens" in row)


def test_a_row_can_be_computed_again_from_its_fields(rows: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, found = rows
    chosen = [row for row in found if row["backend"] == "fast"][:3]
    result = check({folder / "tiers.jsonl": chosen}, [folder], MODEL, sample=3)
    assert (result.checked, result.differences) == (3, [])
    trace = folder / "data" / chosen[0]["trace"]
    assert row_again(chosen[1], trace, MODEL)["hit_tokens"] == chosen[1]["hit_tokens"]


def test_tiers_of_one_sum_have_the_bound_of_that_sum() -> None:
    sizes = {("10%", "20%"): True, ("20%", "10%"): False, ("20%", "none"): True}
    rows = [{"mix": "chat", "gpu": gpu, "cpu": cpu, "bound": bound} for (gpu, cpu), bound in sizes.items()]
    bounds = bounds_of(rows)
    assert [bounds["chat", both(row)] for row in rows] == [rows[0], rows[0], rows[2]]


def test_plots_are_drawn_from_the_rows(rows: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    done = script("milestone3_code/visualize_tiers.py", "--results", rows[0] / "results", "--out", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"tiers_{name}.{kind}" for name in ("sizes", "bandwidth") for kind in ("png", "pdf")
    }


def test_the_report_has_a_chapter_of_the_rows(rows: tuple[Path, list[dict[str, Any]]]) -> None:
    results = rows[0] / "results"
    run_file(results / "tiers.jsonl").write_text(json.dumps({"commit": "0" * 40}))
    numbers = tiers_numbers(results)
    assert {line[0] for line in numbers["sizes"]} == {"tiny", "hashes"}
    assert [line[:3] for line in numbers["policies"]] == [["tiny", "`lru`", "`lru`"]]
    others = collect(ROOT / "results", ROOT)
    (page,) = typeset(others | {"tiers": numbers}, ROOT, "html")
    assert "GPU memory against CPU memory" in page.decode()


@pytest.mark.slow
def test_bandwidths_thresholds_and_policies_of_cpu_memory_are_varied_each_by_itself(tmp_path: Path) -> None:
    folder, found = run_plan(tmp_path, PLAN + MORE)
    engine = [row for row in found if row["backend"] == "engine"]
    assert len(engine) == len({row["key"] for row in engine}) == 2 + 1 + 3
    assert {row["gbps"]: row["offload_gbps"] for row in engine if row["cpu"] != "none"} == {
        "device": 25.6,
        "0.01": 0.01,
    }
    run_file(folder / "results" / "tiers.jsonl").write_text(json.dumps({"commit": "0" * 40}))
    numbers = tiers_numbers(folder / "results")
    assert [line[1] for line in numbers["thresholds"]] == ["1", "2"]
    assert [line[2] for line in numbers["policies"]] == ["`lru`", "`arc`"]
    assert len(numbers["times"]) == 3


def test_what_is_missing_names_the_step_before(tmp_path: Path) -> None:
    done = script("milestone3_code/compare_tiers.py", "--data", tmp_path, "--out", tmp_path)
    assert (done.returncode, "first run milestone3_code/build_mixes.py" in done.stderr) == (1, True)
    done = script("milestone3_code/visualize_tiers.py", "--results", tmp_path)
    assert (done.returncode, "first run milestone3_code/compare_tiers.py" in done.stderr) == (1, True)


def test_a_plan_that_lacks_a_list_is_one_error(tmp_path: Path) -> None:
    _, study = make_study(tmp_path)
    (tmp_path / "tiers.toml").write_text(PLAN.replace('gpu = ["20%"]\n', "", 1))
    given = ("--plan", tmp_path / "tiers.toml", "--data", study.data, "--model", MODEL, "--out", study.results)
    done = script("milestone3_code/compare_tiers.py", *given)
    assert (done.returncode, "gpu is missing; allowed: a list that is not empty" in done.stderr) == (1, True)
