"""A point of study two, and the places that it reads and writes."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from milestone3_code.study.view import Params, View
from vllm_sim.provenance import file_sha256

CELLS, MATRIX, ENGINE, HASH = "mixed.jsonl", "mixed_matrix.jsonl", "mixed_engine.jsonl", "mixed_hash.jsonl"
SEEDS, GAPS = "mixed_seeds.jsonl", "mixed_gap.jsonl"
MAIN_BLOCK = 16


class Point(NamedTuple):
    """One row of the plan."""

    experiment: str
    mix: str
    block_size: int = MAIN_BLOCK
    capacity: str = ""
    """As the TOML file says it; none for `gap`."""
    policy: str = "lru"
    params: Params = ()
    workload: str | None = None
    detail: str = ""
    """What else the experiment varies; for `gap` its capacities, for `engine` the point's name."""
    speedup: float = 1.0
    """Of arrivals, for `engine`."""
    concurrency: int | None = None
    """For `engine`: requests at a time instead of arrivals."""

    def files(self) -> tuple[str, ...]:
        """Those that get a row of it."""
        return {"engine": (ENGINE, MATRIX), "lost": (MATRIX,), "hash_trace": (HASH,)}.get(self.experiment, (CELLS,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Where the study reads and writes."""

    configs: Path
    """Folder of report_NAME.toml."""
    data: Path
    """Folder of report_NAME.jsonl."""
    model: str
    results: Path
    mixes: tuple[str, ...]
    """Those that the plan runs."""
    sharegpt: Path | None = None
    """source.json of the download."""
    quick: bool = False
    hash_traces: tuple[Path, ...] = ()

    def trace(self, mix: str) -> Path:
        """The trace of a mix, or the hash-id trace of this name."""
        return next((path for path in self.hash_traces if path.name == mix), self.data / f"report_{mix}.jsonl")

    def view(self, point: Point) -> View:
        """The whole mix (of `all`: the first one) at the point's block size."""
        mix = self.mixes[0] if point.mix == "all" else point.mix
        return View(self.trace(mix), self.model, point.block_size)

    def sha256(self, mix: str) -> str:
        """Of a trace's bytes; for `all` of the traces' hashes."""
        if mix != "all":
            return _sha256(self.trace(mix))
        return hashlib.sha256(" ".join(map(self.sha256, self.mixes)).encode()).hexdigest()

    def workloads(self, mix: str) -> list[str]:
        """Of a mix, by its configuration."""
        sources = tomllib.loads((self.configs / f"report_{mix}.toml").read_text(encoding="utf-8"))["sources"]
        return [table.get("workload", name) for name, table in sources.items()]

    def source(self, mix: str) -> dict[str, Any]:
        """Where a mix's data comes from."""
        if any(path.name == mix for path in self.hash_traces):
            return {"source": "given by path"}
        names = self.mixes if mix == "all" else (mix,)
        config = "".join(_sha256(self.configs / f"report_{name}.toml") for name in names)
        found: dict[str, Any] = {
            "source": "built",
            "config_sha256": config if len(names) == 1 else _text_sha256(config),
        }
        if self.sharegpt is not None and self.sharegpt.is_file():
            about = json.loads(self.sharegpt.read_text(encoding="utf-8"))
            found["sharegpt"] = {name: about.get(name) for name in ("source", "sha256", "whole")}
        return found


def _sha256(path: Path) -> str:
    status = path.stat()
    return _hashed(path, status.st_mtime_ns, status.st_size)


@lru_cache
def _hashed(path: Path, mtime_ns: int, size: int) -> str:
    return file_sha256(path)


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
