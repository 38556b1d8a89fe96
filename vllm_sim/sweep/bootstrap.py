"""95 % intervals by resampling sessions.

One run gives what each session found; sessions are drawn with replacement and the rate, or the quantile, is taken again
from what those drawn found in that run. So an interval says how much a number depends on which sessions there are, and
not how other sessions would have used the cache.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_sim.replay.outcome import Mask, Outcome
from vllm_sim.replay.rows import Row
from vllm_sim.replay.summary import filled_slots

DRAWS = 1000
TURNS = 20
"""Rows tell the rates of so many turns."""
Numbers = NDArray[Any]
Pair = list[float]


@lru_cache(maxsize=4)
def weights(sessions: int, seed: int = 0) -> Numbers:
    """How often each session is drawn, [DRAWS, sessions]."""
    drawn = np.random.default_rng(seed).integers(0, sessions, size=(DRAWS, sessions))
    places = drawn + sessions * np.arange(DRAWS)[:, None]
    return np.bincount(places.ravel(), minlength=DRAWS * sessions).reshape(DRAWS, sessions).astype(np.float64)


def ends(draws: Numbers) -> Pair:
    """What holds 95 % of the draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return [round(float(low), 6), round(float(high), 6)]


def ratio_intervals(parts: Numbers, wholes: Numbers, of: Numbers) -> list[Pair]:
    """Of the sums of each row of `parts` over those of `wholes`, both [k, n]; `of` is the session of each column."""
    sessions = int(of.max()) + 1
    sums = [np.bincount(of, weights=values, minlength=sessions) for values in (*parts, *wholes)]
    drawn = weights(sessions) @ np.array(sums).T
    top, below = drawn[:, : len(parts)], drawn[:, len(parts) :]
    return [ends(draws) for draws in (top / np.where(below == 0, np.inf, below)).T]


def rate_intervals(outcome: Outcome) -> list[dict[str, Pair]]:
    """`token_hit_rate_ci95` and so on for the three definitions: of all requests, then of each turn below TURNS."""
    turns = np.array([record.turn or 0 for record in outcome.records])
    chosen = np.array([np.ones(len(turns)), *(turns == turn for turn in range(TURNS))], np.float64)
    hit, prompt = hits(outcome), outcome.prompt_tokens.astype(np.float64)
    sums = {
        "token_hit_rate": (hit, prompt),
        "block_hit_rate": (hit // outcome.block_size, prompt // outcome.block_size),
        "request_hit_rate": (hit / prompt, np.ones(len(turns))),
    }
    parts = np.concatenate([chosen * sums[rate][0] for rate in sums])
    wholes = np.concatenate([chosen * sums[rate][1] for rate in sums])
    pairs = ratio_intervals(parts, wholes, outcome.labels.session.codes)
    return [
        {f"{rate}_ci95": pairs[i * len(chosen) + group] for i, rate in enumerate(sums)} for group in range(TURNS + 1)
    ]


def hits(outcome: Outcome) -> Numbers:
    """Hit tokens of each request.

    Raises:
        ValueError: the run has no attribution.
    """
    if outcome.parts is None:
        raise ValueError("a run without attribution has no hits; allowed: one with")
    return outcome.parts.hit.astype(np.float64)


def gain(outcome: Outcome, base: Outcome) -> dict[str, Any]:
    """Token hit rate over that of another run of the same requests, and its interval: each draw takes the same sessions
    from both runs."""
    difference, prompt = hits(outcome) - hits(base), outcome.prompt_tokens
    (pair,) = ratio_intervals(difference[None], prompt[None], outcome.labels.session.codes)
    return {"gain_over_lru": round(float(difference.sum() / prompt.sum()), 6), "gain_over_lru_ci95": pair}


def with_intervals(row: Row, outcome: Outcome) -> Row:
    """A summary with the intervals of its rates, the share of token slots that are filled, and only the first turns."""
    assert outcome.blocks_allocated is not None
    whole, *turns = rate_intervals(outcome)
    by_turn = {turn: rates | turns[int(turn)] for turn, rates in row["by_turn"].items() if int(turn) < TURNS}
    served = ~outcome.rejected
    computed = filled_slots(outcome)
    allocated = outcome.blocks_allocated * outcome.block_size
    (pair,) = ratio_intervals((computed * served)[None], (allocated * served)[None], outcome.labels.session.codes)
    filled = round(row["slots_filled"] / max(1, row["slots_allocated"]), 6)
    return row | whole | {"by_turn": by_turn, "slots_filled_share": filled, "slots_filled_share_ci95": pair}


def time_intervals(outcome: Outcome, sessions_of: Numbers, where: Mask | None = None) -> dict[str, Any]:
    """Of the latencies' percentiles, and of the generated tokens a second (of those drawn, in the time of the run).

    Rejected requests have no times and are left out, as in a summary.

    Args:
        outcome: of the engine.
        sessions_of: [n], the session of each request.
        where: [n], the requests that count; None: all.
    """
    schedule = outcome.schedule
    served = ~outcome.rejected if where is None else where & ~outcome.rejected
    if schedule is None or not served.any():
        return {}
    of, tokens = in_order(sessions_of[served]), outcome.output_tokens[served]
    sessions = int(of.max()) + 1
    arrival, first, end = (
        np.round(getattr(schedule, name)[served], 3) for name in ("arrival_ms", "first_token_ms", "end_ms")
    )
    many = tokens > 1
    spans = {
        "ttft": (first - arrival, of),
        "tpot": ((end - first)[many] / (tokens - 1)[many], of[many]),
        "e2e": (end - arrival, of),
    }
    found: dict[str, Any] = {}
    for name, (values, owners) in spans.items():
        _, pairs = quantiles(values, owners, sessions, (0.5, 0.9, 0.99))
        found |= {f"{name}_ms_p{float(share) * 100:.0f}_ci95": pair for share, pair in pairs.items()}
    seconds = (end.max() - arrival.min()) / 1000
    sums = weights(sessions) @ np.bincount(of, weights=tokens, minlength=sessions)
    return found | {"output_tokens_per_s_ci95": ends(sums / seconds)}


def quantiles(
    values: Numbers, of: Numbers, sessions: int, shares: Sequence[float]
) -> tuple[dict[str, float], dict[str, Pair]]:
    """The smallest values that at least these shares of all values do not exceed, and their intervals.

    Args:
        values: [n].
        of: the session of each, [n].
        sessions: number of sessions.
        shares: ascending, each between 0 and 1.
    """
    if not len(values):
        return {}, {}
    order = np.lexsort((of, values))
    values, of = values[order], of[order]
    # Values that a session has several times are one with a count: hits of one request have the same gaps.
    new = np.append(True, (values[1:] != values[:-1]) | (of[1:] != of[:-1]))
    places = np.flatnonzero(new)
    counts = np.diff(np.append(places, len(values)))
    values, of = values[places], of[places]
    wanted = np.asarray(shares)

    def at(sums: Numbers) -> Numbers:
        return values[np.searchsorted(sums, wanted * sums[-1] - 1e-9)]

    point = at(np.cumsum(counts))
    drawn = [at(np.cumsum(counts * weight[of])) for weight in weights(sessions) if weight[of].any()]
    names = [f"{share:.2f}" for share in shares]
    middle = {name: round(float(value), 3) for name, value in zip(names, point, strict=True)}
    pairs = {
        name: [round(end, 3) for end in ends(column)] for name, column in zip(names, np.array(drawn).T, strict=True)
    }
    return middle, pairs


def share_of_top(uses: Numbers, of: Numbers, sessions: int, top: float) -> tuple[float, Pair]:
    """The share of all uses that the `top` share of blocks with most of them has; `of` is the session of each block."""
    order = np.argsort(-uses, kind="stable")
    uses, of = uses[order], of[order]

    def share(weight: Numbers) -> float:
        first = max(1, int(np.searchsorted(np.cumsum(weight), top * weight.sum(), side="right")))
        return float((weight * uses)[:first].sum() / max(1, (weight * uses).sum()))

    return round(share(np.ones(len(uses))), 6), ends(np.array([share(weight[of]) for weight in weights(sessions)]))


def in_order(names: Numbers) -> Numbers:
    """Numbers in the order of first appearance, from 0."""
    _, firsts, places = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[places]
