"""Numbers of the engine under the mixes, and of traces of hash ids."""

from pathlib import Path
from typing import Any

from report.numbers.mixed import MAIN, MAKER
from report.numbers.rows import Rows, values
from report.numbers.texts import number, percent, rate, signed, spaced, timed, with_interval
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
POLICIES = ("lru", "hybrid", "belady")
"""Those of the tables."""
NEAR = 0.0005
"""Token hit rates nearer than this are called equal."""
HASH_MAKER = "python milestone3_code/compare_policies.py --hash-trace PATH"


def engine_numbers(results: Path) -> Numbers:
    """Hit rates and times of the whole engine, by policy.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed_engine.jsonl", MAKER)
    chosen = rows.rows = [_named(row) for row in rows.pick("engine", capacity=MAIN) if row["policy"] in POLICIES]
    table, worst = [], []
    for row in chosen:
        cells = [with_interval(row, "token_hit_rate"), number(row["ttft_ms_p50"], 1), timed(row, "ttft_ms_p99")]
        table.append(
            [row["point"], f"`{row['policy']}`", *cells, number(row["output_tokens_per_s"]), number(row["preemptions"])]
        )
    changes, gains, extremes = [], [], []
    for point in values(chosen, "point"):
        lru, hybrid = (rows.one("engine", point=point, policy=policy) for policy in ("lru", "hybrid"))
        extremes.append(100 * (hybrid["token_hit_rate"] - lru["token_hit_rate"]))
        gains.append(f"{signed(extremes[-1], 1)} ({point})")
        changes.append(hybrid["ttft_ms_p50"] / lru["ttft_ms_p50"] - 1)
        for name, part in hybrid["by_workload"].items():
            base = lru["by_workload"][name]
            worst.append((part["ttft_ms_p99"] / base["ttft_ms_p99"] - 1, point, name, part, base))
    return {
        "table": table,
        "points": number(len(changes)),
        "by_workload": _by_workload(rows, chosen),
        "device": chosen[0]["device"].upper(),
        "arrivals": "; ".join(f"{row['point']}: {spaced(row['capacity'])}, {row['arrival']}" for row in _first(chosen)),
        "gains": gains,
        "gain_range": f"{signed(min(extremes), 1)} to {signed(max(extremes), 1)} points",
        "sequential": _sequential(Rows(results / "mixed.jsonl", MAKER), chosen),
        "closed": _closed(rows, values(chosen, "point")),
        "belady_below_lru": _below(rows, values(chosen, "point")),
        "retokenised": percent(max(row["retokenised_tokens"] / row["prompt_tokens"] for row in chosen), 2),
        "least": percent(min(changes)),
        "most": percent(max(changes)),
        **_extreme("worst", max(worst, key=lambda found: found[0])),
        **_extreme("best", min(worst, key=lambda found: found[0])),
    }


def _named(row: Row) -> Row:
    """A row with the name of its cell."""
    return row | {"point": f"{row['mix']}, load {row['load']:g}"}


def _sequential(rows: Rows, chosen: list[Row]) -> list[str]:
    """The hybrid's gains over LRU at the same capacities, one request after the other."""
    cells = dict.fromkeys((row["mix"], row["capacity"], row["block_size"]) for row in chosen)
    found = []
    for mix, capacity, size in cells:
        row = rows.one("mix", mix=mix, capacity=capacity, block_size=size, policy="hybrid")
        found.append(f"{signed(100 * row['gain_over_lru'], 1)} ({mix})")
    return found


def _below(rows: Rows, names: list[str]) -> list[str]:
    """Cells in which `belady`, which knows the order of its run before, hits less than LRU."""
    found = {
        name: [rows.one("engine", point=name, policy=policy)["token_hit_rate"] for policy in ("belady", "lru")]
        for name in names
    }
    return [name for name, (opt, lru) in found.items() if opt < lru]


def _closed(rows: Rows, names: list[str]) -> list[str]:
    """The share of the gap that the hybrid closes, where `belady` hits more than LRU."""
    found = []
    for name in names:
        lru, hybrid, opt = (
            rows.one("engine", point=name, policy=policy)["token_hit_rate"] for policy in ("lru", "hybrid", "belady")
        )
        if opt > lru:
            found.append(f"{percent((hybrid - lru) / (opt - lru))} ({name})")
    return found


def _first(chosen: list[Row]) -> list[Row]:
    return list({row["point"]: row for row in reversed(chosen)}.values())[::-1]


def _extreme(word: str, found: tuple[float, str, str, Row, Row]) -> Numbers:
    change, point, name, part, base = found
    times = f"from {number(base['ttft_ms_p99'], 1)} to {number(part['ttft_ms_p99'], 1)} ms"
    return {f"{word}_workload": name, f"{word}_point": point, f"{word}_change": _change(change), f"{word}_times": times}


def _change(share: float) -> str:
    return ("+" if share > 0 else "") + percent(share)


def _by_workload(rows: Rows, chosen: list[Row]) -> list[list[str]]:
    """Hit rate and time to first token of each workload at the highest load, under LRU and under the hybrid."""
    table, most = [], max(row["load"] for row in chosen)
    for point in values([row for row in chosen if row["load"] == most], "point"):
        lru, hybrid = (rows.one("engine", point=point, policy=policy) for policy in ("lru", "hybrid"))
        for name, part in hybrid["by_workload"].items():
            base = lru["by_workload"][name]
            cells = [rate(base["token_hit_rate"]), rate(part["token_hit_rate"])]
            cells += [number(row["ttft_ms_p50"], 1) for row in (base, part)]
            cells += [timed(row, "ttft_ms_p99", 0) for row in (base, part)]
            table.append([point, name, *cells])
    return table


def hash_numbers(results: Path) -> Numbers:
    """Token hit rates of policies on traces of hash ids, and gains on the part that no script tunes on.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed_hash.jsonl", HASH_MAKER)
    chosen = rows.pick("hash_trace")
    return {"traces": [_hash_trace(name, [r for r in chosen if r["mix"] == name]) for name in values(chosen, "mix")]}


def _hash_trace(name: str, rows: list[Row]) -> Numbers:
    capacities = values(rows, "capacity_blocks")
    parts = [part for part in values(rows, "part") if part != "first"]
    table = []
    for policy in values(rows, "policy"):
        rates = {
            (row["part"], row["capacity_blocks"]): number(row["token_hit_rate"], 4).lstrip("0")
            for row in rows
            if row["policy"] == policy
        }
        table.append([f"`{policy}`", *(rates[part, size] for part in parts for size in capacities)])
    second = [row for row in rows if row["part"] == "second"]
    hybrid = {row["capacity_blocks"]: row for row in second if row["policy"] == "hybrid"}
    return {
        "name": name,
        "head": ["policy", *(f"{part}, {number(size)}" for part in parts for size in capacities)],
        "table": table,
        "requests": number(max(row["requests"] for row in rows)),
        "block_size": number(rows[0]["block_size"]),
        "gains": [f"{signed(row['gain_over_lru'] * 100)} at {number(size)}" for size, row in hybrid.items()],
        "others": [
            f"{row['policy']} at {number(row['capacity_blocks'])}"
            for row in second
            if row["policy"] not in ("belady", "lru", "hybrid")
            and row["token_hit_rate"] > hybrid[row["capacity_blocks"]]["token_hit_rate"] + NEAR
        ],
    }
