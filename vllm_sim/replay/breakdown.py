"""Where the tokens of a prompt were found, or why they were not: the one place that says so.

Every prompt token is counted once, at its request's first admission, and the parts add up to the prompt:

    hit       found cached
    cold      in a block that was never cached before (compulsory miss)
    evicted   in a block that was cached before, and is not any more (capacity miss)
    window    in a block that was cached by other groups of layers, and by a sliding window or a state never
    alignment in a block after the last boundary at which several groups of layers can be hit
    partial   the tail that fills no block
    last      the block that holds the last token of a prompt of k x block size: vLLM always computes it

Faithful to vLLM 0.32 (v1/core/kv_cache_manager.py get_computed_blocks, read): full blocks alone are hit, and never the
last token. Where all layers have full attention window and alignment are 0. Raw blocks follow the convention of
published traces instead: the tail is a block of its own, which counts as many tokens as it has; partial is then a tail
without an id, and last is 0.
"""

from itertools import accumulate
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
    window: Array | None = None
    """None, as alignment: one group of layers, all with full attention."""
    alignment: Array | None = None


class Breakdown(NamedTuple):
    """The parts of prompts, in tokens; an array [n] each."""

    hit: Array
    hit_generated: Array
    cold: Array
    evicted: Array
    partial: Array
    last: Array
    window: Array | None = None
    alignment: Array | None = None


def breakdown(found: Blocks, prompt_tokens: Array, block_size: int, raw_blocks: bool = False) -> Breakdown:
    """The parts of prompts.

    Args:
        found: in blocks, [n] each.
        prompt_tokens: [n].
        block_size: tokens a block.
        raw_blocks: whether the tail is a block.
    """
    none = np.zeros_like(found.hit)
    window = none if found.window is None else found.window
    alignment = none if found.alignment is None else found.alignment
    # In the order of a chain: what is hit comes first, then what is gone, then what was never there.
    ends = accumulate((found.hit, found.evicted, window, alignment, found.cold))
    hit, kept, aligned, seen, named = (np.minimum(blocks * block_size, prompt_tokens) for blocks in ends)
    partial = prompt_tokens - named if raw_blocks else prompt_tokens % block_size
    generated = np.zeros_like(hit) if raw_blocks else found.hit_generated * block_size
    last = prompt_tokens - named - partial
    parts = Breakdown(hit, generated, named - seen, kept - hit, partial, last)
    return parts if found.window is None else parts._replace(window=aligned - kept, alignment=seen - aligned)
