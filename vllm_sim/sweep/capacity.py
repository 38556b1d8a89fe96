"""Capacities as a sweep's user writes them, in blocks."""

import re

from vllm_sim.models.layers import kv_bytes_a_token

__all__ = ["capacity_blocks", "kv_bytes_a_token"]

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(%|Ktok|Mtok|tok|KiB|MiB|GiB|TiB|)")
_TOKENS = {"tok": 1, "Ktok": 1000, "Mtok": 1_000_000}
_BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MOST_BLOCKS = 2**31 - 1
"""vLLM's block tables hold numbers of 32 bits."""
ALLOWED = "blocks (3000), tokens (48000tok, 48Ktok), a share of the working set (10%), bytes (16GiB), unlimited, all"


def capacity_blocks(text: str, block_size: int, working_set_blocks: int, model: str | None) -> int | None:
    """Usable blocks, rounded down; of a share one at least; None for `unlimited`.

    Args:
        text: one of ALLOWED but `all`, which is no number of blocks. K is 1,000 tokens, Ki, Mi, Gi powers of 1,024.
        block_size: tokens a block.
        working_set_blocks: of the trace at this block size, for shares.
        model: folder with config.json, for bytes.

    Raises:
        ValueError: none of them, tokens or bytes that fill no block, or more than MOST_BLOCKS.
    """
    if text == "unlimited":
        return None
    match = _NUMBER.fullmatch(text)
    if match is None or float(match[1]) == 0 or (not match[2] and "." in match[1]):
        raise ValueError(f"capacity is {text!r}; allowed: {ALLOWED}")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        blocks = number / 100 * working_set_blocks
    elif unit in _TOKENS:
        blocks = number * _TOKENS[unit] / block_size
    elif unit in _BYTES:
        blocks = number * _BYTES[unit] / (block_size * kv_bytes_a_token(model))
    else:
        blocks = number
    if blocks > MOST_BLOCKS:
        raise ValueError(f"capacity is {text!r}; allowed: up to {MOST_BLOCKS:,} blocks, or unlimited")
    whole = int(blocks + 1e-9)  # 10 % of 30 is 3, though 0.1 * 30 may be a little less
    if whole < 1 and unit != "%":
        raise ValueError(f"capacity {text} fills no block of {block_size:,} tokens; allowed: one block or more")
    return max(1, whole)


def size_bytes(text: str) -> int:
    """Bytes of a size such as 40GiB.

    Raises:
        ValueError: it is none.
    """
    match = _NUMBER.fullmatch(text)
    if match is None or match[2] not in _BYTES or float(match[1]) == 0:
        raise ValueError(f"size is {text!r}; allowed: bytes as in 512MiB, 40GiB, 1.5TiB")
    return int(float(match[1]) * _BYTES[match[2]])
