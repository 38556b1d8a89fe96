"""vLLM's arithmetic of blocks, by a table and against vLLM's own manager (tests/replay/test_blockpool.py)."""

import numpy as np
import pytest

from vllm_sim.block_rules import computed_tokens, full_blocks, hittable_blocks, needed_blocks

# P, O, B; computed, cached, needed, hittable
TABLE = [
    (1, 1, 4, 1, 0, 1, 0),
    (4, 1, 4, 4, 1, 1, 0),
    (5, 1, 4, 5, 1, 2, 1),
    (8, 1, 4, 8, 2, 2, 1),
    (8, 2, 4, 9, 2, 3, 1),
    (9, 4, 4, 12, 3, 3, 2),
    (3, 2, 1, 4, 4, 4, 2),
]


@pytest.mark.parametrize(("prompt", "output", "size", "computed", "cached", "needed", "hittable"), TABLE)
def test_blocks_of_a_request(
    prompt: int, output: int, size: int, computed: int, cached: int, needed: int, hittable: int
) -> None:
    tokens = computed_tokens(prompt, output)
    found = tokens, full_blocks(tokens, size), needed_blocks(tokens, size), hittable_blocks(prompt, size)
    assert found == (computed, cached, needed, hittable)


def test_arrays_are_as_their_numbers() -> None:
    prompt, output = (np.array([row[place] for row in TABLE]) for place in (0, 1))
    tokens = computed_tokens(prompt, output)
    assert tokens.tolist() == [row[3] for row in TABLE]
    assert needed_blocks(tokens, 4).tolist() == [-(-row[3] // 4) for row in TABLE]
