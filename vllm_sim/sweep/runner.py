"""The runner of grids: computes the rows that are not there yet and appends them to their files as they are finished.

A row has the `key` of its run and the `code` that made it. A run that was stopped, however, goes on where it was: a
line that a kill has cut is cut off, and a row that other code made is dropped and computed again. When all rows are
there each file has those of other grids first and then the plan's, in its order, so that two runs give the same bytes.
NAME.run.json next to a file says what computed rows last, and names the commit whose code gave them all.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from vllm_sim.provenance import about, commit
from vllm_sim.replay.rows import Row, write_rows
from vllm_sim.sweep.lock import only_writer
from vllm_sim.sweep.processes import Point, RowsOf, compute
from vllm_sim.sweep.results import cut_torn_line, read_rows, run_file
from vllm_sim.trace.output import name_errors, open_output

SECONDS = 30
"""Between two lines that say how far a run is."""


class PlannedRun(NamedTuple):
    """A run of a plan, and where its rows go."""

    key: str
    """Names the run: its trace's bytes and all that decides a row but the code."""
    code: str
    """A fingerprint of the code that its rows come from."""
    files: tuple[Path, ...]
    """A row for each."""
    values: Any
    """What its rows are made from; its text names the run in an error."""
    group: tuple[Any, ...]
    """What it shares with others, such as the blocks of a trace: they run one after the other. Groups run in order."""


def run_grid(
    plan: Sequence[PlannedRun],
    rows_of: RowsOf,
    model: str | None,
    say: Callable[[str], None],
    jobs: int = -1,
    ray: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    only: Callable[[Any], bool] = lambda values: True,
    code_of: Callable[[Row], str | None] | None = None,
    compilers: Callable[[Sequence[Any]], Sequence[Callable[[], None]]] = lambda values: (),
    are_forks: bool = False,
) -> int:
    """Computes the rows that are not there yet.

    Args:
        plan: the runs, in the order of the files.
        rows_of: a row for each of a run's files, from its values.
        model: the model's folder, None without one.
        say: called with lines that say what happens.
        jobs: processes, -1 for one a core.
        ray: address of a Ray cluster to run on; it must see the traces' paths.
        progress: called with the numbers of finished and of all runs.
        only: which runs are computed where they are missing; rows of others are kept.
        code_of: today's code of a row that is not in the plan. Such rows are kept; without it they are dropped.
        compilers: from the values of the runs to compute, what compiles their code (processes.py).
        are_forks: see processes.compute.

    Returns:
        How many runs were computed.

    Raises:
        ValueError: another run writes one of the files, one holds something else, or a run cannot be computed, with
            its name; what was finished is written first.
    """
    start, begun_at = time.monotonic(), commit()
    files: dict[Path, dict[str, PlannedRun]] = {}
    for run in plan:
        for path in run.files:
            files.setdefault(path, {})[run.key] = run
    with ExitStack() as stack:
        for path in sorted(files):
            stack.enter_context(only_writer(path))
        rows = {path: _kept_rows(path, wanted, code_of, say) for path, wanted in files.items()}
        missing = _missing(plan, rows)
        todo = [run for key, run in missing.items() if only(run.values)]
        for path in files if todo else ():  # a killed run leaves none, and is no result
            run_file(path).unlink(missing_ok=True)
        finished, total, said_at = len(plan) - len(missing), len(plan), start
        if finished and todo:
            say(f"{finished:,} of {total:,} runs are there already, {len(todo):,} to compute")
        progress(finished, total)
        points = [Point(run.key, run.values, run.group) for run in todo]
        error = None
        for done in compute(points, rows_of, jobs, ray, compilers([run.values for run in todo]), are_forks):
            for key, made in done.rows:
                _append(missing[key], made)
            finished, error = finished + len(done.rows), error or done.error
            progress(finished, total)
            if time.monotonic() - said_at > SECONDS:
                said_at = time.monotonic()
                say(f"{finished:,} of {total:,} runs")
        if error is not None:
            raise error
        for path, wanted in files.items():
            if path.is_file():
                others = _sort_rows(path, wanted)
                code = None if code_of and _made_by_other_code(others, code_of) else begun_at
                values = about(None if model is None else Path(model).name, time.monotonic() - start, code)
                _note_run(run_file(path), values | {"runs": len(todo)})
        return len(todo)


def _missing(plan: Sequence[PlannedRun], rows: dict[Path, list[Row]]) -> dict[str, PlannedRun]:
    """The runs without all their rows; if a kill came between two files, the one row is dropped."""
    there = {path: {row["key"] for row in found} for path, found in rows.items()}
    missing = {run.key: run for run in plan if not all(run.key in there[path] for path in run.files)}
    for path, keys in there.items():
        if not keys.isdisjoint(missing):
            rows[path] = [row for row in rows[path] if row["key"] not in missing]
            write_rows(path, rows[path])
    return missing


def _kept_rows(
    path: Path,
    wanted: Mapping[str, PlannedRun],
    code_of: Callable[[Row], str | None] | None,
    say: Callable[[str], None],
) -> list[Row]:
    """The rows of a file but those that other code made, which are dropped from it, and where `code_of` is not given
    those of another plan.
    """
    if not path.is_file():
        return []
    cut_torn_line(path)
    rows = read_rows(path)
    planned, others = [row for row in rows if row["key"] in wanted], [row for row in rows if row["key"] not in wanted]
    kept = [row for row in planned if row.get("code") == wanted[row["key"]].code]
    if code_of is not None:
        old = _made_by_other_code(others, code_of)
        if old:
            say(f"{path}: {old:,} rows of other grids were made by other code; they stay")
        kept = others + kept
    if len(kept) < len(rows):
        dropped = "other code" if code_of else "another plan, trace or code"
        say(f"{path}: {len(rows) - len(kept):,} rows of {dropped} are dropped")
        write_rows(path, kept)
    return kept


def _append(run: PlannedRun, made: Sequence[Row]) -> None:
    for path, values in zip(run.files, made, strict=True):
        row = {"key": run.key} | values | {"code": run.code}
        with name_errors(path), path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def _made_by_other_code(rows: Sequence[Row], code_of: Callable[[Row], str | None]) -> int:
    return sum(row.get("code") != code_of(row) for row in rows)


def _sort_rows(path: Path, wanted: Mapping[str, PlannedRun]) -> list[Row]:
    """Puts a file into order; returns the rows that are not in the plan."""
    places, rows = {key: place for place, key in enumerate(wanted)}, read_rows(path)
    write_rows(path, sorted(rows, key=lambda row: places.get(row["key"], -1)))
    return [row for row in rows if row["key"] not in places]


def _note_run(path: Path, values: Row) -> None:
    """Writes what ran. If it computed nothing, all rows are of its code too, so a stored run gets its commit."""
    del values["host"]  # rows of a file may come from several
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if stored is None or values["runs"]:
        stored = values
    elif (stored.get("commit") or "-dirty").endswith("-dirty"):
        stored["commit"] = values["commit"]
    else:
        return
    with open_output(path) as file:
        file.write(json.dumps(stored, indent=2) + "\n")
