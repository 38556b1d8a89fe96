"""What a replay is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BACKENDS = {
    "engine": "vllm_sim.replay.virtual:run_engine",
    "blockpool": "vllm_sim.engine.blockpool:run",
    "fast": "vllm_sim.eviction.simulate:simulate",
}
"""What serves the requests, imported when it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a replay is told; the defaults are the command's."""

    model: str
    backend: str = "engine"
    capacity_blocks: int | None = None
    """Usable blocks; None for a cache in which nothing is ever evicted."""
    block_size: int = 16
    raw_blocks: bool = False
    """Every hash id is one block, as in published numbers; `fast` only."""
    policy: str = "lru"
    policy_params: dict[str, Any] = field(default_factory=dict)
    concurrency: int | None = None
    speedup: float = 1.0
    latency_model: str = "roofline"
    device: str = "h100"
    latency_file: Path | None = None
    """For the latency model `table`."""
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    async_scheduling: bool = False
    warmup: float = 0.0
    seed: int = 0
    attribution: bool = True
    timeline: Path | None = None
    """Where to write a trace for Perfetto; `engine` only."""

    def __post_init__(self) -> None:
        counts = ("capacity_blocks", "block_size", "concurrency", "max_num_seqs", "max_num_batched_tokens")
        for name in (*counts, "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; allowed: a fraction from 0 to less than 1")
        if not self.speedup > 0:
            raise ValueError(f"speedup is {self.speedup}; allowed: more than 0")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend is {self.backend!r}; allowed: {', '.join(BACKENDS)}")
        if self.raw_blocks and self.backend != "fast":
            raise ValueError(f"backend {self.backend} cannot serve raw blocks, which vLLM does not have; allowed: fast")
        if self.timeline is not None and self.backend != "engine":
            raise ValueError(f"backend {self.backend} has no time to draw a timeline of; allowed: engine")
