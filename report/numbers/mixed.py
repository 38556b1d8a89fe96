"""Numbers of study two: what mixed traffic does to LRU."""

from pathlib import Path
from typing import Any

from report.numbers.rows import Rows, values
from report.numbers.texts import between, number, percent, points, rate, signed, spaced, with_interval
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
MAKER = "make study"
MAIN = "10%"
"""The capacity, as a share of the working set, that the text speaks of."""
RANGE = ("5%", "10%", "20%", "50%")
MATRIX_MIX = "even"
BLOCK = 16
GIB = 2**30
GIB_8B = 4
"""How many times the bytes of a token Llama-3.1-8B has: 128 KiB against 32."""
NEAR = 0.005
"""A difference of hit rates that no plot shows."""


def mixed_numbers(results: Path) -> Numbers:
    """Everything that the chapter on LRU under mixes cites.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed.jsonl", MAKER)
    names = values(rows.pick("mix"), "mix")
    return {
        "block_size": str(BLOCK),
        "capacity": spaced(MAIN),
        "matrix_mix": MATRIX_MIX,
        "working_sets_gib": {mix: _working_set_gib(rows, mix) for mix in names},
        "alone": _alone(rows, names),
        "matrix": _matrix(Rows(results / "mixed_matrix.jsonl", MAKER)),
        "loss": _loss(rows, names),
        "isolation": _isolation(rows),
        "fifo": _fifo(rows),
    }


def _case(rows: Rows, mix: str, policy: str) -> Row:
    return rows.one("mix", mix=mix, capacity=MAIN, policy=policy, block_size=BLOCK)


def _working_set_gib(rows: Rows, mix: str) -> str:
    """All distinct blocks of a mix in the model's cache; the row of bytes knows how large a block is there."""
    sized = rows.pick("bytes", mix=mix, capacity=MAIN, block_size=BLOCK)[0]
    block_bytes = sized["capacity_bytes"] / sized["capacity_blocks"]
    return number(_case(rows, mix, "lru")["working_set_blocks"] * block_bytes / GIB, 1)


def _fifo(rows: Rows) -> Numbers:
    """How far fifo is from LRU, at most, over all mixes and capacities."""
    chosen = rows.pick("mix", policy="fifo", block_size=BLOCK)
    most = max(abs(row["gain_over_lru"]) for row in chosen)
    return {"most": points(most).lstrip("+"), "near": most < NEAR}


def _alone(rows: Rows, names: list[str]) -> Numbers:
    """Every workload of every mix: alone and in the mix, at the same capacity in blocks."""
    table, losses, reached = [], {}, []
    for mix in names:
        lru = _case(rows, mix, "lru")
        for workload, part in lru["by_workload"].items():
            alone = rows.one("alone", mix=mix, workload=workload, capacity=MAIN, policy="lru", block_size=BLOCK)
            lost = alone["token_hit_rate"] - part["token_hit_rate"]
            losses[mix, workload] = lost
            reached.append(alone["token_hit_rate"])
            share = part["prompt_tokens"] / lru["prompt_tokens"]
            table.append(
                [
                    mix,
                    workload,
                    rate(share),
                    rate(alone["token_hit_rate"]),
                    with_interval(part, "token_hit_rate"),
                    _lost(lost),
                ]
            )
    mix, workload = max(losses, key=lambda key: losses[key])
    reusing = [share for share in reached if share > 0]
    return {
        "table": table,
        "worst_mix": mix,
        "worst_workload": workload,
        "worst_lost": points(losses[mix, workload], 1).lstrip("+"),
        "least_alone": percent(min(reusing)),
        "most_alone": percent(max(reusing)),
        "people_lose_most": all(_people_lose_most(losses, mix) for mix in names),
        "oneoff_never_hit": all(
            _case(rows, mix, "lru")["by_workload"].get("oneoff", {"hit_tokens": 0})["hit_tokens"] == 0 for mix in names
        ),
    }


def _people_lose_most(losses: dict[tuple[str, str], float], mix: str) -> bool:
    """Whether those who think or read between turns lose more than those whose requests follow each other at once."""
    own = {workload: lost for (name, workload), lost in losses.items() if name == mix}
    slow = [lost for workload, lost in own.items() if workload in ("chat", "documents")]
    fast = [lost for workload, lost in own.items() if workload not in ("chat", "documents")]
    return min(slow, default=0.0) > max(fast, default=-1.0)


def _lost(share: float) -> str:
    return number(share * 100, 1)


def _matrix(rows: Rows) -> Numbers:
    """Tokens missed since they had been evicted, by evictor."""
    row = rows.one("lost", mix=MATRIX_MIX, capacity=MAIN, policy="lru", block_size=BLOCK)
    tokens = row["lost_tokens"]["workload"]
    names = list(tokens)
    total = sum(sum(of.values()) for of in tokens.values())
    by_others = sum(
        count for owner, of in tokens.items() for evictor, count in of.items() if evictor not in (owner, "")
    )
    taken = {name: sum(of.get(name, 0) for of in tokens.values()) for name in names}
    worst = max(taken, key=lambda name: taken[name])
    return {
        "by_others": percent(by_others / max(1, total)),
        "mostly_others": 2 * by_others > total,
        "worst": worst,
        "worst_share": percent(taken[worst] / max(1, total)),
    }


def _loss(rows: Rows, names: list[str]) -> Numbers:
    """What is lost to capacity and to the policy, at the main capacity."""
    chosen = [rows.one("loss", mix=mix, capacity=MAIN, block_size=BLOCK) for mix in names]
    table = []
    for row in chosen:
        cells = [rate(row[f"{name}_hit_rate"]) for name in ("unlimited", "belady", "lru")]
        for name in ("lost_to_capacity", "lost_to_policy"):
            cells.append(f"{_lost(row[name])} ({between(row[f'{name}_ci95'])})")
        table.append([row["mix"], *cells])
    most = max(chosen, key=lambda row: row["lost_to_policy"])
    larger = [row["mix"] for row in chosen if row["lost_to_policy"] > row["lost_to_capacity"]]
    return {
        "table": table,
        "most_mix": most["mix"],
        "most": points(most["lost_to_policy"], 1).lstrip("+"),
        "least": number(100 * min(row["lost_to_policy"] for row in chosen), 1),
        "mostly_policy": 2 * len(larger) > len(chosen),
    }


def _isolation(rows: Rows) -> Numbers:
    chosen = rows.pick("isolation", mix=MATRIX_MIX, policy="lru", block_size=BLOCK)
    capacities, kinds = values(chosen, "capacity"), values(chosen, "tenants")
    table = []
    for kind in kinds:
        cells = [
            rows.one("isolation", mix=MATRIX_MIX, policy="lru", block_size=BLOCK, capacity=capacity, tenants=kind)
            for capacity in capacities
        ]
        shown = [f"{signed(row['cost'] * 100)} ({between(row['cost_ci95'], digits=2)})" for row in cells]
        table.append([KINDS.get(kind, f"{kind} tenants"), number(cells[0]["salts"]), *shown])
    dealt = [kind for kind in kinds if kind not in KINDS]
    costs = {kind: {row["capacity"]: row["cost"] for row in chosen if row["tenants"] == kind} for kind in dealt}
    last = rows.one("isolation", mix=MATRIX_MIX, policy="lru", block_size=BLOCK, capacity=MAIN, tenants=kinds[-1])
    return {
        "head": ["salt", "salts", *(f"cost at {spaced(capacity)}" for capacity in capacities)],
        "table": table,
        "session_cost": points(last["cost"], 1).lstrip("+"),
        "own_prompts_free": all(row["cost"] == 0 for row in chosen if row["tenants"] == "tenant"),
        "paid_twice": all(0 < costs[kind]["unlimited"] < costs[kind][MAIN] for kind in dealt),
    }


KINDS = {"none": "none", "tenant": "one for each tenant of the mix", "session": "one for each session"}
