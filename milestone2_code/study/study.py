"""A run of study one, and the places that it reads and writes."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from milestone2_code.study.workload import Chats, Pattern, load_chats, requests_of
from vllm_sim.eviction.chains import link
from vllm_sim.replay.rows import Row

MAIN_BLOCK = 16
ORACLE = "session_end_oracle"
"""No policy of the registry: what LRU would be if it knew which sessions are over (session_end_oracle.py)."""


class Point(NamedTuple):
    """A run of the fast backend."""

    experiment: str
    workload: str
    block_size: int = MAIN_BLOCK
    share: float | None = None
    """Capacity in tokens: this share of the working set at block size MAIN_BLOCK; None: unlimited."""
    policy: str = "lru"
    pattern: Pattern = Pattern()
    system_prompt: bool = False
    backend: str = "fast"


class EnginePoint(NamedTuple):
    """A run of the engine, in virtual time on a stated device."""

    workload: str
    share: float | None
    concurrency: int | None
    """None: requests arrive by the pattern."""
    pattern: Pattern = Pattern()


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
        about_dump = json.loads(about.read_text(encoding="utf-8"))
        return {"source": about_dump["source"], "sha256": about_dump["sha256"], "whole": about_dump.get("whole")}


def key(study: Study, point: Point | EnginePoint) -> str:
    """Names a run of a plan over a trace and a model, of which the folder's name counts."""
    text = f"{study.chats(point.workload).trace.sha256} {Path(study.model).name} {study.quick} {point!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def capacity_blocks(
    study: Study, workload: str, share: float | None, block_size: int, system_prompt: bool
) -> int | None:
    """A share of the working set at MAIN_BLOCK, as blocks of another size that hold as many tokens.

    The working set is that of all conversations, each of them once; a run that lasts longer has more.
    """
    if share is None:
        return None
    return max(1, int(share * _working_set(study.chats(workload, system_prompt)) * MAIN_BLOCK) // block_size)


@lru_cache(maxsize=4)
def _working_set(chats: Chats) -> int:
    return link(requests_of(chats, MAIN_BLOCK), MAIN_BLOCK).working_set
