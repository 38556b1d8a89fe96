"""Chats that keep coming: as many sessions as a fixed time has, measured once as many end as begin.

2,500 sessions at 16 a second all begin within 156 s, and then fewer and fewer share the cache: a rate of such a run is
of its end, not of its arrivals. Here sessions begin as a Poisson process all the time. L is the mean time from a
session's first request to its last: 2 L are left out, and then at least L is measured, or the time in which
LEAST_SESSIONS begin. Conversations are drawn without replacement; where more are needed all come again, in another
order and under a salt of their own, so no copy hits what another one left.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from milestone2_code.study.reuse import Uses, find_uses
from milestone2_code.study.study import Point, Study, capacity_blocks
from milestone2_code.study.workload import THINK_SIGMA, Chats, Pattern, requests_of
from vllm_sim.eviction.chains import Array, Chains, Requests, link, reorder
from vllm_sim.eviction.simulate import simulate
from vllm_sim.models.layers import kv_bytes_a_token
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row, head
from vllm_sim.sweep.bootstrap import in_order, ratio_intervals

WARMUP_LIVES = 2
LEAST_SESSIONS = 1000
"""That begin while it is measured, at least."""


class Steady(NamedTuple):
    """Requests in the order of their arrival; n is their number."""

    requests: Requests
    chains: Chains
    rows: NDArray[np.intp]
    """[n], of the chats' trace."""
    times_s: NDArray[np.float64]
    """[n]."""
    sessions: Array
    """[n], numbers."""
    warmup_s: float
    seconds: float


def mean_life_s(chats: Chats, pattern: Pattern) -> float:
    """From a session's first request to its last, the mean."""
    sessions = len({record.session_id for record in chats.records})
    pauses = (len(chats.records) - sessions) / sessions
    return pauses * pattern.think_s * float(np.exp(THINK_SIGMA**2 / 2))


@lru_cache(maxsize=1)
def steady(chats: Chats, block_size: int, pattern: Pattern) -> Steady:
    """The requests of a pattern, for as long as it takes."""
    draw = np.random.default_rng([pattern.seed, 1])
    life_s = mean_life_s(chats, pattern)
    warmup_s = WARMUP_LIVES * life_s
    seconds = warmup_s + max(life_s, LEAST_SESSIONS / pattern.sessions_per_s)
    count = int(draw.poisson(pattern.sessions_per_s * seconds))
    starts = np.sort(draw.uniform(0, seconds, count))
    of_row: dict[str | int | None, int] = {}
    session_of = np.array([of_row.setdefault(record.session_id, len(of_row)) for record in chats.records])
    pool, turns = len(of_row), np.bincount(session_of)
    by_session = np.argsort(session_of, kind="stable")
    begins = np.concatenate([[0], np.cumsum(turns)])
    copies = -(-count // pool)
    drawn = np.concatenate([draw.permutation(pool) for _ in range(copies)])[:count]
    lengths = turns[drawn]
    session = np.repeat(np.arange(count), lengths)
    turn = np.arange(session.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pauses = np.where(turn > 0, draw.lognormal(np.log(pattern.think_s), THINK_SIGMA, session.size), 0.0)
    waited = np.cumsum(pauses)
    first = np.repeat(waited[np.cumsum(lengths) - lengths], lengths)
    times = starts[session] + waited - first
    order = np.argsort(times, kind="stable")
    order = order[times[order] < seconds]
    rows = by_session[np.repeat(begins[drawn], lengths) + turn][order]
    requests = reorder(requests_of(chats, block_size), rows)
    requests = requests._replace(salt=(session[order] // pool).astype(np.int64))
    return Steady(requests, link(requests, block_size), rows, times[order], in_order(session[order]), warmup_s, seconds)


def steady_row(study: Study, point: Point) -> Row:
    """The row of a rate and think time."""
    chats = study.chats(point.workload)
    capacity = capacity_blocks(study, point.workload, point.share, point.block_size, False)
    found = steady(chats, point.block_size, point.pattern)
    config = RunConfig(
        model=study.model, backend="fast", capacity_blocks=capacity, block_size=point.block_size, policy=point.policy
    )
    assert capacity is not None
    tokens = simulate(found.chains, point.policy, capacity, {}).hit * point.block_size
    is_measured, prompt = found.times_s >= found.warmup_s, found.requests.prompt_tokens
    hit, asked = tokens[is_measured], prompt[is_measured]
    sessions = found.sessions[is_measured]
    (pair,) = ratio_intervals(hit[None], asked[None], in_order(sessions))
    brought = asked.sum() + found.requests.output_tokens[is_measured].sum()
    a_second = float(brought) / (found.seconds - found.warmup_s)
    uses = Uses(*find_uses(found.chains, found.sessions, chats.system_tokens // point.block_size))
    until = np.cumsum(prompt + found.requests.output_tokens)
    gaps = (until[uses.after] - until[uses.before])[is_measured[uses.after]]
    return {
        "experiment": point.experiment,
        "workload": point.workload,
        "capacity_share": point.share,
        "system_prompt": False,
        **point.pattern._asdict(),
        **head(chats.path.name, chats.trace.sha256, config),
        "seed": 0,
        "arrival_seed": point.pattern.seed,
        "warmup_s": round(found.warmup_s, 1),
        "seconds": round(found.seconds, 1),
        "capacity_tokens": capacity * point.block_size,
        "capacity_gib": round(capacity * point.block_size * kv_bytes_a_token(study.model) / 2**30, 3),
        "capacity_seconds": round(capacity * point.block_size / a_second, 1),
        "requests": int(asked.size),
        "warmup_requests": int((~is_measured).sum()),
        "sessions": int(np.unique(sessions).size),
        "prompt_tokens": int(asked.sum()),
        "hit_tokens": int(hit.sum()),
        "token_hit_rate": round(float(hit.sum() / asked.sum()), 6),
        "token_hit_rate_ci95": pair,
        "reuse_gap_tokens": {f"{share:.2f}": int(np.quantile(gaps, share)) for share in (0.5, 0.9)},
    }
