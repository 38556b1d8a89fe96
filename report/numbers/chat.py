"""Numbers of study one: single-turn and multi-turn chat."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from milestone2_code.study.plan import WORKLOADS
from milestone2_code.study.study import MAIN_BLOCK, ORACLE
from milestone2_code.study.workload import Pattern
from report.numbers.chat_engine import SMALL, chat_engine_numbers
from report.numbers.mixed import GIB_8B
from report.numbers.rows import Rows, values
from report.numbers.texts import between, number, percent, points, rate, share_name, signed, with_interval
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import RATES
from vllm_sim.workloads.sharegpt import ChatChoice

Numbers = dict[str, Any]
MAKER = "make study"
MIDDLE = 0.35
"""A share of the working set that the text speaks of besides SMALL."""
LITTLE = 0.05
"""A hit rate below which the text says that there is next to nothing to reuse."""


def chat_numbers(results: Path) -> Numbers:
    """Everything that the chapter on study one cites.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows, engine = Rows(results / "chat.jsonl", MAKER), Rows(results / "chat_engine.jsonl", MAKER)
    data = rows.rows[0]["data"]
    unlimited = {name: rows.one("capacity", workload=name, capacity_share=None) for name in WORKLOADS}
    return {
        "source": {"pypi": "the part of the dump that PyPI has", "hub": "the whole dump"}.get(
            data["source"], "made data"
        ),
        "sha256": str(data.get("sha256"))[:12],
        "block_size": str(MAIN_BLOCK),
        "small": share_name(SMALL),
        "middle": share_name(MIDDLE),
        "sessions": number(unlimited["multi"]["conversations"]),
        "warmup": number(unlimited["multi"]["warmup_s"]),
        "window": number(unlimited["multi"]["seconds"] - unlimited["multi"]["warmup_s"]),
        "counted": number(unlimited["multi"]["requests"]),
        "most_tokens": number(ChatChoice().max_tokens),
        "rate": f"{unlimited['multi']['sessions_per_s']:g}",
        "think_s": f"{unlimited['multi']['think_s']:g}",
        "orphans": number(max(row.get("orphan_blocks", 0) for row in (*rows.rows, *engine.rows))),
        **{name: _workload(rows, name, unlimited[name]) for name in WORKLOADS},
        "definitions": _definitions(rows),
        "main_table": _main_table(rows),
        "policies": _policies(rows),
        "arrivals": _arrivals(rows),
        "block_sizes": _block_sizes(rows),
        "engine": chat_engine_numbers(rows, engine),
    }


def _workload(rows: Rows, name: str, unlimited: Row) -> Numbers:
    small = rows.one("capacity", workload=name, capacity_share=SMALL)
    reuse, prompted = (rows.one("reuse", workload=name, system_prompt=system_prompt) for system_prompt in (False, True))
    sources = reuse["hits_by_source_tokens"]
    system, system_small = (rows.one("system_prompt", workload=name, capacity_share=share) for share in (None, SMALL))
    generated = unlimited["hit_generated_tokens"] / max(1, unlimited["hit_tokens"])
    found = {
        "requests": number(unlimited["requests"]),
        "working_set": number(rows.one("capacity", workload=name, capacity_share=1.0)["capacity_blocks"]),
        "small_gib": number(small["capacity_gib"], 1),
        "small_gib_large": number(GIB_8B * small["capacity_gib"]),
        "small_seconds": number(small["capacity_seconds"]),
        "unlimited": percent(unlimited["token_hit_rate"]),
        "small": percent(small["token_hit_rate"]),
        "small_belady": percent(_policy(rows, name, SMALL, "belady")["token_hit_rate"]),
        "little": unlimited["token_hit_rate"] < LITTLE,
        "knee": _has_knee(rows, name),
        "with_system_prompt": percent(system["token_hit_rate"]),
        "system_gain": points(system["token_hit_rate"] - unlimited["token_hit_rate"], 1).lstrip("+"),
        "system_gain_small": points(system_small["token_hit_rate"] - small["token_hit_rate"], 1).lstrip("+"),
        "system_share": percent(prompted["hits_by_source_share"]["system"]),
        "same_session": percent(sources["same_session"] / max(1, sum(sources.values()))),
        "never_hit": percent(reuse["blocks_never_hit"] / reuse["blocks"]),
        "gap_p50_s": number(reuse["reuse_gap_s"]["0.50"]),
        "gap_p90_s": number(reuse["reuse_gap_s"]["0.90"]),
        "generated": percent(generated),
        "generated_most": generated > 0.5,
    }
    first = unlimited["by_turn"]["0"]["token_hit_rate"]
    second = unlimited["by_turn"].get("1")
    return found | {"first_turn": percent(first), "second_turn": percent(second["token_hit_rate"]) if second else ""}


def _has_knee(rows: Rows, workload: str) -> bool:
    """Whether the hit rate rises at least ten times as steeply up to MIDDLE as beyond it."""
    curve = {row["capacity_share"]: row["token_hit_rate"] for row in rows.pick("capacity", workload=workload)}
    shares = sorted(set(curve) - {None})
    first, last = shares[0], shares[-1]
    below, above = ((curve[b] - curve[a]) / (b - a) for a, b in ((first, MIDDLE), (MIDDLE, last)))
    return below > 10 * above


def _definitions(rows: Rows) -> Numbers:
    """How far the other two hit rates are from the token hit rate, at most; multi-turn, over all capacities."""
    chosen = rows.pick("capacity", workload="multi")
    return {
        name: points(max(abs(row[f"{name}_hit_rate"] - row["token_hit_rate"]) for row in chosen), 1).lstrip("+")
        for name in ("block", "request")
    }


def _main_table(rows: Rows) -> list[list[str]]:
    lines = []
    for rate_name, words in RATES.items():
        cells = [rows.one("capacity", workload=name, capacity_share=None) for name in WORKLOADS]
        lines.append([f"{words}, unlimited", *(with_interval(row, rate_name) for row in cells)])
    shares = sorted(set(values(rows.pick("capacity", workload="multi"), "capacity_share")) - {None}, reverse=True)
    for share in shares:
        cells = [rows.one("capacity", workload=name, capacity_share=share) for name in WORKLOADS]
        lines.append([f"token hit rate, {share_name(share)}", *(with_interval(row, "token_hit_rate") for row in cells)])
    return lines


def _policy(rows: Rows, workload: str, share: float, policy: str) -> Row:
    return rows.one("policy", workload=workload, capacity_share=share, policy=policy)


def _policies(rows: Rows) -> Numbers:
    """Multi-turn: a line a policy, a column a capacity; and which policies are above LRU where."""
    chosen = rows.pick("policy", workload="multi")
    shares, names = values(chosen, "capacity_share"), values(chosen, "policy")
    table, gains = [], {}
    for policy in names:
        found = [_policy(rows, "multi", share, policy) for share in shares]
        table.append([f"`{policy}`", *(_against_lru(row) for row in found)])
        base = [_policy(rows, "multi", share, "lru") for share in shares]
        gains[policy] = {
            share: mine["token_hit_rate"] - lru["token_hit_rate"]
            for share, mine, lru in zip(shares, found, base, strict=True)
        }
    online = [name for name in names if name not in ("lru", "belady", ORACLE)]
    large = [share for share in shares if share >= SMALL]
    best = max(online, key=lambda name: gains[name][SMALL])
    near, far = max(max(gains[name].values()) for name in online), max(gains["belady"].values())
    winners = [name for name in online if any(gains[name][share] > 0 for share in large)]
    clear = [row for row in chosen if row["policy"] in online and row["capacity_share"] in large and _is_clear(row)]
    return {
        "head": ["policy", *(share_name(share) for share in shares)],
        "table": table,
        "lru_on_top": not clear,
        "clear": list(dict.fromkeys(row["policy"] for row in clear)),
        "winners": winners,
        "largest_win": points(max(gains[name][share] for name in online for share in large)),
        "online_near": far > 10 * near,
        "online_gain": points(near, 1).lstrip("+"),
        "belady_gain_most": points(far, 1).lstrip("+"),
        "best": best,
        "best_gain": _gain(_policy(rows, "multi", SMALL, best)),
        "least": share_name(min(shares)),
        "least_best": (least := max(online, key=lambda name: gains[name][min(shares)])),
        "least_gain": _gain(_policy(rows, "multi", min(shares), least)),
        "belady_gain": points(gains["belady"][SMALL], 1),
        "belady_gain_middle": points(gains["belady"][MIDDLE], 1),
        "ends": _ends(rows, gains),
        "from": share_name(min(large)),
        "to": share_name(max(large)),
    }


def _is_clear(row: Row) -> bool:
    """Whether a policy's gain over LRU is above 0 with its whole interval."""
    return bool(row["gain_over_lru_ci95"][0] > 0)


def _gain(row: Row) -> str:
    return f"{points(row['gain_over_lru'])} ({between(row['gain_over_lru_ci95'], digits=2)})"


def _ends(rows: Rows, gains: dict[str, dict[float, float]]) -> Numbers | None:
    """How much of the optimum's gain at the small capacity LRU would have if it knew which sessions are over."""
    if ORACLE not in gains:
        return None
    gain = gains[ORACLE][SMALL]
    return {
        "name": ORACLE,
        "rate": percent(_policy(rows, "multi", SMALL, ORACLE)["token_hit_rate"]),
        "gain": points(gain, 1),
        "share": percent(gain / gains["belady"][SMALL], 0),
    }


def _against_lru(row: Row) -> str:
    if row["policy"] == "lru":
        return rate(row["token_hit_rate"])
    return f"{rate(row['token_hit_rate'])} ({signed(row['gain_over_lru'] * 100)})"


def _arrivals(rows: Rows) -> Numbers:
    """The mean over arrival seeds at each rate and think time."""
    groups: dict[tuple[float, float], list[float]] = {}
    for row in rows.pick("arrival", workload="multi"):
        groups.setdefault((row["sessions_per_s"], row["think_s"]), []).append(row["token_hit_rate"])
    mean = {key: sum(found) / len(found) for key, found in groups.items()}
    spread = max(max(found) - min(found) for found in groups.values())
    main = (Pattern().sessions_per_s, Pattern().think_s)
    rates = sorted(key for key in groups if key[1] == main[1])
    thinks = sorted(key for key in groups if key[0] == main[0])
    return {
        "seeds": number(max(map(len, groups.values()))),
        "time_matters": mean[rates[0]] > mean[rates[-1]] and mean[thinks[0]] > mean[thinks[-1]],
        "slow": f"{rates[0][0]:g}",
        "slow_rate": percent(mean[rates[0]]),
        "fast": f"{rates[-1][0]:g}",
        "fast_rate": percent(mean[rates[-1]]),
        "short": f"{thinks[0][1]:g}",
        "short_rate": percent(mean[thinks[0]]),
        "long": f"{thinks[-1][1]:g}",
        "long_rate": percent(mean[thinks[-1]]),
        "spread": points(spread, 1).lstrip("+"),
    }


def _block_sizes(rows: Rows) -> Numbers:
    sizes = sorted(values(rows.pick("block_size", workload="multi", capacity_share=None), "block_size"))
    table = []
    for size in sizes:
        cells = [
            rows.one("block_size", workload=name, capacity_share=share, block_size=size)
            for name in WORKLOADS
            for share in (None, SMALL)
        ]
        filled = [percent_filled(row) for row in cells[::2]]
        table.append([str(size), *(rate(row["token_hit_rate"]) for row in cells), *filled])
    return {"table": table, "larger_is_worse": all(_falls([float(line[i]) for line in table]) for i in (1, 3, 5, 6))}


def _falls(found: list[float]) -> bool:
    return all(after <= before for before, after in pairwise(found))


def percent_filled(row: Row) -> str:
    """The share of allocated token slots that are filled."""
    return rate(row["slots_filled"] / row["slots_allocated"])
