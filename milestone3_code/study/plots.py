"""The main plots of study two, from its rows alone."""

from pathlib import Path

import matplotlib.pyplot as plt

from milestone3_code.study.drawing import (
    HATCHES,
    bars,
    caption,
    chosen,
    legend,
    load,
    one,
    panels,
    plain,
    share,
    shares,
    side_by_side,
    values,
)
from milestone3_code.study.study import ENGINE, GAP_BASE, GAPS, MAIN_BLOCK, MATRIX
from vllm_sim.plots.style import line_style, look, new_figure, save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

MIX, SHOWN = "even", "10%"
"""What plots of one mix at one capacity show, where it is among the rows."""
GUARANTEE = -0.005


def draw_main(results: Path, figures: Path) -> list[Path]:
    """Writes the main plots; returns their files."""
    rows = load(results)
    paths = [path for draw in (_alone, _capacity, _guarantee) for path in draw(rows, figures)]
    paths += _gap(load(results, GAPS), figures)
    paths += _matrix(load(results, MATRIX), figures)
    if (results / ENGINE).is_file():
        paths += _ttft(load(results, ENGINE), figures)
    return paths


def _alone(rows: list[Row], figures: Path) -> list[Path]:
    alone = pick(rows, "alone", block_size=MAIN_BLOCK)
    mix = chosen(alone, "mix", MIX)
    alone = [row for row in alone if row["mix"] == mix]
    capacity = chosen(alone, "capacity", SHOWN)
    figure, axes = new_figure(f"Each workload alone and in the mix `{mix}`, same capacity")
    names = values(alone, "workload")
    kinds = [("alone", "lru", "lru, alone", "#BBBBBB", "")]
    kinds += [("mix", policy, f"{policy}, in the mix", look(policy).color, HATCHES[policy]) for policy in HATCHES]
    for place, (experiment, policy, label, color, hatch) in enumerate(kinds):
        where = {"mix": mix, "capacity": capacity, "policy": policy, "block_size": MAIN_BLOCK}
        if experiment == "alone":
            own = [one(rows, "alone", workload=name, **where) for name in names]
        else:
            own = [one(rows, "mix", **where)["by_workload"][name] for name in names]
        at = side_by_side(len(names), place, len(kinds))
        bars(axes, at, own, "token_hit_rate", width=0.18, color=color, hatch=hatch, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.18)
    axes.set_ylabel("token hit rate")
    axes.legend(frameon=False, fontsize=7.5, ncol=4, loc="upper center")
    blocks = one(alone, "alone", capacity=capacity)["capacity_blocks"]
    more = (
        f"{capacity} of the mix's working set ({blocks:,} blocks of {MAIN_BLOCK}); 95 % intervals, sessions resampled."
    )
    return save(figure, figures, "mixed_alone", caption(alone, more))


def _capacity(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "mix", block_size=MAIN_BLOCK)
    names = values(found, "mix")
    figure, plots = panels("Token hit rate over capacity, the five mixes of the report", len(names))
    for name, axes in zip(names, plots, strict=True):
        own = [row for row in found if row["mix"] == name]
        limited = shares(own)
        for policy in values(limited, "policy"):
            line = [row for row in limited if row["policy"] == policy]
            style = line_style(policy) | {"markersize": 3.5, "linewidth": 1.1}
            axes.plot([share(row["capacity"]) for row in line], [row["token_hit_rate"] for row in line], **style)
        for row in own:
            if row["capacity"] == "unlimited":
                axes.axhline(row["token_hit_rate"], color="#666666", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        plain(axes.xaxis, sorted({share(row["capacity"]) for row in limited}))
        axes.set_ylim(0, 1.02)
        axes.set_title(name, fontsize=9)
    plots[0].set_ylabel("token hit rate")
    legend(figure, plots)
    more = f"x: capacity in % of the working set, blocks of {MAIN_BLOCK}; dotted: unlimited; belady knows the future."
    return save(figure, figures, "mixed_capacity", caption(found, more))


def _gap(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "gap", block_size=MAIN_BLOCK, capacity=None)
    found = [row for row in found if row["policy"] not in GAP_BASE]
    mixes = values(found, "mix")
    figure, axes = new_figure("Share of the gap between LRU and the optimum that a policy closes")
    order = sorted(values(found, "policy"), key=lambda name: -one(found, "gap", policy=name, mix="all")["gap_closed"])
    for place, policy in enumerate(order):
        own = [one(found, "gap", policy=policy, mix=mix) for mix in mixes]
        hatch = ("//", "", "..", "xx", "\\\\", "oo", "--", "++")[place % 8]
        at = side_by_side(len(mixes), place, len(order))
        width = 0.72 / len(order)
        bars(axes, at, own, "gap_closed", 100, width=width, color=look(policy).color, hatch=hatch, label=policy)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(max(-60, axes.get_ylim()[0]), None)
    axes.set_xticks(range(len(mixes)), mixes)
    axes.set_ylabel("share of the gap (%)")
    axes.legend(frameon=False, fontsize=7.5, ncol=4)
    more = (
        f"Sum of gains over LRU / sum of gaps to the optimum, hit tokens; capacities "
        f"{', '.join(found[0]['capacities'])}; blocks of {MAIN_BLOCK}.\n"
        f"0: LRU, 100: the optimum. Means of {found[0]['seeds']} draws, 95 % intervals over them. The axis ends at -60."
    )
    return save(figure, figures, "mixed_gap", caption(found, more))


def _guarantee(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "guarantee", tags="with")
    capacities = sorted(values(found, "capacity"), key=lambda text: share(text) if text.endswith("%") else 0.0)
    sizes = sorted(values(found, "block_size"))
    figure, axes = new_figure("The hybrid against LRU in every cell of workload, capacity and block size")
    marks = ("o", "s", "^", "D", "v", "P")
    for number, size in enumerate(sizes):
        own = [row for row in found if row["block_size"] == size]
        at = [capacities.index(row["capacity"]) + (number - (len(sizes) - 1) / 2) * 0.12 for row in own]
        color = plt.get_cmap("cividis")(number / max(1, len(sizes)))
        gains = [100 * row["gain_over_lru"] for row in own]
        axes.scatter(at, gains, s=9, marker=marks[number % len(marks)], color=color, label=f"{size}", linewidths=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(100 * GUARANTEE, color="#B00020", linestyle="--", linewidth=1)
    axes.set_yscale("symlog", linthresh=1)
    plain(axes.yaxis, (-1, -0.5, 0, 0.5, 1, 2, 5, 10, 20))
    axes.set_xticks(range(len(capacities)), capacities)
    axes.set_xlabel("capacity (of the working set; largest: what the largest request needs)")
    axes.set_ylabel("token hit rate over LRU's (points)")
    axes.legend(frameon=False, fontsize=7.5, title="block size", title_fontsize=7.5, ncol=2)
    worst = min(found, key=lambda row: row["gain_over_lru"])
    where = f"{worst['mix']}, {worst['workload'] or 'whole'}, blocks of {worst['block_size']}, {worst['capacity']}"
    more = (
        f"{len(found):,} cells: mixes and each of their workloads alone. Dashed: -0.5 points. Linear within 1, then "
        f"logarithmic.\nWorst: {100 * worst['gain_over_lru']:+.2f} points ({where})."
    )
    return save(figure, figures, "mixed_guarantee", caption(found, more))


def _matrix(rows: list[Row], figures: Path) -> list[Path]:
    lost = pick(rows, "lost", block_size=MAIN_BLOCK)
    mix, capacity = chosen(lost, "mix", MIX), chosen(lost, "capacity", SHOWN)
    policies = [policy for policy in HATCHES if pick(lost, "lost", mix=mix, capacity=capacity, policy=policy)]
    figure, plots = panels(f"Who costs whom in the mix `{mix}`: hits lost to evictions by others", len(policies))
    for policy, axes in zip(policies, plots, strict=True):
        table = one(lost, "lost", mix=mix, capacity=capacity, policy=policy)["share_of_prompt"]["workload"]
        names = list(table)
        axes.grid(False)
        cells = [[100 * table[owner].get(evictor, 0.0) for evictor in names] for owner in names]
        axes.imshow(cells, cmap="cividis", vmin=0, vmax=30)
        for i, line in enumerate(cells):
            for j, value in enumerate(line):
                color = "black" if value > 16 else "white"
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_title(policy, fontsize=9)
        axes.set_xlabel("evictor", fontsize=8)
    plots[0].set_ylabel("owner", fontsize=8)
    more = (
        f"% of the owner's prompt tokens that had been cached and were evicted; {capacity} of the working set, "
        f"blocks of {MAIN_BLOCK}.\nAll that a request misses counts for who evicted the first missed block."
    )
    return save(figure, figures, "mixed_matrix", caption(lost, more))


def _ttft(rows: list[Row], figures: Path) -> list[Path]:
    capacity, most = chosen(rows, "capacity", SHOWN), max(values(rows, "load"))
    rows = [row for row in rows if (row["capacity"], row["load"]) == (capacity, most) and row["policy"] in HATCHES]
    mixes = values(rows, "mix")
    figure, plots = panels("Time to first token by workload, vLLM's scheduler in virtual time", len(mixes))
    for mix, axes in zip(mixes, plots, strict=True):
        own = [row for row in rows if row["mix"] == mix]
        names = [*own[0]["by_workload"], "all"]
        for place, row in enumerate(own):
            tables = [*row["by_workload"].values(), row]
            at, policy = side_by_side(len(names), place, len(own)), row["policy"]
            style = {"color": look(policy).color, "hatch": HATCHES[policy], "label": policy}
            bars(axes, at, tables, "ttft_ms_p90", width=0.24, **style)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        axes.set_title(mix, fontsize=8)
        axes.set_ylim(0, None)
    plots[0].set_ylabel("TTFT, 90th percentile (ms)")
    legend(figure, plots)
    first = rows[0]
    more = (
        f"{first['latency_model'].capitalize()} model of one {first['device'].upper()}, Llama-3.2-1B; {capacity} of "
        f"the working set; {first['arrival']}.\n95 % intervals, sessions resampled. belady knows the order of its run "
        "before."
    )
    return save(figure, figures, "mixed_ttft", caption(rows, more))
