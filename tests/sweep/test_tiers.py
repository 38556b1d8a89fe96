"""A sweep over sizes of CPU memory: every size beside none, each row as a replay has it, and what cannot be."""

import json
import re
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from tests.making import gib, settings, small_trace
from tests.serving import MODEL
from vllm_sim.plots.page import write_page
from vllm_sim.replay.config import config_of
from vllm_sim.replay.run import load
from vllm_sim.replay.run import run as run_loaded
from vllm_sim.sweep.grid import Grid, make_runs, sweep
from vllm_sim.sweep.results import read_rows

SIZES = (None, gib(12), gib(90))


def test_every_size_is_run_with_every_capacity_and_each_row_is_that_of_its_own_run(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    grid = Grid(["lru", "arc"], ["20", "40"], [4], kv_offloading_sizes=SIZES)
    rows = sweep(make_runs([trace], settings(), grid), tmp_path / "rows.jsonl", jobs=1)
    assert len({row["key"] for row in rows}) == len(rows) == 12
    for row in rows:
        again = run_loaded(load(trace, str(MODEL)), config_of(row, str(MODEL))).summary.to_row()
        assert {name: row[name] for name in again} == again
        assert ("tier_stored_bytes" in row) == (row.get("kv_offloading_size") is not None)
    by_size = {size: [row["hit_tokens"] for row in rows if row.get("kv_offloading_size") == size] for size in SIZES}
    assert sum(by_size[None]) <= sum(by_size[SIZES[1]]) < sum(by_size[SIZES[2]])


def test_the_command_takes_a_list_with_none_and_names_the_size_over_each_table(tmp_path: Path) -> None:
    trace, out = small_trace(tmp_path), tmp_path / "rows.jsonl"
    words = ("--model", MODEL, "--block-size", "4", "--capacities", "20", "--jobs", "1")
    done = vllm_sim("sweep", trace, "--out", out, *words, "--kv-offloading-size", f"none,{SIZES[2]}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("token hit rate: small.jsonl") == 2
    assert f"{SIZES[2]:g} GiB of CPU memory" in done.stdout
    assert [row.get("kv_offloading_size") for row in read_rows(out)] == [None, SIZES[2]]


def test_the_page_says_of_a_row_what_its_cpu_memory_gave_and_cost(tmp_path: Path) -> None:
    grid = Grid(["lru"], ["20"], [4], kv_offloading_sizes=SIZES[::2])
    rows = sweep(make_runs([small_trace(tmp_path)], settings(), grid), tmp_path / "rows.jsonl", jobs=1)
    write_page({Path("rows.jsonl"): rows}, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    data = json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    alone, tiered = data["rows"]
    assert "tier" not in alone
    share = rows[1]["external_hit_tokens"] / rows[1]["prompt_tokens"]
    copied = {name: round(rows[1][f"tier_{name}_bytes"] / 2**30, 3) for name in ("stored", "loaded")}
    assert tiered["tier"] == {"gib": SIZES[2], "share": share} | copied
    assert tiered["facets"]["kv offloading size"] == f"{SIZES[2]:g}"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--kv-offloading-size", "none,much"), "'none,much' is not a list of GiB, as in none,0.5,4"),
        (("--kv-offloading-sizes", "none,0"), "kv_offloading_size is 0.0; allowed: more than 0"),
        (("--kv-offloading-sizes", ","), "--kv-offloading-sizes is empty; allowed: one value or more"),
        (("--offload-block-size", "32"), "offload_block_size is 32; allowed: with --kv-offloading-size GIB"),
        (("--kv-offloading-size", "1", "--capacities", "all"), "kv_offloading_size with raw blocks or capacity all"),
        (
            ("--kv-offloading-size", "1", "--replicas", "1,2"),
            "kv_offloading_size with 2 replicas on backend fast; allowed: 1, or engine",
        ),
    ],
)
def test_bad_use_is_one_clear_error(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    out = tmp_path / "out.jsonl"
    done = vllm_sim("sweep", small_trace(tmp_path), "--out", out, "--model", MODEL, *options)
    assert done.returncode != 0
    assert not out.exists()
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", ["0.34.1+cpu", "0.330.0"])
def test_fast_refuses_cpu_memory_of_a_vllm_that_evicts_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    monkeypatch.setattr("vllm_sim.replay.run.found_version", lambda: version)
    with pytest.raises(ValueError, match=rf"and {re.escape(version)} is installed; allowed: backend engine"):
        run_loaded(loaded, settings(kv_offloading_size=gib(40)))
