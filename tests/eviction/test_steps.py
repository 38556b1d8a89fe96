"""Step tables made by hand: which requests hit, one block each, under every policy's own rule."""

from typing import Any

import numpy as np
import pytest

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.simulate import simulate


def hits(policy: str, blocks: str, capacity: int, categories: str = "", seed: int = 0, **params: Any) -> str:
    """A 1 for each request that hits; a request is one raw block, named by a letter, of the category below it."""
    zeros = np.zeros(len(blocks), np.int64)
    ids = np.array([ord(block) for block in blocks], np.int64)
    category = np.array([int(digit) for digit in categories], np.int64) if categories else zeros
    requests = Requests(ids, np.arange(len(blocks) + 1), zeros + 1, zeros, category, zeros)
    return "".join(map(str, simulate(link(requests, 1, raw=True), policy, capacity, params, seed).hit))


@pytest.mark.parametrize(
    ("policy", "params", "capacity", "blocks", "expected"),
    [
        # d evicts b, which was left alone longest; a was used since.
        ("lru", {}, 3, "abcadab", "0001010"),
        # d evicts a, which came first, although it was used since.
        ("fifo", {}, 3, "abcada", "000100"),
        # d evicts b and b evicts c, used once each; e evicts d, and a keeps its two uses.
        ("lfu", {"ageing": 0}, 3, "aabcdbea", "01000001"),
        # With age, d and b are worth what a's two uses were before they came; of equals a was used least recently.
        ("lfu", {"ageing": 1}, 3, "aabcdbea", "01000000"),
        # a is protected by its second use: e evicts b. Under LRU e evicts a.
        ("slru", {}, 4, "aabcdea", "0100001"),
        ("lru", {}, 4, "aabcdea", "0100000"),
        # Three nodes are protected and two may be: a goes back to probation as its newest, so that e evicts d.
        ("slru", {}, 4, "aabbccdead", "0101010010"),
        # a was used twice, so that the scan b c d e takes its own.
        ("arc", {}, 4, "aabcdea", "0100001"),
        # The ghost a returns to the main queue: f g h i evict from the small one. Under FIFO i evicts a.
        ("s3fifo", {"small": 0.25}, 4, "abcdeafghia", "00000000001"),
        ("fifo", {}, 4, "abcdeafghia", "00000000000"),
        # c evicts b, which is needed last.
        ("belady", {}, 2, "abcacb", "000110"),
    ],
)
def test_a_policy_follows_its_own_rule(
    policy: str, params: dict[str, Any], capacity: int, blocks: str, expected: str
) -> None:
    assert hits(policy, blocks, capacity, **params) == expected


def test_wa_evicts_what_belongs_to_a_category_that_is_never_used_again() -> None:
    # Category 0 comes back after one other block, category 1 never: d evicts b, and a stays. Under LRU d evicts a.
    blocks, categories = "axayazabcda", "01010101110"
    assert hits("workload_aware", blocks, 3, categories) == "00101010001"
    assert hits("lru", blocks, 3) == "00101010000"


def test_random_draws_by_its_seed_alone() -> None:
    blocks = "abcdefgh" * 20
    runs = [hits("random", blocks, 5, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert "1" in runs[0]
