"""Runs the plan on all cores: a row a cell, appended when it is finished; after a kill it goes on behind whole rows.

Cells that share their blocks are run one after another in one process. When all are done the file is put into the
plan's order, so that two runs give the same bytes. Rows that another trace or other code gave are dropped first.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from joblib import Parallel, delayed

from vllm_sim.eviction.registry import POLICIES
from vllm_sim.replay.rows import Row, write_rows
from vllm_sim.replay.run import about
from vllm_sim.replay.settings import Settings
from vllm_sim.study.chat.cell import Study, cache_row, code, engine_row, key, timed_trace
from vllm_sim.study.chat.plan import ENGINE, QUICK_ENGINE, WORKLOADS, EnginePoint, Point, points
from vllm_sim.study.results import commit, cut_torn_line, read_rows
from vllm_sim.trace.files import open_output

FULL_CONVERSATIONS = 2000
"""Rows from fewer are marked as quick."""
CELLS, ENGINE_CELLS = "chat.jsonl", "chat_engine.jsonl"
AnyPoint = Point | EnginePoint
Say = Callable[[str], None]
Progress = Callable[[int, int], None]


def run_study(
    study: Study,
    say: Say,
    parts: Sequence[str] = (ENGINE_CELLS, CELLS),
    jobs: int = -1,
    progress: Progress = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet.

    Args:
        study: where.
        say: told what happens.
        parts: the files to fill.
        jobs: processes, -1 for one a core.
        progress: called with the numbers of finished and of all rows.
    """
    start = time.monotonic()
    keys = {part: {key(study, point): point for point in planned(study, part)} for part in parts}
    done = {part: finished(study.results / part, keys[part], say) for part in parts}
    groups = []
    for part in parts:
        todo = [point for name, point in keys[part].items() if name not in done[part]]
        groups += [list(group) for _, group in groupby(todo, _shared)]
        if part == ENGINE_CELLS and todo:
            for workload in WORKLOADS:  # before processes that need it would write it at the same time
                timed_trace(study, workload)
    total, count = sum(map(len, keys.values())), sum(map(len, done.values()))
    say(f"{count:,} of {total:,} rows are there already" if count else f"{total:,} rows to compute")
    # vLLM chooses its platform when a process imports it first: for the engine, which blockpool does not mind.
    os.environ["VLLM_SIM_TRACE_PATH"] = str(study.trace(WORKLOADS[0]))
    groups.sort(key=lambda group: not isinstance(group[0], EnginePoint))  # the longest first
    for rows in Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(_rows)(study, g) for g in groups):
        for row in rows:
            _append(study.results / (ENGINE_CELLS if row["experiment"] == "engine" else CELLS), row)
        count += len(rows)
        progress(count, total)
        say(f"{count:,} of {total:,} rows: {rows[-1]['experiment']}, {rows[-1]['workload']}-turn")
    if not groups:
        return
    for part in parts:
        path, order = study.results / part, list(keys[part])
        write_rows(path, sorted(read_rows(path), key=lambda row: order.index(row["key"])))
    _write_about(study, sum(map(len, groups)), time.monotonic() - start)


def planned(study: Study, part: str) -> list[AnyPoint]:
    """The cells of a file, in its order."""
    if part == ENGINE_CELLS:
        return list(QUICK_ENGINE if study.quick else ENGINE)
    return list(points(list(POLICIES), study.quick))


def row_again(study: Study, name: str) -> Row | None:
    """The row with this key, computed again without its marks; None if the plan has none."""
    for point in (*planned(study, ENGINE_CELLS), *planned(study, CELLS)):
        if key(study, point) == name:
            return engine_row(study, point) if isinstance(point, EnginePoint) else cache_row(study, point)
    return None


def finished(path: Path, keys: dict[str, AnyPoint], say: Say) -> set[str]:
    """Keys of the whole rows of a file; the half of one that a kill left, and rows that the plan and the code of today
    would not give, are cut off.

    Args:
        path: the file.
        keys: the plan's points by key.
        say: told how many rows were dropped.
    """
    cut_torn_line(path)
    if not path.is_file():
        return set()
    rows = read_rows(path)
    kept = [row for row in rows if row["key"] in keys and row.get("code") == code(keys[row["key"]])]
    if len(kept) < len(rows):
        say(f"{path}: {len(rows) - len(kept):,} rows of another plan, trace or code are dropped")
        write_rows(path, kept)
    return {row["key"] for row in kept}


def _shared(point: AnyPoint) -> object:
    """What cells have in common that one process runs."""
    if isinstance(point, EnginePoint):
        return point
    return (point.workload, point.system_prompt, point.block_size, point.pattern, point.backend)


def _rows(study: Study, group: Sequence[AnyPoint]) -> list[Row]:
    rows = []
    for point in group:
        row = engine_row(study, point) if isinstance(point, EnginePoint) else cache_row(study, point)
        sessions = len({record.session_id for record in study.chats(point.workload).records})
        marks = {"data": study.source(), "quick": study.quick or sessions < FULL_CONVERSATIONS, "code": code(point)}
        rows.append({"key": key(study, point)} | row | marks)
    return rows


def _append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_about(study: Study, cells: int, seconds: float) -> None:
    """chat.run.json: what computed rows last, where and how long."""
    values = about(Settings(model=Path(study.model).name), seconds) | {"cells": cells, "commit": commit()}
    del values["host"]
    with open_output(study.results / "chat.run.json") as file:
        file.write(json.dumps(values, indent=2) + "\n")
