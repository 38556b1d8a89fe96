"""`vllm-sim sweep`, run as a user runs it: it goes on after a kill, and the same runs give the same bytes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from tests.making import settings, small_trace
from tests.serving import MODEL
from vllm_sim.replay.rows import write_rows
from vllm_sim.sweep.capacity import capacity_blocks, kv_bytes_a_token
from vllm_sim.sweep.grid import Grid, make_runs, sweep
from vllm_sim.sweep.lock import only_writer
from vllm_sim.sweep.results import read_rows

BUSY = "{} is being written by another run; allowed: one at a time"
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
# A user's policy that is slow, so that a kill comes in the middle: plain Python, found through PYTHONPATH.
SLOW = """import time

from vllm_sim.eviction.policy import Policy


class Slow(Policy):
    def started(self, request, hittable):
        time.sleep(0.01)
"""


def command(trace: Path, out: Path, *options: str) -> list[str]:
    program = str(Path(sys.executable).with_name("vllm-sim"))
    return [program, "sweep", str(trace), "--out", str(out), "--model", str(MODEL), *options]


def run(trace: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(trace, out, *options), capture_output=True, text=True, timeout=300, check=False)


def run_here(trace: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In this process; with `--jobs 1` no other is started."""
    return vllm_sim(*command(trace, out, *options)[1:])


def with_modules(folder: Path) -> dict[str, str]:
    """The environment in which a folder's modules are found, besides those that are found here."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


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


def test_sweep_after_a_kill_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    trace, out, whole = small_trace(tmp_path), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    (tmp_path / "slowly.py").write_text(SLOW)
    environment = with_modules(tmp_path)
    options = ("--policies", "slowly:Slow", "--capacities", "20,30,40,50,60,70,80,90", "--jobs", "1")
    line = command(trace, out, *options, "--block-size", "4")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
    while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    beside = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert beside.returncode == 1
    assert beside.stderr.splitlines()[-1] == f"vllm-sim: error: {BUSY.format(out)}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = out.read_bytes().splitlines()
    assert 2 <= len(kept) < 8
    subprocess.run(line, env=environment, check=True, capture_output=True, timeout=120)
    assert json.loads((tmp_path / "out.run.json").read_text())["runs"] == 8 - len(kept)
    subprocess.run(command(trace, whole, *options, "--block-size", "4"), env=environment, check=True, timeout=120)
    assert out.read_bytes() == whole.read_bytes()


def test_a_policy_that_was_edited_is_run_again(tmp_path: Path) -> None:
    trace, out, environment = small_trace(tmp_path), tmp_path / "out.jsonl", with_modules(tmp_path)
    line = command(trace, out, "--policies", "slowly:Slow,lru", "--capacities", "20", "--jobs", "1")
    for source, ran in ((SLOW, 2), (SLOW, 0), (SLOW.replace("0.01", "0.02"), 1)):
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


def test_torn_last_line_is_cut_off_and_its_run_is_made_again(tmp_path: Path) -> None:
    runs = make_runs([small_trace(tmp_path)], settings(), Grid(["lru", "arc"], ["20", "40"], [4], [0]))
    out = tmp_path / "out.jsonl"
    sweep(runs, out, jobs=1)
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])
    ran: list[tuple[int, int]] = []
    rows = sweep(runs, out, jobs=1, progress=lambda done, total: ran.append((done, total)))
    assert ran == [(3, 4), (4, 4)]
    assert out.read_bytes() == whole
    assert [row["policy"] for row in rows] == ["lru", "arc", "lru", "arc"]


ROW = {"trace": "t", "trace_sha256": "0", "backend": "fast", "policy": "lru", "capacity_blocks": 1, "block_size": 4}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"my notes", "line 1: not the beginning of a row"),
        (b"my\nnotes", "line 1: not a JSON object"),
        (b"{", "line 1: not the beginning of a row"),
        (b"\x1f\x8b\xff\n\x00", "line 1: not a JSON object"),
        (b'{"trace": "mine.jsonl"}', "line 1: the row has no trace_sha256"),
        (b'{"prompt": "a"}\n{"prompt": "b"}', "line 1: the row has no trace"),
        (json.dumps(ROW).encode() + b"\n" + json.dumps(ROW).encode()[:20], "line 1: the row has no key"),
        (json.dumps(ROW | {"key": "0"}).encode() + b"\nmy notes", "line 2: not the beginning of a row"),
    ],
)
def test_file_that_holds_something_else_is_left_as_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    runs = make_runs([small_trace(tmp_path)], settings(), Grid(["lru"], ["20"], [4], [0]))
    out = tmp_path / "notes.txt"
    out.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{out}, {reason}")):
        sweep(runs, out, jobs=1)
    assert out.read_bytes() == content


@pytest.mark.parametrize("tail", ["", "{", '{"trace": "sma'])
def test_whatever_a_kill_leaves_of_a_row_is_cut_off(tmp_path: Path, tail: str) -> None:
    runs = make_runs([small_trace(tmp_path)], settings(), Grid(["lru"], ["20"], [4], [0]))
    out = tmp_path / "out.jsonl"
    sweep(runs, out, jobs=1)
    whole = out.read_text()
    out.write_text(whole + tail)
    sweep(runs, out, jobs=1)
    assert out.read_text() == whole


def test_a_trace_is_not_taken_for_the_file_of_rows(tmp_path: Path) -> None:
    trace, other = small_trace(tmp_path), tmp_path / "other.jsonl"
    trace.write_bytes(trace.read_bytes().rstrip(b"\n"))
    other.symlink_to(trace)
    content = trace.read_bytes()
    for out in (trace, other):
        done = run_here(trace, out)
        assert done.returncode == 1
        assert done.stderr == (
            f"vllm-sim: error: --out is {out}, which is the trace {trace}; allowed: a file of its own for the rows\n"
        )
    assert trace.read_bytes() == content


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_rows_are_not_packed(tmp_path: Path, suffix: str) -> None:
    runs = make_runs([small_trace(tmp_path)], settings(), Grid(["lru"], ["20"], [4], [0]))
    out = tmp_path / f"rows.jsonl{suffix}"
    with pytest.raises(ValueError, match="allowed: a file that is not packed"):
        sweep(runs, out, jobs=1)
    assert not out.exists()


def test_second_sweep_on_one_file_is_an_error_while_the_first_writes(tmp_path: Path) -> None:
    runs = make_runs([small_trace(tmp_path)], settings(), Grid(["lru"], ["20"], [4], [0]))
    out = tmp_path / "new" / "out.jsonl"
    with only_writer(out), pytest.raises(ValueError, match=re.escape(BUSY.format(out))):
        sweep(runs, out, jobs=1)
    assert len(sweep(runs, out, jobs=1)) == 1
    # The first sweep renames the sorted rows into the place of the file that it holds the lock of.
    with only_writer(out):
        write_rows(out, read_rows(out))
    assert len(sweep(runs, out, jobs=1)) == 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.jsonl", "out.run.json"]


def test_rows_of_an_earlier_grid_stay(tmp_path: Path) -> None:
    trace, out = small_trace(tmp_path), tmp_path / "out.jsonl"
    sweep(make_runs([trace], settings(), Grid(["lru"], ["20"], [4], [0])), out, jobs=1)
    rows = sweep(make_runs([trace], settings(), Grid(["lru"], ["40"], [4], [0])), out, jobs=1)
    assert [row["capacity_blocks"] for row in rows] == [40]
    assert len(out.read_bytes().splitlines()) == 2


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


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("3000", 3000), ("48000tok", 3000), ("48Ktok", 3000), ("1Mtok", 62500), ("10%", 30), ("0.1%", 1)],
)
def test_capacity_in_blocks(text: str, blocks: int) -> None:
    assert capacity_blocks(text, 16, 300, str(MODEL)) == blocks


def test_capacity_in_bytes_is_what_keys_and_values_of_the_model_take() -> None:
    # Llama-3.2-1B: 2 x 16 layers x 8 heads x 64 x 2 bytes a token.
    assert kv_bytes_a_token(str(MODEL)) == 32768
    assert capacity_blocks("1GiB", 16, 300, str(MODEL)) == 2048
    assert capacity_blocks("unlimited", 16, 300, "") is None


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "3000 blocks", "16GB", "all"])
def test_capacity_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: blocks"):
        capacity_blocks(text, 16, 300, str(MODEL))


@pytest.mark.parametrize(
    ("text", "reason"), [("15tok", "fills no block"), ("0.01KiB", "fills no block"), ("9" * 400 + "GiB", "up to 2,147")]
)
def test_capacity_that_no_cache_has_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        capacity_blocks(text, 16, 300, str(MODEL))


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
