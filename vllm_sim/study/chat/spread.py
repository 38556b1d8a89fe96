"""95 % intervals of hit rates by resampling sessions.

One run gives each session's hit and prompt tokens; sessions are drawn with replacement and the ratio of their sums is
taken again. A session keeps what it found in that run, so the interval says how much the rate hangs on which sessions
there are, and not how other sessions would have used the cache.
"""

from collections.abc import Sequence

import numpy as np

from vllm_sim.replay.rows import Row

DRAWS = 1000


def interval(rows: Sequence[Row], seed: int = 0) -> list[float]:
    """Lower and upper end for the token hit rate of the rows of a run."""
    number: dict[object, int] = {}
    of = np.array([number.setdefault(row["session_id"], len(number)) for row in rows])
    hit = np.bincount(of, weights=[row["hit_tokens"] for row in rows])
    prompt = np.bincount(of, weights=[row["prompt_tokens"] for row in rows])
    drawn = np.random.default_rng(seed).integers(0, len(hit), size=(DRAWS, len(hit)))
    ratios = hit[drawn].sum(axis=1) / prompt[drawn].sum(axis=1)
    return [round(float(end), 6) for end in np.quantile(ratios, (0.025, 0.975))]
