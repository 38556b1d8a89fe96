"""A grid in processes: errors, and what NAME.run.json says of the run and the commit that gave a file of rows."""

import json
import sys
import time
from pathlib import Path

import pytest

from vllm_sim.sweep import runner
from vllm_sim.sweep.results import NEEDED, check_commit, read_rows, run_file
from vllm_sim.sweep.runner import PlannedRun, run_grid

POINTS = 40
ROWS = "rows.jsonl"


def slow_then_bad_then_many(point: tuple[Path, int]) -> list[dict]:
    """The first point is still computed when the second one raises."""
    folder, number = point
    if number == 0:
        time.sleep(1)
    if number == 1:
        raise ValueError(f"point {number} cannot be computed")
    time.sleep(0.1)
    (folder / f"{number}.done").touch()
    return [dict.fromkeys(NEEDED)]


@pytest.mark.parametrize("are_forks", [False, True])
def test_a_bad_point_costs_no_finished_row_and_begins_no_more_points(
    tmp_path: Path, are_forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # it would keep this process from being forked
    files = (tmp_path / ROWS,)
    plan = [PlannedRun(str(number), "", files, (tmp_path, number), (number,)) for number in range(POINTS)]
    with pytest.raises(ValueError, match=r"PosixPath\(.*, 1\): point 1 cannot be computed"):
        run_grid(plan, slow_then_bad_then_many, "model", print, jobs=2, are_forks=are_forks)
    done = {path.stem for path in tmp_path.glob("*.done")}
    assert {row["key"] for row in read_rows(tmp_path / ROWS)} == done
    assert "0" in done
    assert len(done) < POINTS / 2
    assert not run_file(tmp_path / ROWS).exists()


def test_rows_are_of_the_commit_whose_code_gives_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, beside = tmp_path / ROWS, run_file(tmp_path / ROWS)

    def run(commit: str | None, code: str, made: int = 2) -> dict:
        monkeypatch.setattr(runner, "commit", lambda: commit)
        plan = [PlannedRun(str(number), code, (rows,), number, ()) for number in range(2)]
        row = dict.fromkeys(NEEDED)
        assert run_grid(plan, lambda point: [row], "model", print, jobs=1) == made
        return json.loads(beside.read_text())

    def refused() -> bool:
        try:
            check_commit(rows, "make study")
        except ValueError:
            return True
        return False

    assert (run("1-dirty", "a")["commit"], refused()) == ("1-dirty", True)
    # The same code, then committed: nothing is computed, and the rows are that commit's.
    found = run("2", "a", made=0)
    assert (found["commit"], found["runs"], refused()) == ("2", 2, False)
    assert run("3", "a", made=0)["commit"] == "2"
    assert (run("4-dirty", "b")["commit"], refused()) == ("4-dirty", True)
    assert (run(None, "c")["commit"], refused()) == (None, True)
    assert (run("5", "d")["commit"], refused()) == ("5", False)
    beside.unlink()
    assert refused()
    assert (run("6", "d", made=0)["commit"], refused()) == ("6", False)
