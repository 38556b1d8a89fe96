"""CPU memory of the `fast` backend: its line as vLLM 0.33 has it, and that the bound is not reached in general."""

import random

import numpy as np
import pytest

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.simulate import simulate
from vllm_sim.eviction.tiers import ChunkTier, RankedTier, simulate_ranked_tiers, simulate_tiers

NODES = 40
Rank = tuple[int, int]


def line_of(tier: ChunkTier) -> list[int]:
    found, node = [], int(tier.line.after[tier.line.end])
    while node != tier.line.end:
        found.append(node)
        node = int(tier.line.after[node])
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_line_is_by_the_ranks_that_vllm_0_33_gives(seed: int) -> None:
    """Read: v1/kv_offload/cpu/policies/lru.py of 0.33: ranks (request, -position), and (end, 0) after the request."""
    draw, tier = random.Random(seed), RankedTier(NODES, 1, NODES)
    ranks: dict[int, Rank] = {}
    of_request: dict[int, int] = {}
    count = raised = 0
    requests = [np.array(draw.sample(range(NODES), k=draw.randrange(1, 12))) for _ in range(60)]
    for row, nodes in enumerate(requests):
        ended = row - 1
        first = draw.randrange(nodes.size + 1)
        for start, end in ((0, first), (first, nodes.size)):
            for chunk in range(start, end):
                if row not in of_request:
                    count += 1
                    of_request[row] = count
                node, rank = int(nodes[chunk]), (of_request[row], -chunk - 1)
                tier.user[node] = row
                if node not in ranks:
                    tier.store(node, row, chunk)
                    ranks[node] = rank
                else:
                    tier.find(node, row, chunk)
                    raised += ranks[node] < rank
                    ranks[node] = max(ranks[node], rank)
            if start == 0 and ended >= 0:  # a request learns of the end of the one before it between the two
                before = requests[ended]
                own = [int(node) for node in before if int(tier.user[node]) == ended and int(node) in ranks]
                tier.finish(before, ended, 0, 0, before.size)
                for node in reversed(own):
                    count += 1
                    ranks[node] = count, 0
        assert line_of(tier) == sorted(ranks, key=ranks.__getitem__)
        if len(ranks) > NODES // 2:
            oldest = sorted(ranks, key=ranks.__getitem__)[:3]
            tier.evict(3, row=len(requests))
            assert line_of(tier) == [node for node in sorted(ranks, key=ranks.__getitem__) if node not in oldest]
            for node in oldest:
                del ranks[node]
    assert raised > 20


@pytest.mark.parametrize("policy", ["lru", "belady"])
def test_no_policy_reaches_one_cache_of_both_sizes_where_two_prompts_that_fill_each_tier_take_turns(
    policy: str,
) -> None:
    """A prompt that is served takes all of the GPU's blocks, and its chunks all of CPU memory: whoever evicts what."""
    blocks, turns = 6, 8
    ids = np.concatenate([np.arange(blocks) + blocks * (turn % 2) for turn in range(turns)])
    of_each = np.ones(turns, np.int64)
    requests = Requests(
        ids=ids,
        begins=np.arange(turns + 1) * blocks,
        prompt_tokens=of_each * (4 * blocks + 1),
        output_tokens=of_each * 2,
        category=of_each * 0,
        salt=of_each * 0,
    )
    chains = link(requests, 4)
    for run_tiers in (simulate_tiers, simulate_ranked_tiers):
        run, _ = run_tiers(chains, requests.output_tokens, policy, blocks + 1, blocks, 1)
        assert run.hit.sum() == 0
        assert not run.rejected.any()
    assert simulate(chains, "belady", 2 * blocks + 1).hit.sum() == blocks * (turns - 2)
