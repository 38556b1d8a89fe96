"""The main plots of study two, from its rows alone."""

from pathlib import Path
from typing import Any

from matplotlib.colors import TwoSlopeNorm

from milestone3_code.study.drawing import chosen, legend, load, one, plain, share, shares, side_by_side, values, write
from milestone3_code.study.study import GAPS, MAIN_BLOCK, MATRIX
from milestone3_code.study.table import ALL, FLOOR, GAP_SHARES, LEAST_GAP
from vllm_sim.plots.style import in_percent, line_style, look, new_figure, new_panels
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

MIX, SHOWN = "even", "10%"
"""What plots of one mix at one capacity show, where it is among the rows."""
COMPARED = ("slru", "arc", "hybrid")
"""Policies of the main plot; LRU is its zero, the optimum its hundred."""
GAINS = ("lfu", "slru", "arc", "workload_aware", "hybrid")
MOST_SHADE = 15
"""Points of the darkest shade of the workloads' gains."""


def draw_main(results: Path, figures: Path) -> list[Path]:
    """Writes the main plots; returns their files."""
    rows = load(results)
    gaps = load(results, GAPS)
    paths = [path for draw in (_gap, _workloads) for path in draw(gaps, figures)]
    paths += [path for draw in (_gains, _alone, _guarantee) for path in draw(rows, figures)]
    return paths + _matrix(load(results, MATRIX), figures)


def _gap(rows: list[Row], figures: Path) -> list[Path]:
    found = [row for row in pick(rows, "gap", block_size=MAIN_BLOCK) if row["capacity"] in GAP_SHARES]
    mixes = [ALL, *(mix for mix in values(found, "mix") if mix != ALL)]
    capacities = [capacity for capacity in GAP_SHARES if capacity in values(found, "capacity")]
    compared = [policy for policy in COMPARED if policy in values(found, "policy")]
    figure, plots = new_panels(len(mixes), height=1.95, sharey=True)
    for mix, axes in zip(mixes, plots, strict=True):
        own = [row for row in found if row["mix"] == mix]
        gaps = [one(own, "gap", policy="belady", capacity=capacity)["gain_over_lru"] for capacity in capacities]
        shown = [capacity for capacity, gap in zip(capacities, gaps, strict=True) if gap >= LEAST_GAP]
        for place, policy in enumerate(compared):
            cells = [one(own, "gap", policy=policy, capacity=capacity) for capacity in shown]
            heights = [row["gap_closed"] for row in cells]
            ends = [row["gap_closed_ci95"] for row in cells]
            reach = [
                [max(0.0, height - low) for height, (low, _) in zip(heights, ends, strict=True)],
                [max(0.0, high - height) for height, (_, high) in zip(heights, ends, strict=True)],
            ]
            at = side_by_side(len(cells), place, len(compared), 0.55)
            color, marker, _ = look(policy)
            style = {"color": color, "marker": marker, "markersize": 5, "linestyle": "", "capsize": 2, "label": policy}
            axes.errorbar(at, heights, reach, elinewidth=0.9, **style)
        axes.axhline(0, color="black", linewidth=0.8)
        names = [f"{capacity}\n{100 * gap:.1f}" for capacity, gap in zip(capacities, gaps, strict=True)]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_title("all mixes" if mix == ALL else mix)
    in_percent(plots[0].yaxis, [tenth / 10 for tenth in range(-10, 11, 2)])
    low, high = (end(axes.dataLim.intervaly[side] for axes in plots) for side, end in enumerate((min, max)))
    plots[0].set_ylim(low - 0.06, high + 0.06)
    for axes in plots[::3]:
        axes.set_ylabel("gap closed (%)")
    for axes in plots[-3:]:
        axes.set_xlabel("capacity; below, the gap in points")
    legend(figure, plots)
    return write(figure, figures, "mixed_gap", rows)


def _gains(rows: list[Row], figures: Path) -> list[Path]:
    found = shares(pick(rows, "mix", block_size=MAIN_BLOCK))
    names = values(found, "mix")
    figure, plots = new_panels(len(names), height=1.9)
    for name, axes in zip(names, plots, strict=True):
        own = [row for row in found if row["mix"] == name]
        for policy in [policy for policy in GAINS if policy in values(own, "policy")]:
            line = [row for row in own if row["policy"] == policy]
            capacities = values(line, "capacity")
            gains = [100 * one(line, "mix", capacity=at)["gain_over_lru"] for at in capacities]
            style = line_style(policy) | {"markersize": 3.5, "linewidth": 1.1}
            axes.plot([share(at) for at in capacities], gains, **style)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        plain(axes.xaxis, sorted({share(row["capacity"]) for row in own}))
        axes.set_title(name)
        axes.set_xlabel("capacity (% of the working set)")
    for axes in plots[::3]:
        axes.set_ylabel("gain over LRU (points)")
    legend(figure, plots)
    return write(figure, figures, "mixed_gains", rows)


def _workloads(rows: list[Row], figures: Path) -> list[Path]:
    found = [
        row
        for row in shares(pick(rows, "gap", block_size=MAIN_BLOCK, policy="hybrid"))
        if row["mix"] != ALL and row["capacity"] in GAP_SHARES
    ]
    capacities = values(found, "capacity")
    first = {row["mix"]: row["by_workload"] for row in found}
    lines = [(mix, name) for mix, parts in first.items() for name in parts]
    table = [
        [
            100 * one(found, "gap", mix=mix, capacity=capacity)["by_workload"][name]["gain_over_lru"]
            for capacity in capacities
        ]
        for mix, name in lines
    ]
    figure, axes = new_figure((4.6, 0.8 + 0.15 * len(lines)))
    axes.grid(False)
    norm = TwoSlopeNorm(0, -MOST_SHADE, MOST_SHADE)
    image = axes.imshow(table, cmap="PuOr", norm=norm, aspect="auto")
    for i, line in enumerate(table):
        for j, value in enumerate(line):
            weight = "bold" if value < -2 else "normal"
            color = "white" if abs(value) > 0.6 * MOST_SHADE else "black"
            words = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if round(value, 1) else "0"
            axes.text(j, i, words, ha="center", va="center", fontsize=8, fontweight=weight, color=color)
    for i in range(1, len(lines)):
        if lines[i][0] != lines[i - 1][0]:
            axes.axhline(i - 0.5, color="black", linewidth=0.6)
    axes.set_xticks(range(len(capacities)), capacities)
    axes.set_yticks(range(len(lines)), [f"{mix}: {name}" for mix, name in lines])
    axes.tick_params(length=0)
    axes.set_xlabel("capacity (of the working set)")
    figure.colorbar(image, label="gain over LRU (points)", extend="both", ticks=(-15, -10, -5, 0, 5, 10, 15))
    return write(figure, figures, "mixed_workloads", rows)


def _alone(rows: list[Row], figures: Path) -> list[Path]:
    alone = pick(rows, "alone", block_size=MAIN_BLOCK, policy="lru")
    mix = chosen(alone, "mix", MIX)
    alone = [row for row in alone if row["mix"] == mix]
    capacity = chosen(alone, "capacity", SHOWN)
    figure, axes = new_figure()
    names = values(alone, "workload")
    kinds = [("alone", "lru", "lru, alone", "#BBBBBB", "")]
    hatches = {"lru": "", "hybrid": "//", "belady": ".."}
    kinds += [("mix", policy, f"{policy}, in the mix", look(policy).color, hatch) for policy, hatch in hatches.items()]
    where: dict[str, Any] = {"mix": mix, "capacity": capacity, "block_size": MAIN_BLOCK}
    for place, (experiment, policy, label, color, hatch) in enumerate(kinds):
        if experiment == "alone":
            own = [one(rows, "alone", workload=name, policy=policy, **where) for name in names]
        else:
            parts = one(rows, "mix", policy=policy, **where)["by_workload"]
            own = [parts[name] for name in names]
        at = side_by_side(len(names), place, len(kinds))
        axes.bar(
            at,
            [row["token_hit_rate"] for row in own],
            0.18,
            color=color,
            hatch=hatch,
            edgecolor="white" if hatch else color,
            label=label,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.02)
    in_percent(axes.yaxis)
    axes.set_ylabel("token hit rate (%)")
    figure.legend(ncol=2, loc="outside upper center")
    return write(figure, figures, "mixed_alone", rows)


def _guarantee(rows: list[Row], figures: Path) -> list[Path]:
    """Of each block size the share of cases that gain less: what a glance at the worst and the typical case needs."""
    found = pick(rows, "guarantee", tags="with")
    sizes = sorted(values(found, "block_size"))
    lines = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
    colors = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
    figure, axes = new_figure()
    for place, size in enumerate(sizes):
        gains = sorted(100 * row["gain_over_lru"] for row in found if row["block_size"] == size)
        below = [(number + 1) / len(gains) for number in range(len(gains))]
        style = {"color": colors[place % 6], "linestyle": lines[place % 6], "linewidth": 1.2}
        axes.step(gains, below, where="post", label=f"{size:,}", **style)
    axes.axvline(100 * FLOOR, color="#B00020", linestyle="--", linewidth=0.9)
    axes.set_xscale("symlog", linthresh=1)
    plain(axes.xaxis, (-1, -0.5, 0, 0.5, 1, 2, 5, 10, 20))
    axes.set_ylim(0, 1)
    in_percent(axes.yaxis)
    axes.set_xlabel("gain over LRU (points)")
    axes.set_ylabel("cases up to there (%)")
    axes.legend(title="tokens a block", loc="lower right")
    return write(figure, figures, "mixed_guarantee", rows)


def _matrix(rows: list[Row], figures: Path) -> list[Path]:
    lost = pick(rows, "lost", block_size=MAIN_BLOCK)
    mix, capacity = chosen(lost, "mix", MIX), chosen(lost, "capacity", SHOWN)
    own = pick(lost, "lost", mix=mix, capacity=capacity)
    policies = [policy for policy in ("lru", "hybrid", "belady") if pick(own, "lost", policy=policy)]
    figure, plots = new_panels(len(policies), height=2.6, sharey=True)
    most = 30
    for policy, axes in zip(policies, plots, strict=True):
        table = one(own, "lost", policy=policy)["share_of_prompt"]["workload"]
        names = list(table)
        axes.grid(False)
        cells = [[100 * table[owner].get(evictor, 0.0) for evictor in names] for owner in names]
        image = axes.imshow(cells, cmap="cividis", vmin=0, vmax=most)
        for i, line in enumerate(cells):
            for j, value in enumerate(line):
                color = "black" if value > most / 2 else "white"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(policy)
        axes.set_xlabel("evicted by")
    plots[0].set_ylabel("whose tokens")
    figure.colorbar(image, ax=plots, label="% of its prompt tokens", extend="max", shrink=0.8)
    return write(figure, figures, "mixed_matrix", rows)
