"""The main plots of study two, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from vllm_sim.replay.rows import Row
from vllm_sim.study.mixed.study import CELLS, ENGINE, MAIN_BLOCK, MATRIX
from vllm_sim.study.results import read_rows
from vllm_sim.study.style import line_style, look, new_figure, save

HATCHES = {"lru": "", "hybrid": "//", "opt": ".."}
MIX, SHOWN = "even", "10%"
"""What plots of one mix at one capacity show, where it is among the rows."""
GUARANTEE = -0.005


def load(results: Path, name: str = CELLS) -> list[Row]:
    """The rows of a file.

    Raises:
        ValueError: there are none yet.
    """
    path = results / name
    if not path.is_file():
        raise ValueError(f"no {path}; first run milestone3_code/compare_policies.py")
    return read_rows(path)


def pick(rows: Sequence[Row], experiment: str, **wanted: Any) -> list[Row]:
    """The rows of an experiment whose fields have these values, in the file's order."""
    return [
        row
        for row in rows
        if row["experiment"] == experiment and all(row.get(name) == value for name, value in wanted.items())
    ]


def values(rows: Sequence[Row], name: str) -> list[Any]:
    """The different values of a field, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def chosen(rows: Sequence[Row], name: str, wanted: str) -> str:
    """`wanted` if a row has it, else what the first row has."""
    found = values(rows, name)
    return wanted if wanted in found else found[0]


def caption(rows: Sequence[Row], *more: str) -> list[str]:
    """What was run, in words; a quick run says that it is no result."""
    lines = list(more)
    if any(row["quick"] for row in rows):
        lines[0] = f"QUICK RUN: no result. {lines[0]}"
    return lines


def panels(title: str, count: int) -> tuple[Any, list[Any]]:
    """A figure of so many plots, at most three in a line; those that are left over are removed."""
    wide = min(3, count)
    high = -(-count // wide)
    size = (3.1 * wide + 0.6, 2.6 * high + 0.9)
    figure, grid = plt.subplots(high, wide, figsize=size, layout="constrained", squeeze=False)
    figure.suptitle(title, fontsize=10)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid.flat[:count]:
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat[:count])


def share(text: str) -> float:
    """A capacity like 10% as a number, for an axis."""
    return float(text.rstrip("%"))


def shares(rows: Sequence[Row]) -> list[Row]:
    """Those whose capacity is a share of the working set, from left to right."""
    return sorted((row for row in rows if (row["capacity"] or "").endswith("%")), key=lambda r: share(r["capacity"]))


def draw_main(results: Path, figures: Path) -> list[Path]:
    """Writes the main plots; returns their files."""
    rows = load(results)
    paths = [path for draw in (_alone, _capacity, _gap, _guarantee) for path in draw(rows, figures)]
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
    kinds = [("alone", "lru", "LRU, alone", "#BBBBBB", "")]
    kinds += [("mix", policy, f"{policy}, in the mix", look(policy).color, HATCHES[policy]) for policy in HATCHES]
    for place, (experiment, policy, label, color, hatch) in enumerate(kinds):
        found = pick(rows, experiment, mix=mix, capacity=capacity, policy=policy, block_size=MAIN_BLOCK)
        by = {row["workload"]: row for row in found} if experiment == "alone" else found[0]["by_workload"]
        heights = [by[name]["token_hit_rate"] for name in names]
        ends = [by[name]["token_hit_rate_95"] for name in names]
        bars = [
            [max(0.0, height - low) for height, (low, _) in zip(heights, ends, strict=True)],
            [max(0.0, high - height) for height, (_, high) in zip(heights, ends, strict=True)],
        ]
        at = [i + (place - 1.5) * 0.2 for i in range(len(names))]
        edge = "white" if hatch else "black"
        axes.bar(at, heights, 0.18, color=color, hatch=hatch, edgecolor=edge, linewidth=0.6, label=label)
        axes.errorbar(at, heights, bars, color="black", linestyle="", capsize=2, linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.18)
    axes.set_ylabel("token hit rate")
    axes.legend(frameon=False, fontsize=7.5, ncol=4, loc="upper center")
    blocks = alone[0]["capacity_blocks"] if alone[0]["capacity"] == capacity else None
    blocks = blocks or next(row["capacity_blocks"] for row in alone if row["capacity"] == capacity)
    more = (
        f"{capacity} of the mix's working set ({blocks:,} blocks of {MAIN_BLOCK}); 95 % intervals, sessions resampled."
    )
    return save(figure, figures, "mixed_alone", caption(alone, more))


def _capacity(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "mix", block_size=MAIN_BLOCK)
    names = values(found, "mix")
    figure, plots = panels("Token hit rate over capacity, mixes that nothing was tuned on", len(names))
    for name, axes in zip(names, plots, strict=True):
        own = [row for row in found if row["mix"] == name]
        for policy in values(own, "policy"):
            line = shares([row for row in own if row["policy"] == policy])
            style = line_style(policy) | {"markersize": 3.5, "linewidth": 1.1}
            axes.plot([share(row["capacity"]) for row in line], [row["token_hit_rate"] for row in line], **style)
        for row in own:
            if row["capacity"] == "unlimited":
                axes.axhline(row["token_hit_rate"], color="#666666", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        ticks = sorted({share(row["capacity"]) for row in shares(own)})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 1.02)
        axes.set_title(name, fontsize=9)
    plots[0].set_ylabel("token hit rate")
    figure.supxlabel("")
    handles, labels = plots[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncol=5, loc="outside lower center")
    more = f"x: capacity in % of the working set, blocks of {MAIN_BLOCK}; dotted: unlimited; opt knows the future."
    return save(figure, figures, "mixed_capacity", caption(found, more))


def _gap(rows: list[Row], figures: Path) -> list[Path]:
    found = [row for row in pick(rows, "gap", block_size=MAIN_BLOCK) if row["policy"] not in ("lru", "opt")]
    mixes, policies = values(found, "mix"), values(found, "policy")
    figure, axes = new_figure("Share of the gap between LRU and the optimum that a policy closes")
    order = sorted(policies, key=lambda p: -pick(found, "gap", policy=p, mix=mixes[-1])[0]["gap_closed"])
    for place, policy in enumerate(order):
        own = [pick(found, "gap", policy=policy, mix=mix)[0] for mix in mixes]
        at = [i + (place - (len(order) - 1) / 2) * 0.8 / len(order) for i in range(len(mixes))]
        hatch = ("//", "", "..", "xx", "\\\\", "oo", "--", "++")[place % 8]
        heights = [100 * row["gap_closed"] for row in own]
        axes.bar(at, heights, 0.72 / len(order), color=look(policy).color, hatch=hatch, edgecolor="white", label=policy)
        ends = [[100 * end for end in row["gap_closed_95"]] for row in own]
        bars = [[h - low for h, (low, _) in zip(heights, ends, strict=True)]]
        bars += [[high - h for h, (_, high) in zip(heights, ends, strict=True)]]
        axes.errorbar(at, heights, [[max(0, v) for v in side] for side in bars], color="black", linestyle="", lw=0.7)
    axes.axhline(0, color="black", linewidth=0.8)
    low = min(0.0, *(100 * row["gap_closed"] for row in found))
    axes.set_ylim(max(low * 1.1, -60), None)
    axes.set_xticks(range(len(mixes)), mixes)
    axes.set_ylabel("share of the gap (%)")
    axes.legend(frameon=False, fontsize=7.5, ncol=3)
    capacities = ", ".join(found[0]["capacities"])
    more = (
        f"Sum of gains over LRU / sum of gaps to the optimum, hit tokens; capacities {capacities}; "
        f"blocks of {MAIN_BLOCK}.\n0: LRU, 100: the optimum. 95 % intervals, sessions resampled. Axis cut at -60."
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
    axes.set_xticks(range(len(capacities)), capacities)
    axes.set_xlabel("capacity (of the working set; largest: what the largest request needs)")
    axes.set_ylabel("token hit rate over LRU's (points)")
    axes.legend(frameon=False, fontsize=7.5, title="block size", title_fontsize=7.5, ncol=2)
    worst = min(found, key=lambda row: row["gain_over_lru"])
    where = f"{worst['mix']}, {worst['workload'] or 'whole'}, blocks of {worst['block_size']}, {worst['capacity']}"
    more = (
        f"{len(found):,} cells: mixes and each of their workloads alone. Dashed: -0.5 points. "
        f"Worst: {100 * worst['gain_over_lru']:+.2f} points ({where}).\nLinear between -1 and 1, logarithmic beyond."
    )
    return save(figure, figures, "mixed_guarantee", caption(found, more))


def _matrix(rows: list[Row], figures: Path) -> list[Path]:
    lost = pick(rows, "lost", block_size=MAIN_BLOCK)
    mix, capacity = chosen(lost, "mix", MIX), chosen(lost, "capacity", SHOWN)
    policies = [policy for policy in HATCHES if pick(lost, "lost", mix=mix, capacity=capacity, policy=policy)]
    figure, plots = panels(f"Who costs whom in the mix `{mix}`: hits lost to evictions by others", len(policies))
    for policy, axes in zip(policies, plots, strict=True):
        table = pick(lost, "lost", mix=mix, capacity=capacity, policy=policy)[0]["share_of_prompt"]["workload"]
        names = list(table)
        axes.grid(False)
        cells = [[100 * table[owner].get(evictor, 0.0) for evictor in names] for owner in names]
        axes.imshow(cells, cmap="cividis", vmin=0, vmax=25)
        for i, line in enumerate(cells):
            for j, value in enumerate(line):
                color = "black" if value > 14 else "white"
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
    points = values(rows, "point")
    figure, plots = panels("Time to first token by workload, vLLM's scheduler in virtual time", len(points))
    for point, axes in zip(points, plots, strict=True):
        own = [row for row in rows if row["point"] == point]
        names = [*own[0]["by_workload"], "all"]
        for place, row in enumerate(own):
            tables = [*row["by_workload"].values(), row]
            at = [i + (place - (len(own) - 1) / 2) * 0.26 for i in range(len(names))]
            policy = row["policy"]
            heights = [table["ttft_ms_p90"] for table in tables]
            axes.bar(
                at, heights, 0.24, color=look(policy).color, hatch=HATCHES[policy], edgecolor="white", label=policy
            )
            ends = [table["ttft_ms_p90_95"] for table in tables]
            bars = [[max(0, h - low) for h, (low, _) in zip(heights, ends, strict=True)]]
            bars += [[max(0, high - h) for h, (_, high) in zip(heights, ends, strict=True)]]
            axes.errorbar(at, heights, bars, color="#444444", linestyle="", capsize=2, linewidth=0.8)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        axes.set_title(f"{point}: {own[0]['capacity']}, {own[0]['arrival']}", fontsize=8)
        axes.set_ylim(0, None)
    plots[0].set_ylabel("TTFT, 90th percentile (ms)")
    plots[0].legend(frameon=False, fontsize=8)
    first = rows[0]
    more = (
        f"{first['latency_model'].capitalize()} model of one {first['device'].upper()}, Llama-3.2-1B; capacity of the "
        "working set. 95 % intervals, sessions resampled."
    )
    return save(figure, figures, "mixed_ttft", caption(rows, more))
