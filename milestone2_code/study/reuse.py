"""Where the hits of a cache without bounds come from, and how far apart the uses of a block are.

A hit counts as `system` where the block lies in what all prompts share, as `same_session` where the session cached it
first or used it last, else as `other_session`. Gaps lie between a hit and the use before it. For intervals a hit goes
with its request's session, and a block with the session that cached it first.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np

from milestone2_code.study.steady import Steady, session_turns
from milestone2_code.study.workload import Chats, requests_of
from vllm_sim.eviction.chains import Chains, link
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.bootstrap import Numbers, Pair, in_order, quantiles, ratio_intervals, share_of_top

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


def reuse_row(chats: Chats, found: Steady, block_size: int) -> Row:
    """Sources of hits, shared prefixes, reuse gaps and popularity of blocks in an unlimited cache.

    Hits and gaps are those of the requests that count; blocks are those of all conversations, each of them once, since
    they live longer than requests count. A field that ends in _ci95 is the interval of the field that is named before
    it; gaps and prefixes are named by their values at the shares of CDF.
    """
    uses, session_of = _uses(chats, found, block_size), session_turns(chats)[0]
    is_counted = uses.after >= found.first
    after, before, source = uses.after[is_counted], uses.before[is_counted], uses.source[is_counted]
    of = in_order(found.sessions[found.first :])
    hitting = of[after - found.first]
    chains = link(requests_of(chats, block_size), block_size)
    blocks = Uses(*find_uses(chains, session_of, chats.system_tokens // block_size))
    used, sessions, pool = blocks.uses > 0, int(of.max()) + 1, int(session_of.max()) + 1
    spread = {
        "shared_prefix_tokens": (uses.hits[found.first :] * block_size, of, sessions),
        "reuse_gap_requests": (after - before, hitting, sessions),
        "reuse_gap_tokens": (gaps_of(chats, found, block_size), hitting, sessions),
        "reuse_gap_s": (found.times_s[after] - found.times_s[before], hitting, sessions),
        "uses_of_hit_blocks": (blocks.uses[used], blocks.owner[used], pool),
    }
    values: Row = {"system_tokens": chats.system_tokens} | _sources(source, after - found.first, of, block_size)
    for name, (numbers, owners, count) in spread.items():
        values[name], values[f"{name}_ci95"] = quantiles(numbers, owners, count, CDF)
    unused = (~used).astype(np.float64)
    (pair,) = ratio_intervals(unused[None], np.ones((1, len(unused))), blocks.owner)
    values |= {"blocks": len(used), "blocks_never_hit": int(unused.sum())}
    values |= {"share_never_hit": round(float(unused.mean()), 6), "share_never_hit_ci95": pair}
    values["hit_share_of_top_1_percent"], pair = share_of_top(blocks.uses, blocks.owner, pool, 0.01)
    return values | {"hit_share_of_top_1_percent_ci95": pair}


def gaps_of(chats: Chats, found: Steady, block_size: int) -> Numbers:
    """Tokens, of prompts and answers, from a use to each hit of a request that counts; an unlimited cache."""
    uses = _uses(chats, found, block_size)
    until = np.cumsum(found.requests.prompt_tokens + found.requests.output_tokens)
    return (until[uses.after] - until[uses.before])[uses.after >= found.first]


@lru_cache(maxsize=1)
def _uses(chats: Chats, found: Steady, block_size: int) -> Uses:
    return Uses(*find_uses(found.chains, found.sessions, chats.system_tokens // block_size))


def _sources(source: Numbers, rows: Numbers, of: Numbers, block_size: int) -> Row:
    """Hit tokens by source, and the share of each.

    Args:
        source: a place in SOURCES, by hit.
        rows: the place of the request of each hit.
        of: the session of each request.
        block_size: tokens.
    """
    hits = np.bincount(source, minlength=len(SOURCES))
    whole = max(1, int(hits.sum()))
    by_row = np.array([np.bincount(rows[source == i], minlength=len(of)) for i in range(len(SOURCES))], np.float64)
    pairs: list[Pair] = ratio_intervals(by_row, np.tile(by_row.sum(axis=0), (len(SOURCES), 1)), of)
    return {
        "hits_by_source_tokens": {name: int(n) * block_size for name, n in zip(SOURCES, hits, strict=True)},
        "hits_by_source_share": {name: round(int(n) / whole, 6) for name, n in zip(SOURCES, hits, strict=True)},
        "hits_by_source_share_ci95": dict(zip(SOURCES, pairs, strict=True)),
    }
