"""Where the hits of a cache without bounds come from, and how far apart the uses of a block are.

A hit counts as `system` where the block lies in what all prompts share, as `same_session` where the session cached it
first or used it last, else as `other_session`. Gaps lie between a hit and the use before it. For intervals a hit goes
with its request's session, and a block with the session that cached it first.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from milestone2_code.study.workload import Chats, Ordered
from vllm_sim.eviction.chains import Chains
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.bootstrap import Numbers, Pair, quantiles, ratio_intervals, share_of_top

SOURCES = ("system", "same_session", "other_session")
CDF = tuple(round(share / 100, 2) for share in (1, *range(5, 100, 5), 99))


class Uses(NamedTuple):
    """What blocks are used for; arrays by row, by hit, and by node."""

    hits: Numbers
    """[rows], blocks."""
    source: Numbers
    """[hits], a place in SOURCES."""
    before: Numbers
    after: Numbers
    """[hits], the row that used the block before, and the row that hits it."""
    first: Numbers
    last: Numbers
    """[nodes], rows."""
    uses: Numbers
    """[nodes], hits."""
    owner: Numbers
    """[nodes], the session that cached it first."""


@numba.njit(cache=True)
def find_uses(chains: Chains, sessions: Any, system_blocks: int) -> Any:
    """The fields of `Uses`, from the chains and the session [rows] of each of their rows."""
    count = chains.working_set
    owner, user = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    first, last = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    uses, hits = np.zeros(count, np.int64), np.zeros(sessions.size, np.int64)
    source = np.empty(chains.nodes.size, np.int8)
    before, after = np.empty(chains.nodes.size, np.int64), np.empty(chains.nodes.size, np.int64)
    found = 0
    for row in range(sessions.size):
        begin, end = chains.begins[row], chains.begins[row + 1]
        hit = 0
        while hit < chains.hittable[row] and first[chains.nodes[begin + hit]] >= 0:
            node = chains.nodes[begin + hit]
            if hit < system_blocks:
                source[found] = 0
            elif owner[node] == sessions[row] or user[node] == sessions[row]:
                source[found] = 1
            else:
                source[found] = 2
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
    return hits, source[:found], before[:found], after[:found], first, last, uses, owner


def reuse_row(chats: Chats, ordered: Ordered, block_size: int) -> Row:
    """Sources of hits, shared prefixes, reuse gaps, lifetimes and popularity of blocks in an unlimited cache.

    Each field that ends in _ci95 is the interval of the field that is named before it; gaps and prefixes are named by
    their values at the shares of CDF.
    """
    of = ordered.sessions
    found = Uses(*find_uses(ordered.chains, of, chats.system_tokens // block_size))
    requests, times_s = ordered.requests, ordered.times_ms / 1000
    tokens_until = np.cumsum(requests.prompt_tokens + requests.output_tokens)
    used, hitting, sessions = found.uses > 0, of[found.after], int(of.max()) + 1
    spread = {
        "shared_prefix_tokens": (found.hits * block_size, of),
        "reuse_gap_requests": (found.after - found.before, hitting),
        "reuse_gap_tokens": (tokens_until[found.after] - tokens_until[found.before], hitting),
        "reuse_gap_s": (times_s[found.after] - times_s[found.before], hitting),
        "lifetime_s": ((times_s[found.last] - times_s[found.first])[used], found.owner[used]),
        "uses_of_hit_blocks": (found.uses[used], found.owner[used]),
    }
    values: Row = {"system_tokens": chats.system_tokens} | _sources(found, of, block_size)
    for name, (numbers, owners) in spread.items():
        values[name], values[f"{name}_ci95"] = quantiles(numbers, owners, sessions, CDF)
    unused = (~used).astype(np.float64)
    (pair,) = ratio_intervals(unused[None], np.ones((1, len(unused))), found.owner)
    values |= {"blocks": len(used), "blocks_never_hit": int(unused.sum())}
    values |= {"share_never_hit": round(float(unused.mean()), 6), "share_never_hit_ci95": pair}
    values["hit_share_of_top_1_percent"], pair = share_of_top(found.uses, found.owner, sessions, 0.01)
    return values | {"hit_share_of_top_1_percent_ci95": pair}


def _sources(found: Uses, of: Numbers, block_size: int) -> Row:
    """Hit tokens by source, and the share of each."""
    hits = np.bincount(found.source, minlength=len(SOURCES))
    whole = max(1, int(hits.sum()))
    by_row = np.array(
        [np.bincount(found.after[found.source == i], minlength=len(of)) for i in range(len(SOURCES))], np.float64
    )
    pairs: list[Pair] = ratio_intervals(by_row, np.tile(by_row.sum(axis=0), (len(SOURCES), 1)), of)
    return {
        "hits_by_source_tokens": {name: int(n) * block_size for name, n in zip(SOURCES, hits, strict=True)},
        "hits_by_source_share": {name: round(int(n) / whole, 6) for name, n in zip(SOURCES, hits, strict=True)},
        "hits_by_source_share_ci95": dict(zip(SOURCES, pairs, strict=True)),
    }
