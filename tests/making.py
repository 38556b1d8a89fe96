"""A small trace of two workloads with sessions, in which blocks are reused, evicted and asked for again."""

from pathlib import Path
from typing import Any

from tests.serving import MODEL, write_trace
from vllm_sim.replay.config import RunConfig

BLOCK = 4
TOKEN_BYTES = 16 * 2 * 8 * 64 * 2
"""Keys and values of Llama 3.2 1B in 16 bits: layers, both, heads, size of a head, bytes."""


def rows() -> list[dict[str, Any]]:
    made = []
    for i in range(60):
        session = (i * 7) % 12
        turn = i // 12
        prompt = [1, 2, 3, 4, *(100 * (session + 1) + n for n in range(9 + 6 * turn))]
        tags = {"session_id": f"s{session}", "turn": turn, "workload": "chat" if session % 2 else "agent"}
        made.append({"prompt_token_ids": prompt, "output_length": 5, "timestamp": i * 100.0} | tags)
    return made


def small_trace(folder: Path) -> Path:
    return write_trace(folder / "small.jsonl", rows())


def settings(**values: Any) -> RunConfig:
    return RunConfig(**({"model": str(MODEL), "backend": "fast", "block_size": BLOCK, "capacity_blocks": 40} | values))


def gib(blocks: int) -> float:
    """CPU memory that holds so many blocks."""
    return blocks * BLOCK * TOKEN_BYTES / 2**30
