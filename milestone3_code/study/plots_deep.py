"""The deeper plots of study two: ablations, changes over the run, isolation, bytes, hash traces."""

from pathlib import Path
from statistics import mean

from milestone3_code.study.drawing import chosen, legend, load, plain, shares, values, write
from milestone3_code.study.names import spoken
from milestone3_code.study.study import HASH, MAIN_BLOCK
from vllm_sim.plots.style import in_percent, line_style, new_figure, new_panels
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

MIX_LOOKS = (
    ("#000000", "o", "-"),
    ("#0072B2", "s", "--"),
    ("#E69F00", "^", "-."),
    ("#009E73", "D", ":"),
    ("#CC79A7", "v", "-"),
    ("#56B4E9", "P", "--"),
)
"""Of the mixes, in their order."""
WINDOWS = {"shift": "workloads change", "scan": "one-off calls come", "burst": "a burst of calls"}
WINDOW_CAPACITY = "10%"
REAL = ("slru", "arc", "hybrid")
"""Policies that are drawn for traces of hash ids."""
GIB = 2**30


def draw_deep(results: Path, figures: Path) -> list[Path]:
    """Writes the deeper plots; returns their files."""
    rows = load(results)
    paths = [path for draw in (_ablation, _windows, _isolation, _bytes) for path in draw(rows, figures)]
    if (results / HASH).is_file():
        paths += _hash(load(results, HASH), figures)
    return paths


def _ablation(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "ablation", block_size=MAIN_BLOCK)
    variants = [name for name in values(found, "variant") if name != "default"]
    figure, axes = new_figure((4.6, 0.6 + 0.165 * len(variants)))
    for place, variant in enumerate(variants):
        own = [100 * row["gain_over_default"] for row in found if row["variant"] == variant]
        color = "#B00020" if variant.startswith("without") else "#777777"
        axes.plot(own, [place] * len(own), linestyle="", marker="|", color=color, markersize=6, alpha=0.5)
        axes.plot([mean(own)], [place], linestyle="", marker="o", color=color, markersize=4.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xscale("symlog", linthresh=1)
    plain(axes.xaxis, (-10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5))
    axes.set_yticks(range(len(variants)), variants)
    axes.invert_yaxis()
    axes.set_xlabel("token hit rate over that of the defaults (points)")
    return write(figure, figures, "mixed_ablation", rows)


def _windows(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "windows", block_size=MAIN_BLOCK)
    if not found:
        return []
    found = pick(found, "windows", capacity=chosen(found, "capacity", WINDOW_CAPACITY))
    kinds = values(found, "kind")
    figure, plots = new_panels(len(kinds), height=2.3, sharey=True)
    for kind, axes in zip(kinds, plots, strict=True):
        own = [row for row in found if row["kind"] == kind and row["policy"] not in ("lru", "belady")]
        for policy in values(own, "policy"):
            gains = [row["gains_over_lru"] for row in own if row["policy"] == policy]
            line = [100 * mean(column) for column in zip(*gains, strict=True)]
            axes.plot(range(1, len(line) + 1), line, **line_style(policy) | {"markersize": 3, "linewidth": 1.1})
        for window in own[0]["burst_windows"]:
            axes.axvspan(window + 0.5, window + 1.5, color="#DDDDDD", zorder=0)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_title(WINDOWS[kind])
        axes.set_xlabel("window of the run")
    plots[0].set_ylabel("gain over LRU (points)")
    legend(figure, plots)
    return write(figure, figures, "mixed_windows", rows)


def _isolation(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "isolation", block_size=MAIN_BLOCK, policy="lru")
    tenants = values(found, "tenants")
    capacities = values(found, "capacity")
    figure, plots = new_panels(len(capacities), height=2.4, sharey=True)
    for capacity, axes in zip(capacities, plots, strict=True):
        for mix, (color, marker, line) in zip(values(found, "mix"), MIX_LOOKS, strict=False):
            own = [row for row in found if row["mix"] == mix and row["capacity"] == capacity]
            heights = [mean(row["token_hit_rate"] for row in own if row["tenants"] == kind) for kind in tenants]
            style = {"color": color, "marker": marker, "linestyle": line, "label": mix, "markersize": 4}
            axes.plot(range(len(tenants)), heights, linewidth=1.1, **style)
        axes.set_xticks(range(len(tenants)), tenants, rotation=40, ha="right")
        axes.set_ylim(0, 1.02)
        in_percent(axes.yaxis)
        axes.set_title("unlimited" if capacity == "unlimited" else f"{capacity} of the working set")
        axes.set_xlabel("a salt for each")
    plots[0].set_ylabel("token hit rate (%)")
    legend(figure, plots, 6)
    return write(figure, figures, "mixed_isolation", rows)


def _bytes(rows: list[Row], figures: Path) -> list[Path]:
    found = shares(pick(rows, "bytes", block_size=MAIN_BLOCK))
    figure, axes = new_figure()
    for mix, (color, marker, line) in zip(values(found, "mix"), MIX_LOOKS, strict=False):
        own = [row for row in found if row["mix"] == mix]
        cells = [[row for row in own if row["capacity"] == capacity] for capacity in values(own, "capacity")]
        sizes = [mean(row["saved_bytes"] for row in cell) / GIB for cell in cells]
        at = [mean(row["capacity_bytes"] for row in cell) / GIB for cell in cells]
        style = {"color": color, "marker": marker, "linestyle": line, "label": mix, "markersize": 4}
        axes.plot(at, sizes, linewidth=1.1, **style)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    plain(axes.xaxis, (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64))
    axes.set_xlabel("the hybrid's cache (GiB)")
    axes.set_ylabel("LRU needs more by (GiB)")
    axes.legend()
    return write(figure, figures, "mixed_bytes", rows)


def _hash(rows: list[Row], figures: Path) -> list[Path]:
    found = [row for row in rows if row["part"] == "second"]
    traces = values(found, "mix")
    figure, plots = new_panels(len(traces), height=2.4)
    for trace, axes in zip(traces, plots, strict=True):
        own = [row for row in found if row["mix"] == trace]
        for place, policy in enumerate(REAL):
            line = [row for row in own if row["policy"] == policy]
            gains = [100 * row["gain_over_lru"] for row in line]
            ends = [[100 * end for end in row["gain_over_lru_ci95"]] for row in line]
            reach = [
                [max(0.0, gain - low) for gain, (low, _) in zip(gains, ends, strict=True)],
                [max(0.0, high - gain) for gain, (_, high) in zip(gains, ends, strict=True)],
            ]
            at = [row["capacity_blocks"] * 1.05 ** (place - 1) for row in line]
            style = line_style(policy) | {"markersize": 4, "linewidth": 1.1}
            axes.errorbar(at, gains, reach, capsize=2, **style)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        plain(axes.xaxis, sorted({row["capacity_blocks"] for row in own}))
        axes.set_title(spoken(trace))
        axes.set_xlabel(f"capacity (blocks of {own[0]['block_size']})")
    plots[0].set_ylabel("gain over LRU (points)")
    legend(figure, plots)
    return write(figure, figures, "mixed_hash", rows)
