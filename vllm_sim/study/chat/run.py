"""Runs the plan: a row a cell, appended when it is finished; after a kill it goes on behind the last whole row."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_sim.eviction.registry import POLICIES
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import head, serve_cache
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.summary import summary_row
from vllm_sim.study.cells import Cell, run_cell
from vllm_sim.study.chat.plan import ENGINE, ENGINE_PATTERN, MAIN_BLOCK, EnginePoint, Point, points
from vllm_sim.study.chat.reuse import reuse_row
from vllm_sim.study.chat.spread import interval
from vllm_sim.study.chat.workload import Chats, Pattern, load_chats, ordered, write_timed
from vllm_sim.study.results import cut_torn_line, read_rows

FULL_CONVERSATIONS = 2000
"""Rows from fewer are marked as quick."""
CELLS, ENGINE_CELLS = "chat.jsonl", "chat_engine.jsonl"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Where the study reads and writes."""

    data: Path
    """Folder of preprocess_sharegpt.py's traces and of the download's source.json."""
    model: str
    results: Path
    quick: bool = False

    def trace(self, workload: str) -> Path:
        return self.data / f"{workload}_turn.jsonl"

    def chats(self, workload: str, system_prompt: bool = False) -> Chats:
        return load_chats(self.trace(workload), self.model, workload, system_prompt)

    def source(self) -> Row:
        """Where the data comes from; made data has no source.json."""
        about = self.data / "source.json"
        if not about.is_file():
            return {"source": "made"}
        told = json.loads(about.read_text(encoding="utf-8"))
        return {"source": told["source"], "sha256": told["sha256"], "whole": told.get("whole")}


def run_cache_cells(study: Study, say: Say) -> None:
    """The cells of `fast` and `blockpool`; all registered policies."""
    planned = list(points(list(POLICIES), study.quick))
    path = study.results / CELLS
    done = finished(path)
    for number, point in enumerate(planned, 1):
        key = _key(study, point.workload, repr(point))
        if key not in done:
            _append(path, {"key": key} | _cache_row(study, point) | _marks(study, point.workload))
        say(f"{number}/{len(planned)} {point.experiment}, {point.workload}")


def row_again(study: Study, key: str) -> Row | None:
    """The row of `run_cache_cells` with this key, computed again without its marks; None if the plan has none."""
    for point in points(list(POLICIES), study.quick):
        if _key(study, point.workload, repr(point)) == key:
            return _cache_row(study, point)
    return None


def run_engine_cells(study: Study, say: Say) -> None:
    """The cells of the engine: times from the roofline model of an H100."""
    path = study.results / ENGINE_CELLS
    done = finished(path)
    for number, point in enumerate(ENGINE, 1):
        key = _key(study, point.workload, repr(point))
        if key not in done:
            _append(path, {"key": key} | _engine_row(study, point) | _marks(study, point.workload))
        say(f"{number}/{len(ENGINE)} engine, {point.workload}")


def finished(path: Path) -> set[str]:
    """Keys of the whole rows of a file; the half of one that a kill left is cut off."""
    cut_torn_line(path)
    return {row["key"] for row in read_rows(path)} if path.is_file() else set()


def capacity_blocks(
    study: Study, workload: str, share: float | None, block_size: int, system_prompt: bool
) -> int | None:
    """A share of the working set at MAIN_BLOCK, as blocks of another size that hold as many tokens."""
    if share is None:
        return None
    chains = ordered(study.chats(workload, system_prompt), MAIN_BLOCK, Pattern()).chains
    return max(1, int(share * chains.working_set * MAIN_BLOCK) // block_size)


def _cache_row(study: Study, point: Point) -> Row:
    chats = study.chats(point.workload, point.system_prompt)
    capacity = capacity_blocks(study, point.workload, point.share, point.block_size, point.system_prompt)
    settings = Settings(
        model=study.model,
        backend=point.backend,
        capacity_blocks=capacity,
        block_size=point.block_size,
        policy=point.policy,
    )
    asked = ordered(chats, point.block_size, point.pattern)
    values: Row = {
        "experiment": point.experiment,
        "workload": point.workload,
        "capacity_share": point.share,
        "system_prompt": point.system_prompt,
        **point.pattern._asdict(),
        **head(chats.path, chats.trace, settings),
        "seed": 0,
        "arrival_seed": point.pattern.seed,
    }
    if point.experiment == "reuse":
        return values | reuse_row(chats, asked, point.block_size)
    outcome = serve_cache(asked.requests, asked.chains, asked.records, settings)
    hits = json.dumps([row["hit_tokens"] for row in outcome.rows])
    counts = summary_row(outcome.rows, point.block_size, 0.0)
    counts["by_turn"] = {turn: row for turn, row in counts["by_turn"].items() if int(turn) < 20}
    for name in ("by_workload", "by_tenant"):
        del counts[name]
    return (
        values
        | counts
        | outcome.tail
        | {
            "token_hit_rate_95": interval(outcome.rows),
            "hits_sha256": hashlib.sha256(hits.encode()).hexdigest()[:16],
        }
    )


def _engine_row(study: Study, point: EnginePoint) -> Row:
    timed = study.data / f"timed_{point.workload}.jsonl"
    if not timed.is_file():
        write_timed(study.chats(point.workload), ENGINE_PATTERN, timed)
    settings = Settings(
        model=study.model,
        capacity_blocks=capacity_blocks(study, point.workload, point.share, MAIN_BLOCK, False),
        block_size=MAIN_BLOCK,
        concurrency=point.concurrency,
    )
    row = run_cell(Cell(timed, settings))
    row["by_turn"] = {turn: rates for turn, rates in row["by_turn"].items() if int(turn) < 20}
    values: Row = {"experiment": "engine", "workload": point.workload, "capacity_share": point.share}
    return values | ENGINE_PATTERN._asdict() | row


def _marks(study: Study, workload: str) -> Row:
    sessions = len({record.session_id for record in study.chats(workload).records})
    return {"data": study.source(), "quick": study.quick or sessions < FULL_CONVERSATIONS}


def _key(study: Study, workload: str, point: str) -> str:
    text = f"{study.chats(workload).trace.sha256} {study.quick} {point}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
