"""Runs the points of a study's plan on all cores: rows are appended whole as they are finished.

Started again after a kill it goes on behind whole rows. When all are there each file is put into the plan's order, so
that two runs give the same bytes. Rows that another plan, trace or other code gave are dropped first. NAME.run.json
beside each file tells of the run that computed rows last, and names the commit whose code gave them all.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from vllm_sim.provenance import about, commit
from vllm_sim.replay.rows import Row, write_rows
from vllm_sim.sweep.lock import only_writer
from vllm_sim.sweep.results import cut_torn_line, read_rows, run_file
from vllm_sim.trace.files import open_output

GROUP = 250
"""Points that one process runs in a row, at most."""


class Task(NamedTuple):
    """A point of a plan, and where its rows go."""

    key: str
    """Names the point over its trace."""
    code: str
    """A fingerprint of the code that its rows come from."""
    files: tuple[str, ...]
    """A row for each."""
    point: Any


def run_tasks(
    folder: Path,
    model: str,
    tasks: Sequence[Task],
    rows_of: Callable[[Any], Sequence[Row]],
    shared: Callable[[Any], tuple[Any, ...]],
    say: Callable[[str], None],
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    only: Callable[[Any], bool] = lambda point: True,
) -> int:
    """Computes the rows that are not there yet.

    Args:
        folder: of the rows' files.
        model: the model's folder.
        tasks: the plan, in the order of the files.
        rows_of: a row for each of a task's files, from its point.
        shared: what a point shares with others, which are run behind one another; in the order of running.
        say: told what happens.
        jobs: processes, -1 for one a core.
        progress: called with the numbers of finished and of all points.
        only: which points are computed where they are missing; rows of others are kept.

    Returns:
        How many points were computed.

    Raises:
        ValueError: another run writes into the folder, or what a point raised; what was finished is written first.
    """
    start, begun_at = time.monotonic(), commit()
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        files = {
            name: {task.key: task for task in tasks if name in task.files} for task in tasks for name in task.files
        }
        there = {name: _finished(folder / name, wanted, say) for name, wanted in files.items()}
        missing = {task.key for task in tasks if not all(task.key in there[name] for name in task.files)}
        for name, keys in there.items():
            if keys & missing:  # a kill came between a point's two files
                write_rows(folder / name, [row for row in read_rows(folder / name) if row["key"] not in missing])
        wanted_now = [task for task in tasks if task.key in missing and only(task.point)]
        todo = sorted(wanted_now, key=lambda task: shared(task.point))
        if todo:
            for name in files:  # a killed run leaves none, and is no result
                run_file(folder / name).unlink(missing_ok=True)
        done = len(tasks) - len(missing)
        say(f"{done:,} of {len(tasks):,} points are there already, {len(todo):,} to compute")
        progress(done, len(tasks))
        for found in _run(list(_groups(todo, shared)), rows_of, jobs):
            for task, rows in found:
                for name, row in zip(task.files, rows, strict=True):
                    with (folder / name).open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
            done += len(found)
            progress(done, len(tasks))
            say(f"{done:,} of {len(tasks):,} points")
        if todo:
            for name, wanted in files.items():
                if not (folder / name).is_file():
                    continue
                place = {key: number for number, key in enumerate(wanted)}
                write_rows(folder / name, sorted(read_rows(folder / name), key=lambda row: place[row["key"]]))
        values = about(Path(model).name, time.monotonic() - start, begun_at) | {"points": len(todo)}
        del values["host"]
        for name in files:
            if (folder / name).is_file():
                _note_run(run_file(folder / name), values)
        return len(todo)


def _note_run(path: Path, values: Row) -> None:
    """Writes what ran. If it computed nothing, all rows are of its code too, so a stored run gets its commit."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if stored is None or values["points"]:
        stored = values
    elif (stored.get("commit") or "-dirty").endswith("-dirty"):
        stored["commit"] = values["commit"]
    else:
        return
    with open_output(path) as file:
        file.write(json.dumps(stored, indent=2) + "\n")


def _run(
    groups: Sequence[list[Task]], rows_of: Callable[[Any], Sequence[Row]], jobs: int
) -> Iterator[list[tuple[Task, list[Row]]]]:
    """Groups as they are finished. (Joblib's workers end when they have grown, and read their traces again then.)

    After an error no more groups are begun; those under way are finished and given before it is raised.
    """
    workers = min(len(groups), jobs if jobs > 0 else os.cpu_count() or 1)
    if workers <= 1:
        yield from (_rows(group, rows_of) for group in groups)
        return
    error: BaseException | None = None
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)
    try:
        left = [pool.submit(_rows, group, rows_of) for group in groups]
        for future in as_completed(left):
            left.remove(future)
            error = future.exception()
            if error is not None:
                break
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if error is not None:
        yield from (future.result() for future in left if not future.cancelled() and future.exception() is None)
        raise error


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever, and keep its traces."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


def _groups(tasks: Sequence[Task], shared: Callable[[Any], tuple[Any, ...]]) -> Iterator[list[Task]]:
    for _, same in groupby(tasks, lambda task: shared(task.point)):
        found = list(same)
        for first in range(0, len(found), GROUP):
            yield found[first : first + GROUP]


def _rows(group: Sequence[Task], rows_of: Callable[[Any], Sequence[Row]]) -> list[tuple[Task, list[Row]]]:
    return [(task, [{"key": task.key} | row | {"code": task.code} for row in rows_of(task.point)]) for task in group]


def _finished(path: Path, wanted: dict[str, Task], say: Callable[[str], None]) -> set[str]:
    cut_torn_line(path)
    if not path.is_file():
        return set()
    rows = read_rows(path)
    kept = [row for row in rows if row.get("key") in wanted and row.get("code") == wanted[row["key"]].code]
    if len(kept) < len(rows):
        say(f"{path}: {len(rows) - len(kept):,} rows of another plan, trace or code are dropped")
        write_rows(path, kept)
    return {row["key"] for row in kept}
