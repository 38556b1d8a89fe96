"""Plots of a sweep's rows: they read rows and nothing else.

Rows are put together by their trace, backend and whatever else of their configuration differs (grouping.py); each
group gets its rate over capacity and over block size, a line a policy. Where LRU and the optimum ran too, one more plot
has the share of the gap that a policy closes,

    sum over runs of (hits of the policy - hits of LRU) / sum over runs of (hits of the optimum - hits of LRU).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vllm_sim.plots.grouping import conditions, label, seeds
from vllm_sim.plots.style import ALONE_IN, CEILING, legend_beside, line_styles, look, new_figure, save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import RATES

_NOTE_LETTERS = 110
"""In a line below a plot."""
_SAID = ("backend", "raw_blocks", "warmup")
"""Conditions that a plot's note has in words."""
logger = logging.getLogger(__name__)

_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "||", "++", "**")


class Group(NamedTuple):
    """What rows of one plot have in common."""

    trace: str
    trace_sha256: str
    requests: int
    warmup_requests: int
    conditions: tuple[tuple[str, Any], ...]

    def get(self, name: str) -> Any:
        """A condition; None where it is not set."""
        return dict(self.conditions).get(name)


def draw_all(rows: Sequence[Row], out: Path, name: str, rate: str = "token_hit_rate") -> list[Path]:
    """Draws whatever the rows allow.

    Args:
        rows: of one sweep or of several.
        out: folder for the PNG and PDF files.
        name: how the files' names begin.
        rate: one of RATES.

    Returns:
        The files.

    Raises:
        ValueError: no such rate, or nothing to draw; a plot whose rows have no rate is left out with a warning.
    """
    if rate not in RATES:
        raise ValueError(f"rate is {rate!r}; allowed: {', '.join(RATES)}")
    paths: list[Path] = []
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault(_group(row), []).append(row)
    names = _names(groups)
    for group, members in groups.items():
        stem = f"{name}-{names[group]}"
        for size in sorted({row["block_size"] for row in members}):
            same = [row for row in members if row["block_size"] == size]
            paths += _over_capacity(same, group, out, f"{stem}-capacity-b{size}", rate)
            for workload in _workloads(same):
                parts = [_part(row, workload) for row in same if workload in row.get("by_workload", {})]
                where = f"{stem}-capacity-b{size}-{_file_name(workload)}"
                paths += _over_capacity(parts, group, out, where, rate, workload)
        paths += _over_block_size(members, group, out, f"{stem}-block-size", rate)
    paths += _gap(groups, names, out, f"{name}-gap")
    if not paths:
        if not any(rate in row or rate in row.get("curve", {}) for row in rows):
            raise ValueError(f"nothing to draw: no row has {rate}; allowed: rows of sweep or replay")
        raise ValueError("nothing to draw: one policy at two capacities, or at two block sizes, is the least")
    return paths


def gap_closed(rows: Iterable[Row]) -> dict[str, float]:
    """The share of the gap between LRU and the optimum that each policy closes: sum of gains / sum of gaps, in tokens.

    Only points (trace, capacity, block size, seed, ...) count at which LRU, the optimum and the policy all ran, so that
    each sum is over the same points.
    """
    points: dict[Any, dict[str, int]] = {}
    for row in rows:
        if row["capacity_blocks"] is not None and "hit_tokens" in row:
            key = (_group(row), row["block_size"], row["capacity_blocks"], seeds(row))
            points.setdefault(key, {})[label(row)] = row["hit_tokens"]
    gains: dict[str, int] = {}
    gaps: dict[str, int] = {}
    for hits in points.values():
        if "lru" in hits and "belady" in hits:
            for policy in hits.keys() - {"lru", "belady"}:
                gains[policy] = gains.get(policy, 0) + hits[policy] - hits["lru"]
                gaps[policy] = gaps.get(policy, 0) + hits["belady"] - hits["lru"]
    return {policy: gains[policy] / gaps[policy] for policy in sorted(gaps) if gaps[policy]}


def _group(row: Row) -> Group:
    counted = (row.get("requests", 0), row.get("warmup_requests", 0))
    return Group(row["trace"], row["trace_sha256"], *counted, tuple(conditions(row).items()))


def _names(groups: Iterable[Group]) -> dict[Group, str]:
    """A file name for each group, with as much in it as differs between them."""
    names: dict[Group, str] = {}
    for group in groups:
        name = _file_name(group.trace.split(".")[0])
        backend, sha256 = group.get("backend"), group.trace_sha256[:6]
        for more in ("", f"-{backend}", f"-{backend}-{sha256}-w{group.warmup_requests}"):
            if name + more not in names.values():
                names[group] = name + more
                break
        else:
            names[group] = f"{name}-{len(names)}"
    return names


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text) or "none"


def _workloads(rows: Sequence[Row]) -> list[str]:
    names = sorted({name for row in rows for name in row.get("by_workload", {})})
    return names if len(names) > 1 else []


def _part(row: Row, workload: str) -> Row:
    return row | row["by_workload"][workload]


def _points(rows: Iterable[Row], x: Callable[[Row], int], rate: str) -> dict[str, list[tuple[int, float]]]:
    """For each policy its points from left to right; the mean where there are several seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if rate in row:
            found.setdefault(label(row), {}).setdefault(x(row), []).append(row[rate])
    return {
        policy: [(at, sum(values) / len(values)) for at, values in sorted(points.items())]
        for policy, points in sorted(found.items())
    }


def _over_capacity(
    rows: Sequence[Row], group: Group, out: Path, name: str, rate: str, workload: str | None = None
) -> list[Path]:
    if not any(rate in row or rate in row.get("curve", {}) for row in rows):
        logger.warning("%s: left out, no row of it has %s", name, rate)
        return []
    limited = [row for row in rows if isinstance(row["capacity_blocks"], int)]
    lines = _points(limited, lambda row: row["capacity_blocks"], rate)
    curves = [row["curve"] for row in rows if rate in row.get("curve", {})]
    if not curves and len({at for points in lines.values() for at, _ in points}) < 2:
        return []
    figure, axes = new_figure(ALONE_IN)
    drawn = [at for points in lines.values() for at, _ in points] + [curve["capacity_blocks"][-1] for curve in curves]
    for curve in curves:
        steps, rates = [*curve["capacity_blocks"], max(drawn)], [*curve[rate], curve[rate][-1]]
        axes.step(steps, rates, where="post", color=look("lru").color, linewidth=0.8, label="lru, every capacity")
    styles = line_styles(lines)
    for policy, points in lines.items():
        dots_alone = {"linestyle": ""} if curves and policy == "lru" else {}
        axes.plot(*zip(*points, strict=True), **styles[policy] | dots_alone)
    ceilings = [row[rate] for row in rows if row["capacity_blocks"] is None and rate in row]
    if ceilings:
        axes.axhline(max(ceilings), **CEILING, label="unlimited")
    size = rows[0]["block_size"]
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right < 500 * left else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda blocks, _: f"{blocks:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"capacity (blocks of {size:,} tokens)")
    _finish(axes, rate)
    working_set = max((row.get("working_set_blocks", 0) for row in rows), default=0)
    if working_set:
        above = axes.secondary_xaxis("top", functions=(lambda at: at / working_set, lambda share: share * working_set))
        above.set_xlabel("share of the working set")
        above.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.3g}"))
        above.xaxis.set_minor_formatter(NullFormatter())
    title = f"{RATES[rate].capitalize()} over capacity" + (f": {workload}" if workload else "")
    note = [*_note(group, workload), f"Working set: {working_set:,} blocks.{_seeds(rows)}"]
    return save(figure, out, name, title, note)


def _over_block_size(rows: Sequence[Row], group: Group, out: Path, name: str, rate: str) -> list[Path]:
    """A plot for each capacity at which several block sizes ran."""
    paths = []
    by_capacity: dict[str, list[Row]] = {}
    for row in rows:
        if rate in row:
            by_capacity.setdefault(_capacity(row), []).append(row)
    for shown, same in by_capacity.items():
        sizes = sorted({row["block_size"] for row in same})
        if len(sizes) < 2:
            continue
        figure, axes = new_figure(ALONE_IN)
        lines = _points(same, lambda row: row["block_size"], rate)
        styles = line_styles(lines)
        for policy, points in lines.items():
            axes.plot(*zip(*points, strict=True), **styles[policy])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("block size (tokens)")
        _finish(axes, rate)
        note = [*_note(group), f"Capacity: {shown} at every block size.{_seeds(same)}"]
        where = shown.removesuffix(" tokens").replace(",", "").replace("%", " percent")
        title = f"{RATES[rate].capitalize()} over block size, capacity {shown}"
        paths += save(figure, out, f"{name}-{_file_name(where)}", title, note)
    return paths


def _capacity(row: Row) -> str:
    """A share or a size as the user gave it, where the row says so: not every block size divides it. Else in tokens."""
    if row["capacity_blocks"] is None:
        return "unlimited"
    given = row.get("capacity")
    if given is None or str(given).isdigit():
        return f"{row['capacity_blocks'] * row['block_size']:,} tokens"
    return f"{given} of the working set" if str(given).endswith("%") else str(given)


def _gap(groups: dict[Group, list[Row]], names: dict[Group, str], out: Path, name: str) -> list[Path]:
    shares = {group: found for group, rows in groups.items() if (found := gap_closed(rows))}
    if not shares:
        return []
    if len(shares) > 1:
        total = gap_closed(row for group in shares for row in groups[group])
    policies = sorted({policy for found in shares.values() for policy in found})
    traces = [group.trace.split(".jsonl")[0] for group in shares]
    labels = traces if len(set(traces)) == len(traces) else [names[group] for group in shares]
    bars = list(zip(labels, shares.values(), strict=True))
    bars += [("all", total)] if len(shares) > 1 else []
    figure, axes = new_figure(ALONE_IN)
    styles = line_styles(policies)
    width = 0.8 / len(policies)
    crowded = len(bars) * len(policies) > 12
    for place, policy in enumerate(policies):
        at = [i + (place - (len(policies) - 1) / 2) * width for i in range(len(bars))]
        heights = [100 * found.get(policy, 0.0) for _, found in bars]
        fill = {"color": styles[policy]["color"], "hatch": _HATCHES[place % len(_HATCHES)], "edgecolor": "white"}
        drawn = axes.bar(at, heights, width * 0.9, label=policy, **fill)
        axes.bar_label(drawn, fmt="%.0f" if crowded else "%.1f", fontsize=5 if crowded else 7, padding=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.1)
    axes.set_xticks(range(len(bars)), [label for label, _ in bars], rotation=20 if len(bars) > 3 else 0)
    axes.set_ylabel("share of the gap (%)")
    legend_beside(axes)
    points = sum(
        isinstance(row["capacity_blocks"], int) and row["policy"] == "belady" for g in shares for row in groups[g]
    )
    note = [
        "Sum of gains over LRU / sum of gaps to the optimum, in hit tokens, over bounded capacities and block sizes",
        f"({points} points). 0: LRU, 100: the optimum; below 0: worse than LRU.",
    ]
    return save(figure, out, name, "Share of the gap between LRU and the optimum that a policy closes", note)


def _finish(axes: Any, rate: str) -> None:
    highest = axes.dataLim.y1
    axes.set_ylabel(f"{RATES[rate]} (0 to 1)")
    axes.set_ylim(0, min(1.02, 1.1 * highest) if highest > 0 else 1.02)
    legend_beside(axes)


def _note(group: Group, workload: str | None = None) -> list[str]:
    blocks = "raw blocks, outputs left out" if group.get("raw_blocks") else "vLLM's rules"
    counted = f"{group.requests:,} requests" + (
        f", the first {group.warmup_requests:,} left out" * bool(group.warmup_requests)
    )
    part = f", those of workload {workload} counted" if workload else ""
    lines = [f"{group.trace} ({group.trace_sha256[:8]}): {counted}{part}. Backend {group.get('backend')}, {blocks}."]
    rest = [f"{name} {value}" for name, value in group.conditions if name not in _SAID]
    return lines + wrap(", ".join(rest), _NOTE_LETTERS)


def _seeds(rows: Iterable[Row]) -> str:
    found = {seeds(row) for row in rows}
    return f" Mean of {len(found)} seeds." if len(found) > 1 else ""
