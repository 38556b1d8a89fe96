"""Where the hits of a cache without bounds come from, and how far apart the uses of a block are.

A hit counts as `system` where the block lies in what all prompts share, as `same_session` where the session cached it
first or used it last, else as `other_session`. Gaps lie between a hit and the use before it.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from vllm_sim.eviction.chains import Chains
from vllm_sim.replay.rows import Row
from vllm_sim.study.chat.workload import Chats, Ordered

SOURCES = ("system", "same_session", "other_session")
CDF = tuple(round(share / 100, 2) for share in (1, *range(5, 100, 5), 99))


@numba.njit(cache=True)
def _uses(chains: Chains, sessions: Any, system_blocks: int) -> Any:
    """(hits by source; for each row its hits; for each hit the row before and its own; first and last row, and number
    of uses of each node)."""
    count = chains.working_set
    owner, user = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    first, last = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    uses = np.zeros(count, np.int64)
    sources, hits = np.zeros(3, np.int64), np.zeros(sessions.size, np.int64)
    before, after = np.empty(chains.nodes.size, np.int64), np.empty(chains.nodes.size, np.int64)
    found = 0
    for row in range(sessions.size):
        begin, end = chains.begins[row], chains.begins[row + 1]
        hit = 0
        while hit < chains.hittable[row] and first[chains.nodes[begin + hit]] >= 0:
            node = chains.nodes[begin + hit]
            if hit < system_blocks:
                sources[0] += 1
            elif owner[node] == sessions[row] or user[node] == sessions[row]:
                sources[1] += 1
            else:
                sources[2] += 1
            before[found], after[found] = last[node], row
            found += 1
            uses[node] += 1
            hit += 1
        hits[row] = hit
        for place in range(begin, end):
            node = chains.nodes[place]
            if first[node] < 0:
                first[node], owner[node] = row, sessions[row]
            last[node], user[node] = row, sessions[row]
    return sources, hits, before[:found], after[:found], first, last, uses


def reuse_row(chats: Chats, ordered: Ordered, block_size: int) -> Row:
    """Sources of hits, shared prefixes, reuse gaps, lifetimes and popularity of blocks in an unlimited cache."""
    system_blocks = chats.system_tokens // block_size
    sources, hits, before, after, first, last, uses = _uses(ordered.chains, ordered.sessions, system_blocks)
    requests = ordered.requests
    ends = np.cumsum(requests.prompt_tokens + requests.output_tokens)
    times_s = ordered.times_ms / 1000
    used = uses > 0
    ranked = np.sort(uses)[::-1]
    total = max(1, int(ranked.sum()))
    top = max(1, len(ranked) // 100)
    return {
        "system_tokens": chats.system_tokens,
        "hits_by_source_tokens": {name: int(n) * block_size for name, n in zip(SOURCES, sources, strict=True)},
        "shared_prefix_tokens": _quantiles(hits * block_size),
        "reuse_gap_requests": _quantiles(after - before),
        "reuse_gap_tokens": _quantiles(ends[after] - ends[before]),
        "reuse_gap_s": _quantiles(times_s[after] - times_s[before]),
        "lifetime_s": _quantiles((times_s[last] - times_s[first])[used]),
        "blocks": len(uses),
        "blocks_never_hit": int((~used).sum()),
        "hit_share_of_top_1_percent": round(int(ranked[:top].sum()) / total, 6),
        "uses_of_hit_blocks": _quantiles(uses[used]),
    }


def _quantiles(values: NDArray[Any]) -> dict[str, float]:
    """The values at the shares of CDF."""
    if not len(values):
        return {}
    return {f"{share:.2f}": round(float(value), 3) for share, value in zip(CDF, np.quantile(values, CDF), strict=True)}
