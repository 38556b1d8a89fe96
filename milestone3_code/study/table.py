"""The tables of study two in docs/results.md, made from its rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from milestone3_code.study.names import spoken
from milestone3_code.study.study import ENGINE, GAPS, HASH, MAIN_BLOCK, RUNS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick, read_rows

MAIN_SHARE = "10%"
GAP_SHARES = ("5%", "10%", "20%", "50%")
ALL = "all"
AIM, FLOOR = 1 / 3, -0.005
"""The aims that were set before: share of the gap; gain over LRU in any run of a mix, or of a workload alone."""
LEAST_GAP, LEAST_REAL_GAP = 0.02, 0.005
"""In token hit rate: of a smaller gap, of mixes and of one real trace, no share is shown."""


class Loss(NamedTuple):
    """What a workload loses in a mix."""

    workload: str
    gain: float
    """Token hit rate over LRU's; below 0."""
    row: Row
    """The row of the mix at the capacity."""


def section(results: Path) -> str:
    """Real traces, shares of the gap, each mix at MAIN_SHARE, the worst points and the engine, in Markdown.

    Raises:
        ValueError: a row comes from a quick run, or one that is needed is not there.
    """
    rows, gaps = read_rows(results / RUNS), read_gaps(results)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_policies.py without --quick")
    parts = [_gaps(gaps), _aim(gaps), _mixes(gaps), _worst(rows), _random(rows), _loser(gaps)]
    if (results / HASH).is_file():
        parts.insert(0, _real(read_rows(results / HASH)))
    return "\n\n".join([*parts, _engine(read_rows(results / ENGINE))])


def read_gaps(results: Path) -> list[Row]:
    """The rows of the main result.

    Raises:
        ValueError: there are none, or they are of a quick run.
    """
    if not (results / GAPS).is_file():
        raise ValueError(f"no {results / GAPS}; run compare_policies.py")
    rows = read_rows(results / GAPS)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_policies.py without --quick")
    return rows


def gap(rows: Sequence[Row], policy: str, capacity: str | None = None, mix: str = ALL, size: int = MAIN_BLOCK) -> Row:
    """A row of the main result; no capacity: over GAP_SHARES.

    Raises:
        ValueError: there is none.
    """
    wanted = (policy, capacity, mix, size)
    for row in rows:
        if (row["policy"], row["capacity"], row["mix"], row["block_size"]) == wanted:
            return row
    raise ValueError(f"no row of gap with {wanted}; run compare_policies.py to its end")


def _gaps(rows: Sequence[Row]) -> str:
    """All mixes: by capacity and summed, and how sure it is that the hybrid closes more."""
    online = dict.fromkeys(row["policy"] for row in rows if row["policy"] not in ("lru", "belady"))
    sizes = [size for size in sorted({row["block_size"] for row in rows}) if size != MAIN_BLOCK]
    shown = [capacity for capacity in GAP_SHARES if gap(rows, "belady", capacity)["gain_over_lru"] >= LEAST_GAP]
    heads = ["gap closed, %", *(f"at {capacity}" for capacity in shown), f"{GAP_SHARES[0]} to {GAP_SHARES[-1]}"]
    heads += [*(f"blocks of {size}" for size in sizes), "hybrid ahead by", "in seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for policy in sorted(online, key=lambda name: -gap(rows, name)["gap_closed"]):
        whole = gap(rows, policy)
        cells = [_one(gap(rows, policy, capacity)["gap_closed"]) for capacity in shown]
        cells.append(percent(whole, "gap_closed"))
        for size in sizes:
            found = [row for row in rows if (row["policy"], row["block_size"]) == (policy, size)]
            cells.append(_one(gap(rows, policy, size=size)["gap_closed"]) if found else "")
        is_hybrid = policy == "hybrid"
        cells.append("" if is_hybrid else percent(whole, "hybrid_lead"))
        cells.append("" if is_hybrid else f"{whole['hybrid_ahead_seeds']} of {whole['seeds']}")
        lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _aim(rows: Sequence[Row]) -> str:
    closed = gap(rows, "hybrid")["gap_closed"]
    return f"The aim was a third of the gap, and `hybrid` {'reaches' if closed >= AIM else 'does not reach'} it."


def _mixes(rows: Sequence[Row]) -> str:
    heads = [f"token hit rate at {MAIN_SHARE}, %", "GiB", "LRU", "hybrid", "optimum", "gap closed, %"]
    heads.append("workloads, hybrid - LRU in points")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for mix in dict.fromkeys(row["mix"] for row in rows if row["mix"] != ALL):
        lru, hybrid, best = (gap(rows, policy, MAIN_SHARE, mix) for policy in ("lru", "hybrid", "belady"))
        cells = [f"{lru['capacity_gib']:.1f}", *(_one(row["token_hit_rate"]) for row in (lru, hybrid, best))]
        cells.append(percent(hybrid, "gap_closed"))
        parts = hybrid["by_workload"].items()
        cells.append(", ".join(f"{name} {100 * part['gain_over_lru']:+.1f}" for name, part in parts))
        lines.append(f"| {mix} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _worst(rows: Sequence[Row]) -> str:
    cells = distinct(rows)
    worst = min(cells, key=lambda row: row["gain_over_lru"])
    what = f"{worst['workload']} of `{worst['mix']}` alone" if worst["workload"] else f"mix `{worst['mix']}`"
    return (
        f"Of {len(cells):,} runs (each mix and each of its workloads alone; the largest request to all of the working "
        f"set; blocks of {min(row['block_size'] for row in cells)} to {max(row['block_size'] for row in cells)}; the "
        f"same blocks are one run) the worst for `hybrid` is {100 * worst['gain_over_lru']:+.2f} points of token hit "
        f"rate against LRU: {what}, {worst['capacity_blocks']:,} blocks of {worst['block_size']}."
    )


def distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows of `guarantee`, of runs that are the same one: other tags, or capacities of equally many blocks."""
    found: dict[tuple[object, ...], Row] = {}
    for row in pick(rows, "guarantee", tags="with"):
        found.setdefault((row["mix"], row["workload"], row["block_size"], row["capacity_blocks"]), row)
    return list(found.values())


def random_runs(rows: Sequence[Row]) -> list[Row]:
    """The rows of random traffic, a row for each capacity."""
    return [
        row
        | {"capacity": capacity, "lru_hit_rate": row["lru_hit_rate"][at], "belady_hit_rate": row["belady_hit_rate"][at]}
        | {"gains_over_lru": {name: gains[at] for name, gains in row["gains_over_lru"].items()}}
        for row in pick(rows, "random")
        for at, capacity in enumerate(row["capacities"])
    ]


def _random(rows: Sequence[Row]) -> str:
    cells = random_runs(rows)
    gains = {name: [row["gains_over_lru"][name] for row in cells] for name in ("hybrid", "hybrid without guard", "arc")}
    least = {name: 100 * min(found) for name, found in gains.items()}
    below = {name: sum(gain < FLOOR for gain in found) for name, found in gains.items()}
    return (
        f"On {len({row['mix_seed'] for row in cells})} random traffics that are harder (loops longer than the cache, "
        f"streams that stop) {below['hybrid']} of {len(cells):,} runs are more than half a point under LRU, the worst "
        f"{least['hybrid']:+.2f}; without its guard {below['hybrid without guard']} "
        f"({least['hybrid without guard']:+.2f}), "
        f"under `arc` {below['arc']} ({least['arc']:+.2f})."
    )


def lost_most(rows: Sequence[Row]) -> Loss:
    """The workload that loses most under `hybrid` in a mix, mean over seeds, at any capacity of the gap."""
    chosen = [row for row in rows if row["policy"] == "hybrid" and row["mix"] != ALL and row["capacity"] in GAP_SHARES]
    chosen = [row for row in chosen if row["block_size"] == MAIN_BLOCK]
    losses = (Loss(name, part["gain_over_lru"], row) for row in chosen for name, part in row["by_workload"].items())
    return min(losses, key=lambda loss: loss.gain)


def _loser(rows: Sequence[Row]) -> str:
    loss = lost_most(rows)
    return (
        f"The workload that loses most is {loss.workload} in `{loss.row['mix']}` at {loss.row['capacity']}: "
        f"{100 * loss.gain:+.1f} points, while the whole mix gains {100 * loss.row['gain_over_lru']:+.1f}."
    )


def _real(rows: Sequence[Row]) -> str:
    """The hybrid on the half of real traces that no script tunes on."""
    heads = ["second half of", "blocks", "LRU, %", "optimum, %", "hybrid - LRU, points", "gap closed, %"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    second = [row for row in rows if row["part"] == "second"]
    for mix, blocks in dict.fromkeys((row["mix"], row["capacity_blocks"]) for row in second):
        own = {row["policy"]: row for row in second if (row["mix"], row["capacity_blocks"]) == (mix, blocks)}
        distance = own["belady"]["token_hit_rate"] - own["lru"]["token_hit_rate"]
        closed = _one(own["hybrid"]["gain_over_lru"] / distance) if distance >= LEAST_REAL_GAP else ""
        rates = [_one(own[policy]["token_hit_rate"]) for policy in ("lru", "belady")]
        cells = [
            f"{blocks:,} of {own['lru']['block_size']}",
            *rates,
            percent(own["hybrid"], "gain_over_lru", 2),
            closed,
        ]
        lines.append(f"| {spoken(mix)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def engine_shares(rows: Sequence[Row]) -> dict[float, dict[str, float]]:
    """By load: the share of the gap to `belady` that each other policy closes in the engine, the largest first.

    Sum of gains over sum of gaps, in hit tokens, over mixes and capacities.
    """
    found = {}
    for load in dict.fromkeys(row["load"] for row in rows):
        hits: Counter[str] = Counter()
        for row in rows:
            if row["load"] == load:
                hits[row["policy"]] += row["hit_tokens"]
        lru, best = hits.pop("lru"), hits.pop("belady")
        closed = {policy: (tokens - lru) / (best - lru) for policy, tokens in hits.items()}
        found[load] = dict(sorted(closed.items(), key=lambda one: -one[1]))
    return found


def in_words(closed: Mapping[str, float]) -> str:
    """Shares of policies, in per cent."""
    return ", ".join(f"`{policy}` {_one(share)} %" for policy, share in closed.items())


def _engine(rows: Sequence[Row]) -> str:
    """What is left under vLLM's scheduler, where requests overlap."""
    hybrid = [row for row in rows if row["policy"] == "hybrid"]
    best, worst = (end(hybrid, key=lambda row: row["gain_over_lru"]) for end in (max, min))
    sure = sum(row["gain_over_lru_ci95"][0] > 0 for row in hybrid)
    lost = sum(row["gain_over_lru_ci95"][1] < 0 for row in hybrid)
    shorter = sum(row["ttft_over_lru_ms_ci95"][1] < 0 for row in hybrid)
    places = [
        f"{100 * row['gain_over_lru']:+.1f} ({row['mix']}, {row['capacity']}, load {row['load']:g})"
        for row in (best, worst)
    ]
    closed = "; ".join(f"{in_words(shares)} at load {load:g}" for load, shares in engine_shares(rows).items())
    return (
        "Under vLLM's scheduler in virtual time, where requests overlap, `hybrid` is above LRU with its whole interval "
        f"in {sure} of {len(hybrid)} runs and below it in {lost}; best and worst are {' and '.join(places)} points. "
        f"The mean time to first token is shorter, with its whole interval, in {shorter}. Of the gap to "
        f"`belady` there, summed over mixes and capacities, policies close {closed}."
    )


def percent(row: Row, field: str, digits: int = 1) -> str:
    """A share and its interval in per cent, or points."""
    low, high = row[f"{field}_ci95"]
    return f"{_one(row[field], digits)} ({_one(low, digits)} to {_one(high, digits)})"


def _one(share: float, digits: int = 1) -> str:
    """Per cent; what rounds to 0 has no sign."""
    return f"{round(100 * share, digits) + 0.0:.{digits}f}"
