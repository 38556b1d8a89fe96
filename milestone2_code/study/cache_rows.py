"""The rows of study one that the cache alone gives, on `fast` or `blockpool`."""

import hashlib
import json
from functools import lru_cache

import numpy as np

from milestone2_code.study.reuse import gaps_of, reuse_row
from milestone2_code.study.session_end_oracle import with_oracle
from milestone2_code.study.steady import Steady, counted, steady, window_row
from milestone2_code.study.study import ORACLE, Point, Study, capacity_blocks
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Outcome, labels_of
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import Linked, serve
from vllm_sim.replay.summary import summarise
from vllm_sim.sweep.bootstrap import gain, hits, with_intervals

LEFT_OUT = ("by_workload", "by_tenant", "by_session")
GAPS = (0.5, 0.9)
"""Shares of the hits, of which a row of arrivals has the tokens between uses."""


def cache_row(study: Study, point: Point) -> Row:
    """The row of a run of `fast` or `blockpool`."""
    chats, config = study.chats(point.workload, point.system_prompt), _config(study, point)
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
    found = _steady(study, point)
    window = window_row(found, study.model, config.blocks, point.block_size)
    if point.experiment == "reuse":
        return values | window | reuse_row(chats, found, point.block_size)
    outcome = counted(_served(study, point), found.first)
    row = with_intervals(summarise(config, chats.path.name, chats.trace.sha256, outcome).to_row(), outcome)
    for name in LEFT_OUT if point.experiment == "capacity" else (*LEFT_OUT, "by_turn"):
        del row[name]
    if point.experiment == "policy":
        row |= gain(outcome, counted(_served(study, point._replace(policy="lru")), found.first))
    if point.experiment == "arrival":
        gaps = gaps_of(chats, found, point.block_size)
        row["reuse_gap_tokens"] = {f"{share:.2f}": int(np.quantile(gaps, share)) for share in GAPS}
    hit_tokens = json.dumps(hits(outcome).astype(int).tolist())
    mark = hashlib.sha256(hit_tokens.encode()).hexdigest()[:16]
    return row | values | window | {"hits_sha256": mark}


def _steady(study: Study, point: Point) -> Steady:
    return steady(study.chats(point.workload, point.system_prompt), point.block_size, point.pattern)


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
    found, config = _steady(study, point), _config(study, point)
    if point.policy == ORACLE and config.blocks is not None:
        return with_oracle(_served(study, point._replace(policy="lru")), found.chains, config.blocks)
    chats = study.chats(point.workload, point.system_prompt)
    records = [chats.records[row] for row in found.rows]
    return serve(Linked(found.requests, found.chains), records, labels_of(records), config)
