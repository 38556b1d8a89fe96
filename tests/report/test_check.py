"""`python -m report --check`: stored rows are computed again, and a changed one is found."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from milestone2_code.study.run import FILE, run_study
from milestone2_code.study.study import Study
from milestone3_code.study import run as mixed
from report.check import _trace, check
from tests.making import settings, small_trace
from tests.serving import MODEL, ROOT
from vllm_sim.replay.files import replay
from vllm_sim.sweep.grid import Grid, make_runs, sweep
from vllm_sim.sweep.results import find_rows
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    trace = small_trace(tmp_path)
    base = settings(warmup=0.31)
    sweep(
        make_runs([trace], base, Grid(["lru", "random"], ["20", "unlimited", "all"], [4], [0, 1])),
        results(tmp_path),
        1,
    )
    return tmp_path


def results(folder: Path) -> Path:
    return folder / "results" / "rows.jsonl"


def found(folder: Path, traces: Path) -> tuple[int, int, list[str], list[str]]:
    return tuple(check(find_rows(folder / "results"), [traces], str(MODEL), 100))  # type: ignore[return-value]


def test_rows_that_come_again_pass(stored: Path) -> None:
    (stored / "results" / "requests.jsonl").write_text('{"row": 0, "status": "ok"}\n')
    assert found(stored, stored) == (9, 0, [], [])


def test_a_changed_number_is_named(stored: Path) -> None:
    lines = results(stored).read_text().splitlines()
    row = json.loads(lines[0])
    lines[0] = json.dumps(row | {"evicted_blocks": row["evicted_blocks"] + 1})
    results(stored).write_text("\n".join(lines) + "\n")
    checked, skipped, differences, _ = found(stored, stored)
    assert (checked, skipped, len(differences)) == (9, 0, 1)
    assert f"evicted_blocks is {row['evicted_blocks'] + 1}, now {row['evicted_blocks']}" in differences[0]


def test_a_field_that_is_gone_is_named(stored: Path) -> None:
    lines = results(stored).read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | {"once_counted": 7})
    results(stored).write_text("\n".join(lines) + "\n")
    _, _, differences, _ = found(stored, stored)
    assert [line.rpartition(": ")[2] for line in differences] == ["once_counted is 7, now there is none"]


def test_rows_over_all_mixes_need_all_of_them_and_random_traffic_none(tmp_path: Path) -> None:
    names = ("even", "agents", "chat", "scan", "shift")
    there = {f"hash of {name}": tmp_path / f"report_{name}.jsonl" for name in names}
    digest = hashlib.sha256(" ".join(there).encode()).hexdigest()
    row = {"experiment": "gap", "mix": "all", "trace_sha256": digest, "quick": False}
    assert _trace(row, there) == tmp_path / "report_even.jsonl"
    assert _trace(row, dict(list(there.items())[1:])) is None
    assert _trace(row | {"mix": "scan", "trace_sha256": "hash of scan"}, there) == tmp_path / "report_scan.jsonl"
    assert _trace({"experiment": "random", "mix": "all", "trace_sha256": "of its requests"}, {}) == mixed.PLAN


def command(folder: Path, *traces: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "report", "--check", "--sample", "100"]
    line += ["--results", str(folder / "results"), "--model", str(MODEL), "--traces", *traces]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_engine_rows_come_again(tmp_path: Path) -> None:
    how = settings(backend="engine", concurrency=2, warmup=0.1)
    runs = make_runs([small_trace(tmp_path)], how, Grid(["lru"], ["40"], [8], [0]))
    sweep(runs, results(tmp_path), jobs=2)  # in a process of its own: vLLM's platform is chosen once a process
    done = command(tmp_path, str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "1 rows computed again, 0 differ, 0 not checked\n"), done.stderr


@pytest.mark.slow
def test_row_of_study_one_comes_again(tmp_path: Path) -> None:
    texts = [f"{i} one two three red green blue" * 4 for i in range(6)]
    records = [Record(prompt=text, response="yes", session_id=text, turn=0) for text in texts * 2]
    for workload in ("single", "multi"):
        write_records(tmp_path / f"{workload}_turn.jsonl", records)
    study = Study(data=tmp_path, model=str(MODEL), results=tmp_path / "results", quick=True)
    run_study(study, lambda text: None, parts=(FILE,), jobs=1)
    file = study.results / FILE
    lines = [line for line in file.read_text().splitlines() if "blockpool" not in line][:40]
    file.write_text("\n".join(lines) + "\n")
    assert found(tmp_path, tmp_path) == (len(lines), 0, [], [])
    file.write_text(file.read_text().replace('"requests":12', '"requests":13', 1))
    assert "requests is 13, now 12" in found(tmp_path, tmp_path)[2][0]


def test_rows_whose_trace_is_missing_or_that_are_in_no_plan_are_named_with_what_makes_them(stored: Path) -> None:
    (stored / "elsewhere").mkdir()
    checked, skipped, _, missing = found(stored, stored / "elsewhere")
    assert (checked, skipped) == (0, 9)
    assert "no trace with the hash of small.jsonl; --traces PATH says where it is (9 rows)" in missing[0]
    replay(stored / "small.jsonl", stored / "results" / "replay", settings())
    checked, skipped, _, missing = found(stored, stored)
    assert (checked, skipped) == (9, 1)
    assert "rows that neither `vllm-sim sweep` nor a study made" in missing[0]


def test_command_fails_where_a_row_differs_or_none_could_be_checked(stored: Path) -> None:
    done = command(stored, str(stored))
    assert (done.returncode, done.stdout) == (0, "9 rows computed again, 0 differ, 0 not checked\n")
    assert command(stored, "nowhere").returncode == 1
    text = results(stored).read_text()
    results(stored).write_text(text.replace('"hit_tokens":', '"hit_tokens":1'))
    assert command(stored, str(stored)).returncode == 1
