"""The deeper plots of study two: losses, workloads, ablations, changes over the run, isolation, bytes, hash traces."""

from pathlib import Path

from milestone3_code.study.drawing import caption, legend, load, one, panels, plain, shares, side_by_side, values
from milestone3_code.study.study import GAPS, HASH, MAIN_BLOCK
from vllm_sim.plots.style import line_style, new_figure, save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

LOSSES = (
    ("lru_hit_rate", "LRU hits", "#000000", ""),
    ("gained_by_hybrid", "hybrid adds", "#B00020", "//"),
    ("left", "the optimum adds", "#999999", ".."),
    ("lost_to_capacity", "lost to capacity", "#DDDDDD", "xx"),
)
MIX_LOOKS = (
    ("#000000", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#E69F00", "^", "-."),
    ("#009E73", "D", ":"),
    ("#CC79A7", "v", "-"),
    ("#56B4E9", "P", "--"),
)
"""Of the mixes, in their order."""
GIB = 2**30


def draw_deep(results: Path, figures: Path) -> list[Path]:
    """Writes the deeper plots; returns their files."""
    rows = load(results)
    draws = (_losses, _workloads, _ablation, _windows, _isolation, _bytes, _cold_start)
    paths = [path for draw in draws for path in draw(rows, figures)]
    paths += _block_size(load(results, GAPS), figures)
    if (results / HASH).is_file():
        paths += _hash(load(results, HASH), figures)
    return paths


def _losses(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "loss", block_size=MAIN_BLOCK)
    names = values(found, "mix")
    figure, plots = panels("What is lost to capacity and what to the policy", len(names))
    for name, axes in zip(names, plots, strict=True):
        own = shares([row for row in found if row["mix"] == name])
        below = [0.0] * len(own)
        for field, label, color, hatch in LOSSES:
            heights = [
                row["lost_to_policy"] - row["gained_by_hybrid"] if field == "left" else row[field] for row in own
            ]
            heights = [max(0.0, height) for height in heights]
            axes.bar(range(len(own)), heights, 0.75, below, color=color, hatch=hatch, edgecolor="white", label=label)
            below = [height + under for height, under in zip(heights, below, strict=True)]
        axes.set_xticks(range(len(own)), [row["capacity"].rstrip("%") for row in own], fontsize=8)
        axes.set_ylim(0, 1.02)
        axes.set_title(name, fontsize=9)
    plots[0].set_ylabel("share of prompt tokens")
    legend(figure, plots, 1)
    more = (
        f"x: capacity in % of the working set; blocks of {MAIN_BLOCK}; the top is the hit rate of an unlimited cache."
    )
    return save(figure, figures, "mixed_losses", caption(found, more))


def _workloads(rows: list[Row], figures: Path) -> list[Path]:
    found = shares(pick(rows, "mix", block_size=MAIN_BLOCK, policy="hybrid"))
    capacities = values(found, "capacity")
    lines = [(mix, name) for mix in values(found, "mix") for name in one(found, "mix", mix=mix)["by_workload"]]
    table = [
        [
            100 * one(found, "mix", mix=mix, capacity=capacity)["by_workload"][name]["gain_over_lru"]
            for capacity in capacities
        ]
        for mix, name in lines
    ]
    figure, axes = new_figure("Each workload of each mix: the hybrid's token hit rate over LRU's (points)")
    figure.set_size_inches(6.4, 1.6 + 0.24 * len(lines))
    axes.grid(False)
    axes.imshow(table, cmap="PuOr", vmin=-15, vmax=15, aspect="auto")
    for i, line in enumerate(table):
        for j, value in enumerate(line):
            weight = "bold" if value < -2 else "normal"
            color = "white" if abs(value) > 11 else "black"
            axes.text(j, i, f"{value:+.1f}", ha="center", va="center", fontsize=7.5, fontweight=weight, color=color)
    axes.set_xticks(range(len(capacities)), capacities)
    axes.set_yticks(range(len(lines)), [f"{mix}: {name}" for mix, name in lines], fontsize=7.5)
    axes.set_xlabel("capacity (of the working set)")
    return save(
        figure, figures, "mixed_workloads", caption(found, f"Blocks of {MAIN_BLOCK}. Bold: more than 2 points lost.")
    )


def _ablation(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "ablation", block_size=MAIN_BLOCK)
    variants = [name for name in values(found, "variant") if name != "default"]
    figure, axes = new_figure("What each part and each constant of the hybrid is worth")
    figure.set_size_inches(6.4, 1.8 + 0.24 * len(variants))
    for place, variant in enumerate(variants):
        own = [100 * row["gain_over_default"] for row in found if row["variant"] == variant]
        hatch = "//" if variant.startswith("without") else ""
        axes.barh(
            place,
            sum(own) / len(own),
            0.6,
            color="#B00020" if hatch else "#CCCCCC",
            hatch=hatch,
            edgecolor="black",
            lw=0.5,
        )
        axes.plot(own, [place] * len(own), linestyle="", marker="|", color="black", markersize=6, alpha=0.6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    plain(axes.xaxis, (-10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5))
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("token hit rate over that of the defaults (points)")
    capacities = ", ".join(values(found, "capacity"))
    more = (
        f"Bar: mean of all mixes at {capacities} of the working set; ticks: each of these cells; "
        f"blocks of {MAIN_BLOCK}.\nLinear between -1 and 1, logarithmic beyond."
    )
    return save(figure, figures, "mixed_ablation", caption(found, more))


def _windows(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "windows", block_size=MAIN_BLOCK)
    if not found:
        return []
    kinds = values(found, "kind")
    words = {"shift": "workloads change in the middle", "scan": "half of the requests never come again"}
    words |= {"burst": "one-off calls come at once"}
    figure, plots = panels("Gain over LRU through the run", len(kinds))
    capacity = values(found, "capacity")[len(values(found, "capacity")) // 2]
    for kind, axes in zip(kinds, plots, strict=True):
        for row in found:
            if row["kind"] == kind and row["capacity"] == capacity and row["policy"] != "lru":
                style = line_style(row["policy"]) | {"markersize": 3}
                axes.plot(range(1, 21), [100 * gain for gain in row["gains_over_lru"]], **style)
        for window in next(row for row in found if row["kind"] == kind)["burst_windows"]:
            axes.axvspan(window + 0.5, window + 1.5, color="#DDDDDD", zorder=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(f"{kind}: {words[kind]}", fontsize=8)
        axes.set_xlabel("twentieth of the requests", fontsize=8)
    plots[0].set_ylabel("token hit rate over LRU's (points)")
    legend(figure, plots)
    more = f"{capacity} of the working set, blocks of {MAIN_BLOCK}; grey: the burst."
    return save(figure, figures, "mixed_windows", caption(found, more))


def _isolation(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "isolation", block_size=MAIN_BLOCK, policy="lru")
    tenants = values(found, "tenants")
    capacities = values(found, "capacity")
    figure, plots = panels("What isolation by cache_salt costs, LRU", len(capacities))
    for capacity, axes in zip(capacities, plots, strict=True):
        for mix, (color, marker, line) in zip(values(found, "mix"), MIX_LOOKS, strict=False):
            own = [row for row in found if row["mix"] == mix and row["capacity"] == capacity]
            heights = [row["token_hit_rate"] for row in own]
            at = [tenants.index(row["tenants"]) for row in own]
            axes.plot(at, heights, color=color, marker=marker, linestyle=line, label=mix, markersize=4)
        axes.set_xticks(range(len(tenants)), tenants, fontsize=8)
        axes.set_ylim(0, 1.02)
        axes.set_title("unlimited" if capacity == "unlimited" else f"{capacity} of the working set", fontsize=9)
        axes.set_xlabel("who has a salt of its own", fontsize=8)
    plots[0].set_ylabel("token hit rate")
    legend(figure, plots)
    more = (
        f"tenant: the mix's own tenants, each with other workloads; 2 to 16: sessions dealt to so many; "
        f"blocks of {MAIN_BLOCK}."
    )
    return save(figure, figures, "mixed_isolation", caption(found, more))


def _bytes(rows: list[Row], figures: Path) -> list[Path]:
    found = shares(pick(rows, "bytes", block_size=MAIN_BLOCK))
    figure, axes = new_figure("Cache that LRU needs beyond the hybrid's for the same hit rate")
    for mix, (color, marker, line) in zip(values(found, "mix"), MIX_LOOKS, strict=False):
        own = [row for row in found if row["mix"] == mix]
        sizes = [row["saved_bytes"] / GIB for row in own]
        at = [row["capacity_bytes"] / GIB for row in own]
        axes.plot(at, sizes, color=color, marker=marker, linestyle=line, label=mix)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    plain(axes.xaxis, (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64))
    axes.set_xlabel("the hybrid's cache (GiB)")
    axes.set_ylabel("LRU needs more by (GiB)")
    axes.legend(frameon=False)
    more = f"Llama-3.2-1B at 16 bits, blocks of {MAIN_BLOCK}; LRU's size by its whole curve."
    return save(figure, figures, "mixed_bytes", caption(found, more))


def _block_size(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "gap", policy="hybrid", capacity=None)
    mixes, sizes = values(found, "mix"), sorted(values(found, "block_size"))
    figure, axes = new_figure("Share of the gap that the hybrid closes, by block size")
    for place, size in enumerate(sizes):
        own = [one(found, "gap", mix=mix, block_size=size) for mix in mixes]
        at = side_by_side(len(mixes), place, len(sizes))
        color, hatch = (("#B00020", ""), ("#E69F00", "//"), ("#0072B2", ".."))[place % 3]
        heights = [100 * row["gap_closed"] for row in own]
        bars = axes.bar(at, heights, 0.24, color=color, hatch=hatch, edgecolor="white", label=f"blocks of {size}")
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=2)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(100 / 3, color="#666666", linestyle="--", linewidth=0.8)
    axes.margins(y=0.1)
    axes.set_xticks(range(len(mixes)), mixes)
    axes.set_ylabel("share of the gap (%)")
    axes.legend(frameon=False, fontsize=8)
    more = f"Capacities {', '.join(found[0]['capacities'])} of the working set; dashed: a third."
    return save(figure, figures, "mixed_block_size", caption(found, more))


def _cold_start(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "cold_start", block_size=MAIN_BLOCK, policy="hybrid")
    mixes, capacities = values(found, "mix"), values(found, "capacity")
    figure, axes = new_figure("The hybrid over LRU in the first tenth of the requests, and in the rest")
    for place, capacity in enumerate(capacities):
        for part, color, hatch in (("first", "#E69F00", "//"), ("rest", "#B00020", "")):
            own = [one(found, "cold_start", mix=mix, capacity=capacity) for mix in mixes]
            side = -0.06 if part == "first" else 0.06
            at = [i + (place - (len(capacities) - 1) / 2) * 0.27 + side for i in range(len(mixes))]
            heights = [100 * row[f"{part}_gain_over_lru"] for row in own]
            label = {"first": "first tenth", "rest": "rest"}[part] if place == 0 else None
            axes.bar(at, heights, 0.11, color=color, hatch=hatch, edgecolor="white", linewidth=0.3, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(mixes)), mixes)
    axes.set_ylabel("token hit rate over LRU's (points)")
    axes.legend(frameon=False)
    more = f"Three pairs a mix: capacity {', '.join(capacities)} of the working set; blocks of {MAIN_BLOCK}."
    return save(figure, figures, "mixed_cold_start", caption(found, more))


def _hash(rows: list[Row], figures: Path) -> list[Path]:
    traces = [(trace, part) for trace in values(rows, "trace") for part in values(rows, "part")]
    figure, plots = panels("Hash-id traces, raw blocks (outputs left out)", len(traces))
    for (trace, part), axes in zip(traces, plots, strict=True):
        own = [row for row in rows if row["trace"] == trace and row["part"] == part]
        for policy in values(own, "policy"):
            line = [row for row in own if row["policy"] == policy]
            style = line_style(policy) | {"markersize": 3.5, "linewidth": 1.1}
            axes.plot([row["capacity_blocks"] for row in line], [row["block_hit_rate"] for row in line], **style)
        axes.set_xscale("log")
        plain(axes.xaxis, values(own, "capacity_blocks"))
        axes.set_ylim(0, None)
        axes.set_title(f"{trace.split('.')[0]}: {part}", fontsize=8)
        axes.set_xlabel(f"capacity (blocks of {own[0]['block_size']})", fontsize=8)
    plots[0].set_ylabel("block hit rate")
    legend(figure, plots, 1)
    more = "first, second: halves by time; constants were tuned on first halves. belady knows the future."
    return save(figure, figures, "mixed_hash", caption(rows, more))
