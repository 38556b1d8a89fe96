"""`vllm-sim sweep`, run as a user runs it: its rows, its table, its errors."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from tests.making import settings, small_trace
from tests.serving import MODEL
from tests.sweep.sweeping import SLOW, command, run, run_here, with_modules
from vllm_sim.sweep.grid import Grid, make_runs, sweep
from vllm_sim.sweep.results import read_rows

GRID = (
    "--policies",
    "lru,arc,belady",
    "--capacities",
    "10%,40,unlimited,all",
    "--block-sizes",
    "4,8",
    "--warmup",
    "0.1",
)


def test_two_sweeps_give_the_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    done = run_here(trace, one, *GRID, "--jobs", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert run(trace, two, *GRID, "--jobs", "2").returncode == 0
    assert one.read_bytes() == two.read_bytes()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 * (3 * 3 + 1)
    assert json.loads((tmp_path / "one.run.json").read_text())["runs"] == len(rows)


def test_the_table_has_a_column_a_policy_as_asked_and_the_mean_of_seeds(tmp_path: Path) -> None:
    trace, out = small_trace(tmp_path), tmp_path / "out.jsonl"
    options = ("--policies", "random,arc,lru", "--capacities", "20,all", "--seeds", "1,2", "--block-size", "4")
    options += ("--jobs", "1")
    lines = [line.split() for line in run_here(trace, out, *options).stdout.splitlines()]
    heads = [line for line in lines if line[:2] == ["B", "capacity"]]
    assert [" ".join(line[2:]) for line in heads] == ["tokens GiB of working set s of traffic random arc lru"]
    assert ["4", "all", "curve"] in lines
    rows = [row for row in map(json.loads, out.read_text().splitlines()) if row["capacity_blocks"] == 20]
    both = [
        sum(row["token_hit_rate"] for row in rows if row["policy"] == name) / 2 for name in ("random", "arc", "lru")
    ]
    (line,) = [line for line in lines if line[:2] == ["4", "20"]]
    assert (line[2], line[-3:]) == ("80", [f"{rate:.4f}" for rate in both])


def test_two_traces_of_one_file_name_have_a_table_each(tmp_path: Path) -> None:
    first, second = small_trace(tmp_path), tmp_path / "other" / "small.jsonl"
    second.parent.mkdir()
    second.write_bytes(b"".join(first.read_bytes().splitlines(keepends=True)[:30]))
    options = ("--policies", "lru", "--capacities", "20", "--block-size", "4", "--jobs", "1")
    done = vllm_sim("sweep", first, second, "--out", tmp_path / "out.jsonl", "--model", MODEL, *options)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    rates = {row["trace_sha256"]: row["token_hit_rate"] for row in read_rows(tmp_path / "out.jsonl")}
    assert len(set(rates.values())) == 2
    found = [line[-1] for line in lines if line[:3] == ["4", "20", "80"]]
    assert found == [f"{rate:.4f}" for rate in rates.values()]


def test_a_policy_that_was_edited_is_run_again(tmp_path: Path) -> None:
    trace, out, environment = small_trace(tmp_path), tmp_path / "out.jsonl", with_modules(tmp_path)
    line = command(trace, out, "--policies", "slowly:Slow,lru", "--capacities", "20", "--jobs", "1")
    for source, ran in ((SLOW, 2), (SLOW, 0), (SLOW + "\n\nADDED = 1\n", 1)):
        (tmp_path / "slowly.py").write_text(source)
        (tmp_path / "out.run.json").unlink(missing_ok=True)
        subprocess.run(line, env=environment, check=True, capture_output=True, timeout=120)
        assert json.loads((tmp_path / "out.run.json").read_text())["runs"] == ran


BROKEN = """from vllm_sim.eviction.policy import Policy


class Broken(Policy):
    def __init__(self, context, least: int = 0):
        super().__init__(context)
        self.least = least if context.blocks < 30 else 0

    def released(self, node):
        if self.least:
            raise KeyError(node)
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_error_in_a_policy_names_the_run_and_costs_no_finished_row(tmp_path: Path, jobs: str) -> None:
    trace, out = small_trace(tmp_path), tmp_path / "out.jsonl"
    (tmp_path / "broken.py").write_text(BROKEN)
    options = ("--policies", "broken:Broken", "--capacities", "40,20", "--block-size", "4", "--jobs", jobs)
    line = command(trace, out, *options, "--policy-params", '{"broken:Broken": {"least": 1}}')
    assert run_here(trace, out, "--capacities", "20", "--block-size", "4", "--jobs", "1").returncode == 0
    done = subprocess.run(line, env=with_modules(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (error,) = [text for text in done.stderr.splitlines() if text.startswith("vllm-sim: error:")]
    where = "policy broken:Broken, parameters {'least': 1}, capacity_blocks 20, block size 4, seed 0"
    assert error.startswith(f"vllm-sim: error: {where}, trace {trace}: KeyError: ")
    assert error.endswith(f"({tmp_path / 'broken.py'}, line 11)")
    assert "Traceback" not in done.stderr
    assert {row["policy"] for row in read_rows(out)} >= {"lru"} | ({"broken:Broken"} if jobs == "1" else set())


def test_error_in_a_policy_has_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    params = {"broken:Broken": {"least": 1}}
    runs = make_runs([small_trace(tmp_path)], settings(), Grid([*params], ["20"], [4], [0], params))
    with pytest.raises(ValueError, match="policy broken:Broken") as caught:
        sweep(runs, tmp_path / "out.jsonl", jobs=1)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.slow
def test_sweep_of_the_engine_heeds_every_option_that_replay_has(tmp_path: Path) -> None:
    trace, table = small_trace(tmp_path), tmp_path / "table.json"
    table.write_text('{"base_ms": 2, "prefill_request_ms": 1, "prefill_token_ms": 0.1, "decode_request_ms": 0.5}')
    options = ("--backend", "engine", "--block-size", "4", "--latency-model", "table", "--latency-file", str(table))
    options += ("--max-model-len", "128", "--async-scheduling", "--json", "--max-num-seqs", "8")
    swept = run(trace, tmp_path / "out.jsonl", *options, "--capacities", "60")
    assert swept.returncode == 0, swept.stderr
    line = command(trace, tmp_path / "run", *options, "--capacity-blocks", "60")
    line[1] = "replay"
    replayed = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert replayed.returncode == 0, replayed.stderr
    row = json.loads(swept.stdout)
    assert row.pop("key")
    assert row.pop("code")
    assert row.pop("capacity") == "60"
    assert row == json.loads(replayed.stdout)
    assert (row["max_model_len"], row["async_scheduling"], row["latency_model"]) == (128, True, "table")
    table.write_text(table.read_text().replace('"base_ms": 2', '"base_ms": 9'))
    assert run(trace, tmp_path / "out.jsonl", *options, "--capacities", "60").stdout.count("\n") == 1
    assert len(read_rows(tmp_path / "out.jsonl")) == 2


@pytest.mark.slow
def test_blockpool_and_fast_sweep_to_the_same_hits(tmp_path: Path) -> None:
    hits = []
    for backend in ("fast", "blockpool"):
        runs = make_runs([small_trace(tmp_path)], settings(backend=backend), Grid(["lru", "arc"], ["30%"], [4], [0]))
        hits.append([row["hit_tokens"] for row in sweep(runs, tmp_path / f"{backend}.jsonl", jobs=2)])
    assert hits[0] == hits[1]
    assert min(hits[0]) > 0


def test_processes_and_file_are_checked_before_a_trace_is_read(tmp_path: Path) -> None:
    for options, reason in ((("--jobs", "0"), "--jobs is 0"), (("--out", "rows.jsonl.gz"), "--out is rows.jsonl.gz")):
        assert reason in run_here(tmp_path / "none.jsonl", tmp_path / "out.jsonl", *options).stderr


def test_error_in_a_policy_that_is_made_is_found_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unmade.py").write_text(BROKEN.replace("super().__init__(context)", "raise KeyError(0)"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"policy unmade:Broken, parameters {}: KeyError: 0 \(.*unmade.py, line 6\)"):
        make_runs([small_trace(tmp_path)], settings(), Grid(["lru", "unmade:Broken"], ["20"], [4], [0]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--policies", "best"), "policy is 'best'"),
        (("--policies", "arc", "--capacities", "all"), "needs the policy lru"),
        (("--policies", "slru", "--policy-params", '{"slur": {}}'), "has 'slur'; allowed: slru"),
        (
            ("--policies", "slru,arc", "--policy-params", '{"slru": {}, "protected": 0.3}'),
            "has 'protected'; allowed: slru, arc",
        ),
        (("--policies", "slru", "--policy-params", '{"slru": 0.3}'), "has 0.3 for slru; allowed: an object"),
        (
            ("--policies", "lru,slru", "--policy-params", '{"slru": {"protected": 2}}'),
            "protected is 2; allowed: a share",
        ),
        (
            ("--policies", "opt,slru", "--policy-params", '{"slru": {"part": 2}}'),
            "no parameter 'part'; allowed: prot",
        ),
        (("--backend", "blockpool", "--capacities", "20,all"), "all needs the backend fast; --backend is blockpool"),
        (("--block-sizes", "4;8"), "not a list of whole numbers"),
        (("--block-size", "0"), "--block-sizes has 0; allowed: 1 or more"),
        (("--block-sizes", "16,-4"), "--block-sizes has -4; allowed: 1 or more"),
        (("--block-sizes", ","), "--block-sizes is empty; allowed: one value or more"),
        (("--policies", ""), "--policies is empty; allowed: one value or more"),
        (("--capacities", ","), "--capacities is empty; allowed: one value or more"),
        (("--seeds", ""), "--seeds is empty; allowed: one value or more"),
        (("--capacities", "20," + "9" * 20), f"capacity is '{'9' * 20}'; allowed: up to 2,147,483,647 blocks"),
        (("--capacities", "20,1KiB"), "capacity 1KiB fills no block of 16 tokens; allowed: one block or more"),
        (("--jobs", "0"), "--jobs is 0; allowed: 1 or more, or -1"),
        (("--jobs", "-2"), "--jobs is -2; allowed: 1 or more, or -1"),
        (("--ray", "auto"), "the module ray is not installed: pip install"),
    ],
)
def test_bad_use_is_one_clear_error(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    if "--ray" in options and has_ray():
        pytest.skip("Ray is installed")
    out = tmp_path / "out.jsonl"
    done = run_here(small_trace(tmp_path), out, *options)
    assert "--ray" in options or not out.exists()
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def has_ray() -> bool:
    try:
        import ray  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_ray(), reason="Ray is not installed: pip install 'vllm-sim[ray]'")
def test_sweep_on_a_ray_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert run(trace, here, *GRID).returncode == 0
    done = run(trace, there, *GRID, "--ray", "local")
    assert done.returncode == 0, done.stderr
    assert here.read_bytes() == there.read_bytes()
