"""Chats that keep coming: rates count only once conversations of all ages are there.

2,500 sessions at one a second all begin within 2,500 s. Before the first are over, and after the last has begun, fewer
share the cache: a rate of the whole run is one of its ends. Here sessions begin as a Poisson process for as long as
requests count. Left out is the time in which a conversation brings WARM of its prompt tokens. After that as many
sessions begin as it takes for every conversation to have begun, but at least LEAST_SESSIONS, and for a mean life.
Conversations are drawn without replacement; where more are needed all come again, in another order and under a salt of
their own, so no copy hits what another one left.

Single requests have no life: none is left out, and each comes once.
"""

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from milestone2_code.study.workload import THINK_SIGMA, Chats, Pattern, requests_of
from vllm_sim.eviction.chains import Array, Chains, Requests, link, reorder
from vllm_sim.models.layers import kv_bytes_a_token
from vllm_sim.replay.outcome import Outcome, Schedule, labels_of
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.bootstrap import in_order

WARM = 0.95
LEAST_SESSIONS = 1000
"""That begin while it is measured, or all where there are fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Steady:
    """Requests in the order of their arrival; n is their number."""

    requests: Requests
    chains: Chains
    rows: NDArray[np.intp]
    """[n], of the chats' trace."""
    times_s: NDArray[np.float64]
    """[n]."""
    pauses_s: NDArray[np.float64]
    """[n], before each request; 0 before a first turn."""
    sessions: Array
    """[n], numbers."""
    warmup_s: float
    seconds: float

    @property
    def first(self) -> int:
        """The first request that counts."""
        return int(np.searchsorted(self.times_s, self.warmup_s))


def mean_pause_s(pattern: Pattern) -> float:
    """The mean of a log-normal think time."""
    return pattern.think_s * float(np.exp(THINK_SIGMA**2 / 2))


def warmup_turns(chats: Chats) -> int:
    """Turns with which conversations have brought WARM of their prompt tokens."""
    turns, tokens = session_turns(chats)[1], chats.trace.prompt_lengths
    reached = np.cumsum(np.bincount(turns, weights=tokens))
    return int(np.searchsorted(reached, WARM * reached[-1]))


def session_turns(chats: Chats) -> tuple[Array, Array]:
    """The number of its session, and the place in it, of each row of the trace."""
    numbers: dict[str | int | None, int] = {}
    session = np.array([numbers.setdefault(record.session_id, len(numbers)) for record in chats.records], np.int64)
    order = np.argsort(session, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(session))])
    turn = np.empty_like(session)
    turn[order] = np.arange(session.size) - begins[session[order]]
    return session, turn


@lru_cache(maxsize=1)
def steady(chats: Chats, block_size: int, pattern: Pattern) -> Steady:
    """The requests of a pattern, for as long as it takes."""
    draw = np.random.default_rng([pattern.seed, 1])
    session_of = session_turns(chats)[0]
    turns = np.bincount(session_of)
    pool, pause_s = turns.size, mean_pause_s(pattern)
    warmup_s = warmup_turns(chats) * pause_s
    begun = max(min(pool, LEAST_SESSIONS), pool - pattern.sessions_per_s * warmup_s)
    seconds = warmup_s + max((float(turns.mean()) - 1) * pause_s, begun / pattern.sessions_per_s)
    count = round(pattern.sessions_per_s * seconds)
    starts = np.sort(draw.uniform(0, seconds, count))
    by_session = np.argsort(session_of, kind="stable")
    begins = np.concatenate([[0], np.cumsum(turns)])
    drawn = np.concatenate([draw.permutation(pool) for _ in range(-(-count // pool))])[:count]
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
    salt = (session[order] // pool).astype(np.int64)
    requests = requests._replace(salt=salt, arrival_ms=1000 * times[order])
    chains = link(requests, block_size)
    return Steady(requests, chains, rows, times[order], pauses[order], in_order(session[order]), warmup_s, seconds)


def counted(outcome: Outcome, first: int) -> Outcome:
    """Of a run what counts: its requests from `first` on."""
    records, schedule, parts = outcome.records[first:], outcome.schedule, outcome.parts
    if parts is not None:
        known = {name: tokens for name, tokens in parts._asdict().items() if tokens is not None}
        parts = parts._replace(**{name: tokens[first:] for name, tokens in known.items()})
    return replace(
        outcome,
        records=records,
        labels=labels_of(records),
        prompt_tokens=outcome.prompt_tokens[first:],
        output_tokens=outcome.output_tokens[first:],
        rejected=outcome.rejected[first:],
        parts=parts,
        evicted_by=None,
        blocks_allocated=None if outcome.blocks_allocated is None else outcome.blocks_allocated[first:],
        retokenised=outcome.retokenised and outcome.retokenised[first:],
        schedule=schedule and Schedule(**{one.name: getattr(schedule, one.name)[first:] for one in fields(schedule)}),
    )


def window_row(found: Steady, model: str, capacity: int | None, block_size: int) -> Row:
    """When requests count; and the capacity as memory, and as the time in which so many tokens come."""
    tokens = found.requests.prompt_tokens + found.requests.output_tokens
    a_second = float(tokens[found.first :].sum()) / (found.seconds - found.warmup_s)
    size = None if capacity is None else capacity * block_size
    return {
        "warmup_s": round(found.warmup_s, 1),
        "seconds": round(found.seconds, 1),
        "warmup_requests": found.first,
        "capacity_gib": None if size is None else round(size * kv_bytes_a_token(model) / 2**30, 3),
        "capacity_seconds": None if size is None else round(size / a_second, 1),
    }
