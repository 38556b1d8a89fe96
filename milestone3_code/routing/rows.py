"""The rows of study three: fleets as `vllm-sim replay` runs them, and ladders as `vllm-sim explain` has them."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from milestone3_code.routing.plan import Point
from milestone3_code.study.stationary import warmup_share
from milestone3_code.study.study import Study
from milestone3_code.study.view import session_numbers
from vllm_sim.eviction.names import OFFLINE
from vllm_sim.fleet.assigned import AssignedRouter
from vllm_sim.fleet.names import DEFAULT
from vllm_sim.fleet.router import RouterContext
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.fleet import run_caches
from vllm_sim.replay.ladder import Ladder, explain
from vllm_sim.replay.outcome import Outcome
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import run
from vllm_sim.sweep.bootstrap import Numbers, hits, in_order, ratio_intervals, time_intervals
from vllm_sim.sweep.capacity import capacity_blocks
from vllm_sim.sweep.runs import blocks, load

TIMES = ("ttft_ms_p50", "ttft_ms_p99", "tpot_ms_p50", "tpot_ms_p99", "e2e_ms_p50", "e2e_ms_p99")


def config_of(study: Study, point: Point) -> RunConfig:
    """As a replay would have it."""
    working_set = blocks(study.trace(point.trace), study.model, point.block_size, False).chains.working_set
    timing = point.timing
    more = {} if timing is None else {"device": timing.device, "warmup": _warmup(study, point)}
    return RunConfig(
        model=study.model,
        backend="fast" if timing is None else "engine",
        capacity_blocks=capacity_blocks(point.capacity, point.block_size, working_set, study.model),
        block_size=point.block_size,
        policy=point.policy,
        replicas=point.replicas,
        router=point.router,
        router_params={} if point.delay_ms is None else {"delay_ms": point.delay_ms},
        **more,  # type: ignore[arg-type]  # values of two types
    )


def path_of(study: Study, point: Point) -> Path:
    """The trace that is served: of the engine a mix at a load."""
    if point.timing is None:
        return study.trace(point.trace)
    return study.stationary(point.mix, point.mix_seed, point.timing)


def _warmup(study: Study, point: Point) -> float:
    assert point.timing is not None
    return warmup_share(path_of(study, point), study.model, point.timing.warmup_s)


@lru_cache(maxsize=32)
def outcome_of(study: Study, point: Point) -> Outcome:
    """What the backend makes of a point."""
    path = study.trace(point.trace)
    linked = blocks(path, study.model, point.block_size, False)
    return run(load(path, study.model), config_of(study, point), linked).outcome


def fleet_row(study: Study, point: Point) -> Row:
    """A run, what its policy gains over LRU, what its router over round robin, and what an optimum would find there."""
    outcome = outcome_of(study, point)
    own = hits(outcome)
    parts = {
        "token_hit_rate": own,
        "gain_over_lru": own - hits(outcome_of(study, point._replace(policy="lru"))),
        "gain_over_round_robin": own - hits(outcome_of(study, point._replace(router=DEFAULT))),
    }
    if point.policy == "lru":
        parts["optimum_hit_rate"] = _optimum(study, point, outcome)
    return begin(study, point, outcome) | _shares(study, point, outcome, parts)


def stale_row(study: Study, point: Point) -> Row:
    """A run whose router learns of KV events late."""
    outcome = outcome_of(study, point)
    fresh = hits(outcome_of(study, point._replace(delay_ms=0)))
    parts = {"token_hit_rate": hits(outcome), "gain_over_fresh": hits(outcome) - fresh}
    return begin(study, point, outcome) | {"delay_ms": point.delay_ms} | _shares(study, point, outcome, parts)


def ladder_row(study: Study, point: Point) -> Row:
    """Where the hits were lost."""
    ladder = explain(load(study.trace(point.trace), study.model), config_of(study, point))
    outcome = ladder.result.outcome
    rate = _shares(study, point, outcome, {"token_hit_rate": hits(outcome)})
    return begin(study, point, outcome) | rate | {"steps": _steps(ladder)}


def engine_row(study: Study, point: Point) -> Row:
    """The same of the engine, with its times."""
    ladder = explain(load(path_of(study, point), study.model), config_of(study, point))
    summary, outcome = ladder.result.summary.to_row(), ladder.result.outcome
    first = summary["warmup_requests"]
    is_counted = np.arange(outcome.prompt_tokens.size) >= first
    pairs = time_intervals(outcome, session_numbers(outcome.records), is_counted)
    names = ("warmup_requests", "arrival", "device", *TIMES, "output_tokens_per_s", "preemptions")
    assert point.timing is not None
    row = begin(study, point, outcome) | point.timing._asdict() | {name: summary[name] for name in names}
    row |= {f"{name}_ci95": pairs[f"{name}_ci95"] for name in TIMES}
    rate = _shares(study, point, outcome, {"token_hit_rate": hits(outcome)}, first)
    return row | rate | {"steps": _steps(ladder, first)}


MAKERS = {"fleet": fleet_row, "ladder": ladder_row, "stale": stale_row, "fleet_engine": engine_row}
"""What makes the row of a point."""


def rows_of(study: Study, point: Point) -> list[Row]:
    """The row of a point, for its one file."""
    data = {"source": "given by path" if is_given(study, point) else "built"}
    return [MAKERS[point.experiment](study, point) | {"data": data, "quick": study.quick}]


def is_given(study: Study, point: Point) -> bool:
    """Whether a point is of a hash trace."""
    return any(path.name == point.mix for path in study.hash_traces)


def begin(study: Study, point: Point, outcome: Outcome) -> Row:
    """The fields that say what ran and how much."""
    path = path_of(study, point)
    what: Row = {
        "experiment": point.experiment,
        "mix": point.mix,
        "mix_seed": point.mix_seed,
        "capacity": point.capacity,
        "replicas": point.replicas,
    }
    what |= head(path.name, load(path, study.model).trace.sha256, config_of(study, point))
    return what | {
        "requests": int(outcome.prompt_tokens.size),
        "rejected_requests": int(outcome.rejected.sum()),
        "prompt_tokens": int(outcome.prompt_tokens.sum()),
        "imbalance": _imbalance(outcome, point.replicas),
    }


def _imbalance(outcome: Outcome, replicas: int) -> float:
    if outcome.fleet is None:
        return 1.0
    computed = np.bincount(outcome.fleet.replica, outcome.prompt_tokens - hits(outcome), minlength=replicas)
    return round(float(computed.max() / max(1.0, computed.mean())), 4)


def _optimum(study: Study, point: Point, outcome: Outcome) -> Numbers:
    """Hit tokens of each request under `belady` in each replica, where this run sent it; [n]."""
    path, config = study.trace(point.trace), config_of(study, point)
    linked = blocks(path, study.model, point.block_size, False)
    chosen = np.zeros(outcome.prompt_tokens.size, np.int64) if outcome.fleet is None else outcome.fleet.replica
    router = AssignedRouter(RouterContext(point.replicas, point.block_size), chosen)
    best = RunConfig(
        backend="fast",
        policy=OFFLINE,
        capacity_blocks=config.blocks,
        replicas=point.replicas,
        block_size=point.block_size,
    )
    found = run_caches(linked, load(path, study.model).records, best, router).run.hit * point.block_size
    return np.minimum(found, outcome.prompt_tokens).astype(np.float64)


def _steps(ladder: Ladder, first: int = 0) -> dict[str, float]:
    """Shares of the prompt tokens, of requests from `first` on."""
    total = int(ladder.result.outcome.prompt_tokens[first:].sum())
    return {name: round(int(tokens[first:].sum()) / total, 6) for name, tokens in ladder.steps.items()}


def _shares(study: Study, point: Point, outcome: Outcome, parts: dict[str, Numbers], first: int = 0) -> Row:
    """Sums of tokens as shares of the prompt tokens, of requests from `first` on; with intervals where the plan has no
    seeds."""
    parts, prompt = {name: tokens[first:] for name, tokens in parts.items()}, outcome.prompt_tokens[first:]
    row: Row = {name: round(float(tokens.sum()) / float(prompt.sum()), 6) for name, tokens in parts.items()}
    if point.timing is not None or is_given(study, point):
        whole, sessions = np.array([prompt] * len(parts)), session_numbers(outcome.records)[first:]
        pairs = ratio_intervals(np.array(list(parts.values())), whole, in_order(sessions))
        row |= {f"{name}_ci95": pair for name, pair in zip(parts, pairs, strict=True)}
    return row
