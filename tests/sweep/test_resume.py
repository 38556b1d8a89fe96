"""The file of rows of `vllm-sim sweep`: what a kill leaves, what another program left, and one writer at a time."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.making import settings, small_trace
from tests.sweep.sweeping import SLOW, command, run_here, with_modules
from vllm_sim.replay.rows import write_rows
from vllm_sim.sweep.grid import Grid, make_runs, sweep
from vllm_sim.sweep.lock import only_writer
from vllm_sim.sweep.results import read_rows

BUSY = "{} is being written by another run; allowed: one at a time"


def test_sweep_after_a_kill_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, out, whole = small_trace(tmp_path), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    (tmp_path / "killed.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    capacities = "20,30,40,50,60,70,80,90"
    options = ("--policies", "killed:Slow", "--capacities", capacities, "--jobs", "1", "--block-size", "4")
    environment = with_modules(tmp_path) | {"PAUSE_S": "0.01"}
    process = subprocess.Popen(command(trace, out, *options), env=environment, stdout=subprocess.DEVNULL)
    while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    second = run_here(trace, out, *options)
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == f"vllm-sim: error: {BUSY.format(out)}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = out.read_bytes().splitlines()
    assert 2 <= len(kept) < 8
    assert run_here(trace, out, *options).returncode == 0
    assert json.loads((tmp_path / "out.run.json").read_text())["runs"] == 8 - len(kept)
    assert run_here(trace, whole, *options).returncode == 0
    assert out.read_bytes() == whole.read_bytes()


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
