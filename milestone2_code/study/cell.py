"""The rows of study one that the cache alone gives, on `fast` or `blockpool`."""

import hashlib
import json
from functools import lru_cache

import numpy as np

from milestone2_code.study.ends import rows_with_ends
from milestone2_code.study.reuse import reuse_row
from milestone2_code.study.study import ENDS, Point, Study, capacity_blocks
from milestone2_code.study.workload import ordered
from vllm_sim.replay.cache import serve_cache
from vllm_sim.replay.rows import Row
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.summary import head, summary_row
from vllm_sim.sweep.bootstrap import Numbers, gain, ratio_intervals, with_intervals


def cache_row(study: Study, point: Point) -> Row:
    """The row of a cell of `fast` or `blockpool`."""
    chats = study.chats(point.workload, point.system_prompt)
    settings = _settings(study, point)
    values: Row = {
        "experiment": point.experiment,
        "workload": point.workload,
        "capacity_share": point.share,
        "system_prompt": point.system_prompt,
        **point.pattern._asdict(),
        **head(chats.path, chats.trace, settings),
        "seed": 0,
        "arrival_seed": point.pattern.seed,
    }
    if point.experiment in ("reuse", "survival"):
        return values | reuse_row(chats, ordered(chats, point.block_size, point.pattern), point.block_size)
    rows, tail = _served(study, point)
    hits = json.dumps([row["hit_tokens"] for row in rows])
    counts = with_intervals(summary_row(rows, point.block_size, 0.0), rows, point.block_size)
    for name in ("by_workload", "by_tenant"):
        del counts[name]
    counts |= _busy(rows, ordered(chats, point.block_size, point.pattern).sessions)
    if point.experiment == "policy":
        counts |= gain(rows, _served(study, point._replace(policy="lru"))[0])
    return values | counts | tail | {"hits_sha256": hashlib.sha256(hits.encode()).hexdigest()[:16]}


def _busy(rows: list[Row], sessions: Numbers) -> Row:
    """What was found while sessions still began: behind that fewer and fewer share the cache, until it is empty."""
    last = int(np.unique(sessions, return_index=True)[1].max())
    hit, prompt = (np.array([row[name] for row in rows], np.float64) for name in ("hit_tokens", "prompt_tokens"))
    chosen = np.arange(len(rows)) <= last
    (pair,) = ratio_intervals((hit * chosen)[None], (prompt * chosen)[None], sessions)
    rate = round(float(hit[chosen].sum() / prompt[chosen].sum()), 6)
    share = round(float(prompt[chosen].sum() / prompt.sum()), 6)
    return {"busy_token_hit_rate": rate, "busy_token_hit_rate_95": pair, "busy_prompt_share": share}


def _settings(study: Study, point: Point) -> Settings:
    return Settings(
        model=study.model,
        backend=point.backend,
        capacity_blocks=capacity_blocks(study, point.workload, point.share, point.block_size, point.system_prompt),
        block_size=point.block_size,
        policy=point.policy,
    )


@lru_cache(maxsize=2)
def _served(study: Study, point: Point) -> tuple[list[Row], Row]:
    """The rows of requests, and what they do not tell of the run."""
    asked = ordered(study.chats(point.workload, point.system_prompt), point.block_size, point.pattern)
    settings = _settings(study, point)
    if point.policy == ENDS and settings.capacity_blocks is not None:
        rows, _ = _served(study, point._replace(policy="lru"))
        rows = rows_with_ends(rows, asked.chains, settings.capacity_blocks, point.block_size)
        return rows, {"working_set_blocks": asked.chains.working_set}
    outcome = serve_cache(asked.requests, asked.chains, asked.records, settings)
    return outcome.rows, outcome.tail
