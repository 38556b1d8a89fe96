"""Where the tokens of a prompt were found, or why they were not: the one place that says so.

Every prompt token is counted once, at its request's first admission, and the five parts add up to the prompt:

    hit       found cached
    cold      in a block that was never cached before (compulsory miss)
    evicted   in a block that was cached before, and is not any more (capacity miss)
    partial   the tail that fills no block
    last      the block that holds the last token of a prompt of k x block size: vLLM always computes it

Faithful to vLLM 0.32 (v1/core/kv_cache_manager.py get_computed_blocks, read): full blocks alone are hit, and never the
last token. Raw blocks follow the convention of published traces instead: the tail is a block of its own, which counts
as many tokens as it has; partial is then a tail without an id, and last is 0.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


class Blocks(NamedTuple):
    """What requests found at their first admission, in blocks; an array [n] each."""

    hit: Array
    hit_generated: Array
    """Of the hits, those with a generated token."""
    cold: Array
    evicted: Array


class Breakdown(NamedTuple):
    """The parts of prompts, in tokens; an array [n] each."""

    hit: Array
    hit_generated: Array
    cold: Array
    evicted: Array
    partial: Array
    last: Array


def breakdown(found: Blocks, prompt_tokens: Array, block_size: int, raw_blocks: bool = False) -> Breakdown:
    """The parts of prompts.

    Args:
        found: in blocks, [n] each.
        prompt_tokens: [n].
        block_size: tokens a block.
        raw_blocks: whether the tail is a block.
    """
    # In the order of a chain: what is hit comes first, then what is gone, then what was never there.
    blocks = np.cumsum([found.hit, found.evicted, found.cold], axis=0)
    hit, seen, named = np.minimum(blocks * block_size, prompt_tokens)
    partial = prompt_tokens - named if raw_blocks else prompt_tokens % block_size
    generated = np.zeros_like(hit) if raw_blocks else found.hit_generated * block_size
    return Breakdown(hit, generated, named - seen, seen - hit, partial, prompt_tokens - named - partial)
