"""The main plots of study one, from its rows alone: single against multi, over capacity, over block size, by turn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from milestone2_code.study.plan import WORKLOADS
from milestone2_code.study.study import ORACLE
from vllm_sim.plots.style import in_percent, line_style, new_figure, new_panels, save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import RATES, pick, read_made_rows


class Series(NamedTuple):
    """How a workload is drawn everywhere."""

    label: str
    color: str
    marker: str
    line: str
    hatch: str


LOOKS = {
    "single": Series("single-turn", "#E69F00", "s", "--", "//"),
    "multi": Series("multi-turn", "#0072B2", "o", "-", ""),
}


def load(results: Path) -> list[Row]:
    """The rows of the fast cells."""
    return read_made_rows(results / "chat.jsonl", "milestone2_code/compare_multi_vs_single_turn.py")


def write(figure: Any, figures: Path, name: str, rows: Sequence[Row]) -> list[Path]:
    """Saves a plot of rows; one of a quick run says that it is no result."""
    return save(figure, figures, name, "QUICK RUN: no result" if any(row["quick"] for row in rows) else "")


def style(workload: str) -> dict[str, Any]:
    """Arguments of a line."""
    look = LOOKS[workload]
    return {
        "color": look.color,
        "marker": look.marker,
        "linestyle": look.line,
        "label": look.label,
        "markersize": 4,
    }


def errors(values: Sequence[float], ends: Sequence[Sequence[float]]) -> list[list[float]]:
    """Intervals as what `Axes.errorbar` takes: how far they reach below and above the values."""
    pairs = list(zip(values, ends, strict=True))
    return [[max(0, value - low) for value, (low, _) in pairs], [max(0, high - value) for value, (_, high) in pairs]]


def draw_main(results: Path, figures: Path) -> list[Path]:
    """Writes the main plots; returns their files."""
    rows = load(results)
    draws = (_definitions, _over_capacity, _over_block_size, _by_turn)
    return [path for draw in draws for path in draw(rows, figures)]


def _definitions(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure()
    for place, workload in enumerate(WORKLOADS):
        row = pick(rows, "capacity", workload=workload, capacity_share=None)[0]
        look = LOOKS[workload]
        values = [row[name] for name in RATES]
        places = [i + (place - 0.5) * 0.36 for i in range(len(RATES))]
        bars = axes.bar(
            places, values, 0.34, color=look.color, hatch=look.hatch, edgecolor="black", label=look.label, linewidth=0.6
        )
        axes.bar_label(bars, fmt=lambda share: f"{100 * share:.1f}", padding=6)
        ends = [row[f"{name}_ci95"] for name in RATES]
        axes.errorbar(places, values, errors(values, ends), color="black", capsize=4, linestyle="none")
    axes.set_xticks(range(len(RATES)), list(RATES.values()))
    axes.set_ylim(0, 1.19)
    in_percent(axes.yaxis)
    axes.set_ylabel("hit rate (%)")
    axes.legend(loc="upper right", ncol=2)
    return write(figure, figures, "chat_definitions", rows)


def _over_capacity(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure()
    for workload in WORKLOADS:
        chosen = [row for row in pick(rows, "capacity", workload=workload) if row["capacity_share"]]
        shares = [100 * row["capacity_share"] for row in chosen]
        own = style(workload) | {"label": f"{LOOKS[workload].label}, LRU"}
        axes.plot(shares, [row["token_hit_rate"] for row in chosen], **own)
        low, high = zip(*(row["token_hit_rate_ci95"] for row in chosen), strict=True)
        axes.fill_between(shares, low, high, color=LOOKS[workload].color, alpha=0.2, linewidth=0)
    for policy, label in (("belady", "multi-turn, optimum"), (ORACLE, "multi-turn, LRU and ends of sessions")):
        chosen = [row for row in pick(rows, "policy", workload="multi", policy=policy) if row["capacity_share"]]
        if chosen:
            shares = [100 * row["capacity_share"] for row in chosen]
            look = line_style(policy) | {"label": label, "markersize": 4}
            axes.plot(shares, [row["token_hit_rate"] for row in chosen], **look)
    axes.set_xscale("log")
    ticks = [2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    in_percent(axes.yaxis)
    axes.set_xlabel("capacity (% of the own working set)")
    axes.set_ylabel("token hit rate (%)")
    figure.legend(ncol=2, loc="outside upper center")
    return write(figure, figures, "chat_capacity", rows)


def _over_block_size(rows: list[Row], figures: Path) -> list[Path]:
    figure, (rates, slots) = new_panels(2, height=2.7)
    for workload in WORKLOADS:
        for share, words in ((None, "unlimited"), (0.1, "10 %")):
            chosen = pick(rows, "block_size", workload=workload, capacity_share=share)
            look = style(workload) | {"label": f"{LOOKS[workload].label}, {words}"}
            if share:
                look |= {"markerfacecolor": "white", "linewidth": 0.9}
            sizes, values = [r["block_size"] for r in chosen], [r["token_hit_rate"] for r in chosen]
            rates.errorbar(sizes, values, errors(values, [r["token_hit_rate_ci95"] for r in chosen]), capsize=3, **look)
        chosen = pick(rows, "block_size", workload=workload, capacity_share=None)
        sizes, values = [r["block_size"] for r in chosen], [r["slots_filled_share"] for r in chosen]
        ends = [r["slots_filled_share_ci95"] for r in chosen]
        slots.errorbar(sizes, values, errors(values, ends), capsize=3, **style(workload))
    sizes = sorted({row["block_size"] for row in pick(rows, "block_size")})
    for axes, words in ((rates, "token hit rate (%)"), (slots, "token slots filled (%)")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(0, 1.02)
        in_percent(axes.yaxis)
        axes.set_xlabel("block size (tokens)")
        axes.set_ylabel(words)
    rates.legend(loc="center left", bbox_to_anchor=(0, 0.36))
    slots.legend(loc="lower left")
    return write(figure, figures, "chat_block_size", rows)


def _by_turn(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure()
    lines = ((None, "#0072B2", "o", "-"), (0.35, "#009E73", "D", "-."), (0.1, "#D55E00", "s", "--"))
    for share, color, marker, line in lines:
        found = pick(rows, "capacity", workload="multi", capacity_share=share)
        if not found:
            continue
        turns = found[0]["by_turn"]
        label = "unlimited" if share is None else f"{share:.0%} of the working set"
        places = [int(turn) + 1 for turn in turns]
        values = [rates["token_hit_rate"] for rates in turns.values()]
        axes.plot(places, values, color=color, marker=marker, linestyle=line, label=label, markersize=5)
        low, high = zip(*(rates["token_hit_rate_ci95"] for rates in turns.values()), strict=True)
        axes.fill_between(places, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(range(1, 21))
    axes.set_xlabel("turn")
    in_percent(axes.yaxis)
    axes.set_ylabel("token hit rate (%)")
    axes.legend(loc="lower right")
    return write(figure, figures, "chat_turns", rows)
