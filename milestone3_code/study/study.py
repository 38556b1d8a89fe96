"""A point of study two, and the places that it reads and writes."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from milestone3_code.study.build import seeded
from milestone3_code.study.stationary import Traffic, stationary_trace
from milestone3_code.study.view import Params, View
from vllm_sim.provenance import file_sha256

RUNS, MATRIX, ENGINE, HASH = "mixed.jsonl", "mixed_matrix.jsonl", "mixed_engine.jsonl", "mixed_hash.jsonl"
SEEDS, GAPS = "mixed_seeds.jsonl", "mixed_gap.jsonl"
MAIN_BLOCK = 16
GAP_BASE = ("lru", "belady")
"""The policies that a gap lies between."""
_FILES = {"engine": ENGINE, "lost": MATRIX, "hash_trace": HASH, "seeds": SEEDS, "gap": GAPS}


class Timing(NamedTuple):
    """How the engine's requests come, and what is measured."""

    load: float
    """Times the mix's rates of sessions."""
    seconds: float
    """The time in which requests arrive."""
    warmup_s: float
    """Requests that are due from then on are measured."""
    device: str


class Point(NamedTuple):
    """One row of the plan."""

    experiment: str
    mix: str
    block_size: int = MAIN_BLOCK
    capacity: str = ""
    """As the TOML file says it; none for `seeds` and `random`, and for a `gap` over several."""
    policy: str = "lru"
    params: Params = ()
    workload: str | None = None
    detail: str = ""
    """What else the experiment varies; for `seeds`, `gap` and `random` the capacities."""
    mix_seed: int = 0
    """Which draw of the mix, or random traffic; 0 of a mix: the configuration's own seed."""
    policies: tuple[str, ...] = ()
    """For `seeds`."""
    timing: Timing | None = None
    """For `engine`."""

    def files(self) -> tuple[str, ...]:
        """Those that get a row of it."""
        return (_FILES.get(self.experiment, RUNS),)


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

    def trace(self, mix: str, seed: int = 0) -> Path:
        """The trace of a mix under one of its seeds, or the hash-id trace of this name."""
        given = next((path for path in self.hash_traces if path.name == mix), None)
        return given or self.data / f"report_{seeded(mix, seed)}.jsonl"

    def view(self, point: Point) -> View:
        """The whole mix at the point's block size."""
        return View(self.trace(point.mix, point.mix_seed), self.model, point.block_size)

    def key(self, sha256: str, point: object) -> str:
        """Names a point over a trace, by its hash, and a model, of which the folder's name counts."""
        text = f"{sha256} {Path(self.model).name} {self.quick} {point!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sha256(self, mix: str, seed: int = 0) -> str:
        """Of a trace's bytes; for `all` of the traces' hashes."""
        if mix != "all":
            return _sha256(self.trace(mix, seed))
        return hashlib.sha256(" ".join(map(self.sha256, self.mixes)).encode()).hexdigest()

    def stationary(self, mix: str, seed: int, timing: Timing) -> Path:
        """The trace that the engine serves of a mix under one of its seeds, written if it is not there.

        Raises:
            ValueError: the mix was not built.
        """
        if not self.trace(mix, seed).is_file():
            raise ValueError(f"no {self.trace(mix, seed)}; first run milestone3_code/build_mixes.py")
        seconds = max(source["end_s"] for source in self._sources(mix).values())
        traffic = Traffic(timing.load, timing.seconds, seconds)
        return stationary_trace(self.trace(mix, seed), self.sha256(mix, seed), self.model, traffic)

    def _sources(self, mix: str) -> dict[str, Any]:
        return tomllib.loads((self.configs / f"report_{mix}.toml").read_text(encoding="utf-8"))["sources"]

    def workloads(self, mix: str) -> list[str]:
        """Of a mix, by its configuration."""
        return [table.get("workload", name) for name, table in self._sources(mix).items()]

    def source(self, mix: str) -> dict[str, Any]:
        """Where a mix's data comes from."""
        if any(path.name == mix for path in self.hash_traces):
            return {"source": "given by path"}
        names = self.mixes if mix == "all" else (mix,)
        config = "".join(_sha256(self.configs / f"report_{name}.toml") for name in names)
        found: dict[str, Any] = {
            "source": "built",
            "config_sha256": (config if len(names) == 1 else _text_sha256(config))[:DIGITS],
        }
        if self.sharegpt is not None and self.sharegpt.is_file():
            about = json.loads(self.sharegpt.read_text(encoding="utf-8"))
            part = "" if about.get("whole") else ", a part"
            found["sharegpt"] = f"{about.get('source')} {str(about.get('sha256'))[:DIGITS]}{part}"
        return found


DIGITS = 8
"""Of a hash, in the field data."""


def _sha256(path: Path) -> str:
    status = path.stat()
    return _hashed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _hashed(path: Path, mtime_ns: int, size: int) -> str:
    return file_sha256(path)


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
