"""The main result: a mix drawn several times, all policies on each draw, and what they come to over the draws.

`seeds` rows hold sums of one draw; `gap` rows are made of them alone, so they need no trace.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from milestone3_code.study.cache_rows import units
from milestone3_code.study.prefill import DEVICE, prefill_of
from milestone3_code.study.spread import over, sign_test
from milestone3_code.study.study import GAP_BASE, MAIN_BLOCK, SEEDS, Point, Study
from milestone3_code.study.view import capacity_of, hit_tokens, requests_of
from vllm_sim.replay.rows import SCHEMA, Row
from vllm_sim.sweep.results import read_rows
from vllm_sim.sweep.runs import load

LRU, BEST = GAP_BASE
COMPARED = "hybrid"
"""The policy that the others are compared with."""


def seed_row(study: Study, point: Point) -> Row:
    """What each policy hits at each capacity, on one draw of a mix."""
    view, capacities = study.view(point), point.detail.split()
    shown, trace = requests_of(view), load(view.path, view.model).trace
    blocks = [capacity_of(text, view) for text in capacities]
    prefill, prompt = prefill_of(study.model), shown.requests.prompt_tokens
    masks = shown.tagged("workload") if point.block_size == MAIN_BLOCK else {}
    hit: dict[str, list[int]] = {}
    saved: dict[str, list[float]] = {}
    parts: dict[str, dict[str, list[int]]] = {name: {} for name in masks}
    for policy in point.policies:
        found = [hit_tokens(view, policy, capacity) for capacity in blocks]
        hit[policy] = [int(tokens.sum()) for tokens in found]
        saved[policy] = [round(float(prefill.operations(tokens).sum()) / 1e12, 3) for tokens in found]
        for name, mask in masks.items():
            parts[name][policy] = [int(tokens[mask].sum()) for tokens in found]
    sized = [units(study, view, capacity) for capacity in blocks]
    return {
        "experiment": point.experiment,
        "mix": point.mix,
        "mix_seed": point.mix_seed,
        "schema": SCHEMA,
        "trace": view.path.name,
        "trace_sha256": trace.sha256,
        "model": Path(study.model).name,
        "backend": "fast",
        "policy": "all",
        "block_size": point.block_size,
        "capacity_blocks": None,
        "capacities": capacities,
        "blocks": blocks,
        "capacity_gib": [size["capacity_gib"] for size in sized],
        "capacity_seconds": [size["capacity_seconds"] for size in sized],
        "working_set_blocks": shown.chains.working_set,
        "requests": len(shown.records),
        "prompt_tokens": int(prompt.sum()),
        "prompt_tflops": round(float(prefill.operations(prompt).sum()) / 1e12, 3),
        "hit_tokens": hit,
        "saved_tflops": saved,
        "by_workload": {
            name: {"prompt_tokens": int(prompt[masks[name]].sum()), "hit_tokens": of} for name, of in parts.items()
        },
    }


class _Sums(NamedTuple):
    """Of one draw of each mix, over the capacities of a row; of a policy and of those it is compared with."""

    prompt: int
    hit: dict[str, int]
    tflops: float
    saved: dict[str, float]
    requests: int

    def gain(self, policy: str) -> int:
        return self.hit[policy] - self.hit[LRU]

    def closed(self, policy: str) -> float:
        """The share of the gap in tokens."""
        return _share(self.gain(policy), self.gain(BEST))

    def compute_closed(self, policy: str) -> float:
        """The share of the gap in operations."""
        return _share(self.saved[policy] - self.saved[LRU], self.saved[BEST] - self.saved[LRU])


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def gap_row(study: Study, point: Point) -> Row:
    """Over the draws: the share of the gap between LRU and the optimum that a policy closes."""
    policy, capacities = point.policy, point.detail.split()
    mixes = study.mixes if point.mix == "all" else (point.mix,)
    found = [row for row in seed_rows(study.results) if row["mix"] in mixes and row["block_size"] == point.block_size]
    draws = [[row for row in found if row["mix_seed"] == seed] for seed in sorted({row["mix_seed"] for row in found})]
    sums = [_sums(rows, capacities) for rows in draws]
    leads = [one.closed(COMPARED) - one.closed(policy) for one in sums]
    seconds = prefill_of(study.model).seconds(1e12)
    row: Row = {
        "experiment": point.experiment,
        "mix": point.mix,
        "workload": None,
        "capacity": point.capacity or None,
        "schema": SCHEMA,
        "trace": "all" if point.mix == "all" else study.trace(point.mix).name,
        "trace_sha256": study.sha256(point.mix),
        "model": Path(study.model).name,
        "backend": "fast",
        "policy": policy,
        "block_size": point.block_size,
        "capacity_blocks": None,
        "capacities": capacities,
        "seeds": len(sums),
        "gain_tokens": sum(one.gain(policy) for one in sums),
        "gap_tokens": sum(one.gain(BEST) for one in sums),
        "gap_closed_by_seed": [round(one.closed(policy), 4) for one in sums],
        "hybrid_ahead_seeds": sum(lead > 0 for lead in leads),
        "hybrid_sign_p": sign_test(leads),
        "device": DEVICE,
        "saved_ms_a_request": round(
            float(np.mean([1000 * seconds * one.saved[policy] / one.requests for one in sums])), 4
        ),
    }
    for name, values in {
        "gap_closed": [one.closed(policy) for one in sums],
        "compute_gap_closed": [one.compute_closed(policy) for one in sums],
        "token_hit_rate": [one.hit[policy] / one.prompt for one in sums],
        "compute_hit_rate": [one.saved[policy] / one.tflops for one in sums],
        "gain_over_lru": [one.gain(policy) / one.prompt for one in sums],
        "hybrid_lead": leads,
    }.items():
        row |= over(values).fields(name)
    if point.capacity and point.mix != "all":
        row |= _of_one_cell(found, point)
    return row


def _of_one_cell(rows: Sequence[Row], point: Point) -> Row:
    """What sums over mixes or capacities have not."""
    place = rows[0]["capacities"].index(point.capacity)
    sizes = {name: [row[name][place] for row in rows] for name in ("capacity_gib", "capacity_seconds")}
    values: Row = {name: None if None in found else round(float(np.mean(found)), 4) for name, found in sizes.items()}
    parts: dict[str, Row] = {}
    for name in rows[0]["by_workload"]:
        own = [row["by_workload"][name] for row in rows]
        rates = {
            policy: [of["hit_tokens"][policy][place] / of["prompt_tokens"] for of in own]
            for policy in dict.fromkeys((point.policy, LRU))
        }
        gains = [one - lru for one, lru in zip(rates[point.policy], rates[LRU], strict=True)]
        parts[name] = {"token_hit_rate": round(over(rates[point.policy]).mean, 6)} | over(gains).fields("gain_over_lru")
    return values | ({"by_workload": parts} if parts else {})


def _sums(rows: Sequence[Row], capacities: Sequence[str]) -> _Sums:
    places = [rows[0]["capacities"].index(text) for text in capacities]
    count = len(places)
    return _Sums(
        prompt=count * sum(row["prompt_tokens"] for row in rows),
        hit={
            policy: sum(row["hit_tokens"][policy][place] for row in rows for place in places)
            for policy in rows[0]["hit_tokens"]
        },
        tflops=count * sum(row["prompt_tflops"] for row in rows),
        saved={
            policy: sum(row["saved_tflops"][policy][place] for row in rows for place in places)
            for policy in rows[0]["saved_tflops"]
        },
        requests=count * sum(row["requests"] for row in rows),
    )


def seed_rows(results: Path) -> list[Row]:
    """The sums of the draws, which come before the rows made of them.

    Raises:
        ValueError: there are none.
    """
    path = results / SEEDS
    if not path.is_file():
        raise ValueError(f"no {path}; first run milestone3_code/compare_policies.py")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path: Path, mtime_ns: int) -> list[Row]:
    return read_rows(path)
