"""Numbers of GPU memory against CPU memory: both sizes, the bandwidth, the store threshold, a policy on each tier."""

from pathlib import Path
from typing import Any

from milestone3_code.study.names import arrivals, spoken
from milestone3_code.study.tier_bounds import both, bounds_of
from report.numbers.mixed import GIB
from report.numbers.rows import Rows, values
from report.numbers.texts import number, percent, rate, signed, spaced
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
MAKER = "make study"
NONE = "none"


def tiers_numbers(results: Path) -> Numbers:
    """Hit rates, times and bytes with a second tier.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "tiers.jsonl", MAKER).pick("tiers")
    fast = [row for row in rows if row["backend"] == "fast"]
    engine = [row for row in rows if row["backend"] == "engine"]
    plain = [row for row in engine if _policies(row) == ("lru", "lru") and _threshold(row) == 1]
    gpu = engine[0]["gpu"]
    same = plain[-1]["cpu"] if len(values(engine, "cpu")) < 3 else values(engine, "cpu")[1]
    at_device = [row for row in engine if row["cpu"] == same and row["gbps"] == "device"]
    pays = [_pays(plain, mix) for mix in values(plain, "mix")]
    two = [row for row in fast if row["cpu"] != NONE and row["gpu"] == gpu and row["policy"] == "lru"]
    return {
        "gpu": spaced(gpu),
        "cpu": spaced(same),
        "block_size": number(engine[0]["block_size"]),
        "arrivals": arrivals(engine[0]),
        "device": engine[0]["device"].upper(),
        "device_gbps": number(at_device[0]["offload_gbps"], 1),
        "sizes": _sizes(fast, gpu),
        "of_bound": _of_bound(fast),
        "most_unused": percent(max(row["tier_unused_bytes"] / max(1, row["tier_stored_bytes"]) for row in two)),
        "policy_range": _policy_range([row for row in at_device if _threshold(row) == 1]),
        "times": [_time(row, plain) for row in plain],
        "slow_hurts": any(row["ttft_ms_p50"] > _alone(plain, row["mix"])["ttft_ms_p50"] for row in plain),
        "pays": pays,
        "pays_somewhere": any("from" in text for one in pays for text in one["where"]),
        "thresholds": [
            [row["mix"], number(_threshold(row)), *_traffic(row)]
            for row in at_device
            if _policies(row) == ("lru", "lru")
        ],
        "policies": [
            [row["mix"], *(f"`{name}`" for name in _policies(row)), *_traffic(row), number(row["ttft_ms_p50"], 1)]
            for row in at_device
            if _threshold(row) == 1
        ],
    }


def _policies(row: Row) -> tuple[str, str]:
    """On the GPU, on CPU memory."""
    return row["policy"], row.get("offload_policy", "lru")


def _threshold(row: Row) -> int:
    found: int = row.get("offload_store_threshold", 1)
    return found


def _traffic(row: Row) -> list[str]:
    """Hit rate, the part of it from CPU memory, GiB to it and from it, the share that was never loaded."""
    if row["cpu"] == NONE:
        return [rate(row["token_hit_rate"]), "", "", "", ""]
    stored, loaded, unused = (row[f"tier_{name}_bytes"] for name in ("stored", "loaded", "unused"))
    external = row["external_hit_tokens"] / row["prompt_tokens"]
    shares = [rate(row["token_hit_rate"]), rate(external)]
    return [*shares, number(stored / GIB, 1), number(loaded / GIB, 1), percent(unused / max(1, stored))]


def _sizes(rows: list[Row], gpu: str) -> list[list[str]]:
    """LRU on both tiers at every size of CPU memory, and the optimum of one cache of both sizes."""
    table, bounds = [], bounds_of(rows)
    for row in rows:
        if row["policy"] == "lru" and row["gpu"] == gpu:
            bound = bounds[row["mix"], both(row)]
            table.append([spoken(row["mix"]), spaced(row["cpu"]), *_traffic(row), rate(bound["token_hit_rate"])])
    return table


def _of_bound(rows: list[Row]) -> Numbers:
    """The least and the most of the optimum's hits that LRU on two tiers has, over all sizes."""
    bounds = bounds_of(rows)
    shares = [
        row["hit_tokens"] / max(1, bounds[row["mix"], both(row)]["hit_tokens"])
        for row in rows
        if row["policy"] == "lru" and row["cpu"] != NONE
    ]
    return {"least": percent(min(shares)), "most": percent(max(shares))}


def _policy_range(rows: list[Row]) -> str:
    """How far policies on the tiers are from LRU on both, in points of token hit rate."""
    base = {row["mix"]: row["token_hit_rate"] for row in rows if _policies(row) == ("lru", "lru")}
    changes = [100 * (row["token_hit_rate"] - base[row["mix"]]) for row in rows]
    return f"{signed(min(changes), 1)} to {signed(max(changes), 1)} points"


def _alone(rows: list[Row], mix: str) -> Row:
    (found,) = [row for row in rows if (row["mix"], row["cpu"]) == (mix, NONE)]
    return found


def _time(row: Row, plain: list[Row]) -> list[str]:
    base = _alone(plain, row["mix"])
    is_alone = row["cpu"] == NONE
    change = "" if is_alone else f"{signed(100 * (row['ttft_ms_p50'] / base['ttft_ms_p50'] - 1), 1)}"
    gbps = "" if is_alone else number(row["offload_gbps"], 1)
    times = [number(row["ttft_ms_p50"], 1), change, number(row["ttft_ms_p99"], 1)]
    return [row["mix"], spaced(row["cpu"]), gbps, rate(row["token_hit_rate"]), *times]


def _pays(plain: list[Row], mix: str) -> Numbers:
    """From which of the bandwidths on the median time to first token is lower with CPU memory, of each size."""
    base, found = _alone(plain, mix), []
    own = [row for row in plain if row["mix"] == mix and row["cpu"] != NONE]
    for cpu in values(own, "cpu"):
        line = sorted((row for row in own if row["cpu"] == cpu), key=lambda row: -row["offload_gbps"])
        least = None
        for row in line:
            if row["ttft_ms_p50"] >= base["ttft_ms_p50"]:
                break
            least = row["offload_gbps"]
        text = "at none of them" if least is None else f"from {number(least, 1)} GB/s on"
        found.append(f"{text} with {spaced(cpu)}")
    return {"mix": mix, "where": found}
