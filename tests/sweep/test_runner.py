"""Points of a plan in processes: an error costs no row that was finished, and begins no more points."""

import time
from pathlib import Path

import pytest

from vllm_sim.sweep.results import NEEDED, read_rows
from vllm_sim.sweep.runner import Task, run_tasks

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


def test_a_bad_point_costs_no_finished_row_and_begins_no_more_points(tmp_path: Path) -> None:
    tasks = [Task(str(number), "", (ROWS,), (tmp_path, number)) for number in range(POINTS)]
    with pytest.raises(ValueError, match="point 1 cannot be computed"):
        run_tasks(tmp_path, tasks, slow_then_bad_then_many, lambda point: (point[1],), lambda text: None, 2)
    done = {path.stem for path in tmp_path.glob("*.done")}
    assert {row["key"] for row in read_rows(tmp_path / ROWS)} == done
    assert "0" in done
    assert len(done) < POINTS / 2
