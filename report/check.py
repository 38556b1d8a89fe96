"""A sample of the stored rows, computed again.

A row names its trace by sha256. A sweep's row holds every setting that decided it, a row of a study the key of its
run in the plan. Rows whose trace is not there, and rows that something else made, are counted and named.
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from milestone3_code.routing.plan import EXPERIMENTS as ROUTING
from milestone3_code.study import run as mixed
from milestone3_code.study.plan import mixes
from vllm_sim.provenance import file_sha256
from vllm_sim.replay.config import config_of
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.runs import GridRun, make_row

TRACE_SUFFIXES = (".jsonl", ".gz", ".zst")
MAKERS = {
    "timed": "python milestone2_code/compare_multi_vs_single_turn.py",
    "sharegpt": "python milestone2_code/preprocess_sharegpt.py",
    "single": "python milestone2_code/preprocess_sharegpt.py",
    "multi": "python milestone2_code/preprocess_sharegpt.py",
    "hints_": "python milestone3_code/compare_hints.py",
    "report_": "python milestone3_code/build_mixes.py --seeds 10",
    "engine_": "python milestone3_code/compare_policies.py",
    "mixed": "vllm-sim workload build milestone3_code/mixed.toml --out data/mixed.jsonl",
}
"""What makes a trace, by a word in its name."""
MARKS = ("key", "code", "data", "quick")
"""What a grid or a study writes besides the fields of a row."""


class Report(NamedTuple):
    """What a check found."""

    checked: int
    skipped: int
    differences: list[str]
    missing: list[str]


def check(
    files: Mapping[Path, Sequence[Row]],
    traces: Sequence[Path],
    model: str,
    sample: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Computes rows again and compares every field of them.

    Args:
        files: the stored rows, by file.
        traces: trace files, or folders that hold them.
        model: the model's folder.
        sample: rows to compute, drawn from those whose trace is there; all of them if they are fewer.
        seed: of the draw.
        progress: called with the numbers of finished and of all rows.

    Raises:
        ValueError: sample is out of range.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}; allowed: 1 or more")
    found = _by_hash(traces)
    missing: dict[str, int] = {}
    ready: list[tuple[Path, Row, Path]] = []
    for path, rows in files.items():
        for row in rows:
            trace, reason = _trace(row, found), _reason(row)
            if trace is None or reason:
                line = reason or f"no trace with the hash of {row['trace']}{_maker(row['trace'])}"
                missing[f"{path.name}: {line}"] = missing.get(f"{path.name}: {line}", 0) + 1
            else:
                ready.append((path, row, trace))
    chosen = ready if len(ready) <= sample else random.Random(seed).sample(ready, sample)
    chosen.sort(key=lambda item: item[1]["backend"] != "engine")  # it chooses vLLM's platform, which blockpool does not
    differences: list[str] = []
    for done, (path, row, trace) in enumerate(chosen):
        progress(done, len(chosen))
        differences += [f"{path.name}: {text}" for text in _differences(row, _again(row, trace, model, path.parent))]
    progress(len(chosen), len(chosen))
    lines = [f"{line} ({count:,} rows)" for line, count in missing.items()]
    return Report(len(chosen), sum(missing.values()), differences, lines)


def _by_hash(traces: Sequence[Path]) -> dict[str, Path]:
    paths = []
    for path in traces:
        if path.is_dir():
            paths += sorted(file for file in path.rglob("*") if file.suffix in TRACE_SUFFIXES)
        elif path.is_file():
            paths.append(path)
    found = {}
    for path in paths:
        found[file_sha256(path)] = path
    return found


def _trace(row: Row, found: Mapping[str, Path]) -> Path | None:
    """A row's trace; of a row over all mixes the first one's, if all are there; None if it is not there.

    Random traffic is drawn anew and needs no trace: the plan's path stands for one.
    """
    if row.get("experiment") == "random":
        return mixed.PLAN
    if row.get("experiment") == "gap" and row["mix"] == "all":
        paths = {path.name: (path, sha256) for sha256, path in found.items()}
        traces = [paths.get(f"report_{mix}.jsonl") for mix in mixes(mixed.PLAN, row["quick"])]
        there = [one for one in traces if one is not None]
        digest = hashlib.sha256(" ".join(sha256 for _, sha256 in there).encode()).hexdigest()
        return there[0][0] if there and digest == row["trace_sha256"] else None
    return found.get(row["trace_sha256"])


def _maker(trace: str) -> str:
    for word, command in MAKERS.items():
        if word in trace:
            return f"; `{command}` makes it"
    return "; --traces PATH says where it is"


def _reason(row: Row) -> str | None:
    """Why a row cannot be computed from its fields alone; None if it can."""
    if "key" not in row:
        return "rows that neither `vllm-sim sweep` nor a study made"
    if row["backend"] == "engine" and row["latency_model"] == "table" and row["latency_table"] is None:
        return "rows of a latency table from before rows held it"
    return None


def _again(row: Row, trace: Path, model: str, results: Path) -> Row:
    if "experiment" not in row:
        return make_row(GridRun(trace, config_of(row, model), row.get("capacity")))
    if row["experiment"] == "tiers":
        from milestone3_code.study import tiers

        return tiers.row_again(row, trace, model)
    if row["experiment"] == "hints":
        from milestone3_code.hints import rows as hints

        return hints.row_again(row, trace, model) or {"key": "of no point of today's plan"}
    if row["experiment"] in ROUTING:
        from milestone3_code.routing import run as routing

        return routing.row_again(row, trace, model) or {"key": "of no point of today's plan"}
    if "mix" in row:
        return mixed.row_again(row, trace, model, results=results) or {"key": "of no point of today's plan"}
    from milestone2_code.study.run import row_again
    from milestone2_code.study.study import Study

    for quick in {row["quick"], False}:  # rows of few chats are marked as quick whatever the plan was
        fresh = row_again(Study(data=trace.parent, model=model, results=results, quick=quick), row["key"])
        if fresh is not None:
            return fresh
    return {"key": f"of no run of today's plan over {trace.parent}"}


def _differences(stored: Row, fresh: Row) -> list[str]:
    """Fields that differ or are gone, but for the marks. The trace's name is no result."""
    capacity = stored["capacity_blocks"]
    where = f"{stored['trace']}, {stored['policy']}, block size {stored['block_size']}, capacity {capacity}"
    names = [name for name in stored if name in fresh and name not in ("trace", *MARKS)]
    lost = [name for name in stored if name not in fresh and name not in MARKS]
    for name in names:
        if isinstance(stored[name], dict) and isinstance(fresh[name], dict):  # a study keeps a part of some tables
            fresh[name] = {key: fresh[name].get(key) for key in stored[name]}
    texts = [f"{name} is {stored[name]!r}, now {fresh[name]!r}" for name in names if stored[name] != fresh[name]]
    texts += [f"{name} is {stored[name]!r}, now there is none" for name in lost]
    return [f"{where}: {text[:200]}" for text in texts]
