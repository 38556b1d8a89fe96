"""The rows of study one that the cache alone gives, on `fast` or `blockpool`."""

import hashlib
import json
from functools import lru_cache

import numpy as np

from milestone2_code.study.reuse import reuse_row
from milestone2_code.study.session_end_oracle import with_oracle
from milestone2_code.study.study import ORACLE, Point, Study, capacity_blocks
from milestone2_code.study.workload import ordered
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Outcome, labels_of
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import Linked, serve
from vllm_sim.replay.summary import summarise
from vllm_sim.sweep.bootstrap import Numbers, gain, hits, ratio_intervals, with_intervals


def cache_row(study: Study, point: Point) -> Row:
    """The row of a cell of `fast` or `blockpool`."""
    chats = study.chats(point.workload, point.system_prompt)
    config = _config(study, point)
    values: Row = {
        "experiment": point.experiment,
        "workload": point.workload,
        "capacity_share": point.share,
        "system_prompt": point.system_prompt,
        **point.pattern._asdict(),
        **head(chats.path.name, chats.trace.sha256, config),
        "seed": 0,
        "arrival_seed": point.pattern.seed,
    }
    found = ordered(chats, point.block_size, point.pattern)
    if point.experiment == "reuse":
        return values | reuse_row(chats, found, point.block_size)
    outcome = _served(study, point)
    row = summarise(config, chats.path.name, chats.trace.sha256, outcome).to_row()
    row = with_intervals(row, outcome) | _busy(outcome, found.sessions)
    for name in ("by_workload", "by_tenant"):
        del row[name]
    if point.experiment == "policy":
        row |= gain(outcome, _served(study, point._replace(policy="lru")))
    hit_tokens = json.dumps(hits(outcome).astype(int).tolist())
    return row | values | {"hits_sha256": hashlib.sha256(hit_tokens.encode()).hexdigest()[:16]}


def _busy(outcome: Outcome, sessions: Numbers) -> Row:
    """What was found while sessions still began: after that fewer and fewer share the cache, until it is empty."""
    last = int(np.unique(sessions, return_index=True)[1].max())
    hit, prompt = hits(outcome), outcome.prompt_tokens.astype(np.float64)
    chosen = np.arange(hit.size) <= last
    (pair,) = ratio_intervals((hit * chosen)[None], (prompt * chosen)[None], sessions)
    rate = round(float(hit[chosen].sum() / prompt[chosen].sum()), 6)
    share = round(float(prompt[chosen].sum() / prompt.sum()), 6)
    return {"busy_token_hit_rate": rate, "busy_token_hit_rate_ci95": pair, "busy_prompt_share": share}


def _config(study: Study, point: Point) -> RunConfig:
    return RunConfig(
        model=study.model,
        backend=point.backend,
        capacity_blocks=capacity_blocks(study, point.workload, point.share, point.block_size, point.system_prompt),
        block_size=point.block_size,
        policy=point.policy,
    )


@lru_cache(maxsize=2)
def _served(study: Study, point: Point) -> Outcome:
    found = ordered(study.chats(point.workload, point.system_prompt), point.block_size, point.pattern)
    config = _config(study, point)
    if point.policy == ORACLE and config.blocks is not None:
        return with_oracle(_served(study, point._replace(policy="lru")), found.chains, config.blocks)
    return serve(Linked(found.requests, found.chains), found.records, labels_of(found.records), config)
