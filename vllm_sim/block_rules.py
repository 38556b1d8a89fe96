"""vLLM's arithmetic of blocks: how many of a request's blocks are cached, can be hit, and are needed.

Faithful to vLLM 0.32 and 0.33 (v1/core/kv_cache_manager.py get_computed_blocks and allocate_slots, read): full blocks
alone are cached; the last prompt token is never hit, since its logits are needed; the last generated token is never
computed. Each function takes numbers or arrays of them; P is the tokens of a prompt, O those generated, B those of a
block. Not here: several cache groups, whose blocks differ.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Count = TypeVar("Count", int, npt.NDArray[np.int64])


def computed_tokens(prompt_tokens: Count, output_tokens: Count) -> Count:
    """P + O - 1: tokens that are computed; a request generates one at least."""
    return prompt_tokens + output_tokens - 1


def full_blocks(tokens: Count, block_size: int) -> Count:
    """floor(tokens / B): of computed tokens the blocks that are cached."""
    return tokens // block_size


def needed_blocks(tokens: Count, block_size: int) -> Count:
    """ceil(tokens / B): of computed tokens the blocks that are taken."""
    return -(-tokens // block_size)


def hittable_blocks(prompt_tokens: Count, block_size: int) -> Count:
    """floor((P - 1) / B): blocks of a prompt that can be hit."""
    return (prompt_tokens - 1) // block_size
