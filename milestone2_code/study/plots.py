"""The main plots of study one, from its rows alone: single against multi, over capacity, over block size, by turn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from milestone2_code.study.plan import WORKLOADS
from milestone2_code.study.study import MAIN_BLOCK
from vllm_sim.plots.style import new_figure, new_panels, save
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
    """The rows of the fast runs."""
    return read_made_rows(results / "chat.jsonl", "milestone2_code/compare_multi_vs_single_turn.py")


def caption(rows: Sequence[Row], more: str) -> list[str]:
    """What was run, in words."""
    sessions = pick(rows, "capacity", workload="multi")[0]["sessions"]
    requests = " and ".join(
        f"{pick(rows, 'capacity', workload=name)[0]['requests']:,} {LOOKS[name].label}" for name in WORKLOADS
    )
    data = {"pypi": "ShareGPT (the part that PyPI has)", "hub": "ShareGPT"}.get(rows[0]["data"]["source"], "made data")
    quick = " QUICK RUN: no result." if any(row["quick"] for row in rows) else ""
    return [f"{data}, {sessions:,} conversations: {requests} requests.{quick}", more]


def style(workload: str) -> dict[str, Any]:
    """Arguments of a line."""
    look = LOOKS[workload]
    return {
        "color": look.color,
        "marker": look.marker,
        "linestyle": look.line,
        "label": look.label,
        "markersize": 5,
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
    figure, axes = new_figure("The same chats as single requests and as conversations, unlimited cache")
    for place, workload in enumerate(WORKLOADS):
        row = pick(rows, "capacity", workload=workload, capacity_share=None)[0]
        look = LOOKS[workload]
        values = [row[name] for name in RATES]
        places = [i + (place - 0.5) * 0.36 for i in range(len(RATES))]
        bars = axes.bar(
            places, values, 0.34, color=look.color, hatch=look.hatch, edgecolor="black", label=look.label, linewidth=0.6
        )
        axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=6)
        ends = [row[f"{name}_ci95"] for name in RATES]
        axes.errorbar(places, values, errors(values, ends), color="black", capsize=4, linestyle="none")
    axes.set_xticks(range(len(RATES)), list(RATES.values()))
    axes.set_ylim(0, 1.19)
    axes.set_yticks([tenth / 5 for tenth in range(6)])
    axes.set_ylabel("hit rate")
    axes.legend(frameon=False, loc="upper right", ncol=2)
    more = f"Blocks of {MAIN_BLOCK} tokens, no eviction. Lines on the bars: 95 %, sessions resampled."
    return save(figure, figures, "chat_definitions", caption(rows, more))


def _over_capacity(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure("Hit rate over capacity, LRU")
    for workload in WORKLOADS:
        chosen = [row for row in pick(rows, "capacity", workload=workload) if row["capacity_tokens"]]
        tokens = [row["capacity_tokens"] for row in chosen]
        axes.plot(tokens, [row["token_hit_rate"] for row in chosen], **style(workload))
        low, high = zip(*(row["token_hit_rate_ci95"] for row in chosen), strict=True)
        axes.fill_between(tokens, low, high, color=LOOKS[workload].color, alpha=0.2, linewidth=0)
        ceiling = pick(rows, "capacity", workload=workload, capacity_share=None)[0]["token_hit_rate"]
        axes.axhline(ceiling, color=LOOKS[workload].color, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("capacity (tokens)")
    axes.set_ylabel("token hit rate")
    axes.legend(frameon=False, loc="center left")
    shares = [row["capacity_share"] for row in pick(rows, "capacity", workload="multi") if row["capacity_share"]]
    points = f"Points: {min(shares):.1%} to {max(shares):.0%} of each working set"
    more = f"{points}; band: 95 %, sessions resampled; dotted: unlimited.\n{_arrivals(rows)}"
    return save(figure, figures, "chat_capacity", caption(rows, more))


def _arrivals(rows: list[Row]) -> str:
    row = pick(rows, "capacity")[0]
    return (
        f"Blocks of {MAIN_BLOCK} tokens; sessions arrive at {row['sessions_per_s']:g}/s (Poisson), "
        f"think time log-normal, median {row['think_s']:g} s."
    )


def _over_block_size(rows: list[Row], figures: Path) -> list[Path]:
    figure, (rates, slots) = new_panels("Hit rate and filled slots over block size, at equal tokens of capacity", 2)
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
    for axes, words in ((rates, "token hit rate"), (slots, "token slots filled / allocated")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("block size (tokens)")
        axes.set_ylabel(words)
    rates.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0, 0.36))
    slots.legend(frameon=False, fontsize=8, loc="lower left")
    more = (
        f"LRU; 10 %: of the working set at {MAIN_BLOCK} tokens a block, in tokens; bars: 95 %, sessions resampled. "
        "Slots: of the blocks taken in an unlimited cache."
    )
    return save(figure, figures, "chat_block_size", caption(rows, more))


def _by_turn(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure("Hit rate by turn of the conversation, LRU")
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
    axes.set_ylabel("token hit rate, multi-turn")
    axes.legend(frameon=False, loc="lower right")
    more = _arrivals(rows) + "\nBands: 95 %, sessions resampled; few chats have many turns."
    return save(figure, figures, "chat_turns", caption(rows, more))
