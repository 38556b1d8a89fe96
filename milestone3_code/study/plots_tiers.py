"""The plots of GPU memory against CPU memory, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milestone3_code.study.drawing import caption, legend, panels, plain, share, values
from milestone3_code.study.tier_bounds import both, bounds_of
from milestone3_code.study.tiers import DEVICE, FILE, NONE
from vllm_sim.plots.style import CEILING, save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_made_rows

COLORS = ("#000000", "#56B4E9", "#0072B2", "#009E73", "#D55E00")
"""Of sizes of CPU memory, in the order of the rows."""
MARKERS = ("o", "s", "D", "^", "v")


def draw_tiers(results: Path, figures: Path) -> list[Path]:
    """Writes the plots; returns their files."""
    rows = read_made_rows(results / FILE, "milestone3_code/compare_tiers.py")
    fast = [row for row in rows if row["backend"] == "fast"]
    engine = [row for row in rows if row["backend"] == "engine" and is_plain(row)]
    return [*_sizes(fast, figures), *_bandwidth(engine, figures)]


def is_plain(row: Row) -> bool:
    """Whether a row has LRU on both tiers, and stores each chunk at its first offer."""
    tier = row.get("offload_policy", "lru"), row.get("offload_store_threshold", 1)
    return (row["policy"], *tier) == ("lru", "lru", 1)


def _style(rows: Sequence[Row], cpu: str) -> dict[str, Any]:
    place = values(rows, "cpu").index(cpu) % len(COLORS)
    return {"color": COLORS[place], "marker": MARKERS[place], "markersize": 3.5, "linewidth": 1.2}


def _label(cpu: str) -> str:
    return "no CPU memory" if cpu == NONE else f"CPU memory {cpu}"


def _sizes(rows: list[Row], figures: Path) -> list[Path]:
    mixes = values(rows, "mix")
    bounds = bounds_of(rows)
    figure, plots = panels("Token hit rate over the sizes of GPU and CPU memory", len(mixes))
    for mix, axes in zip(mixes, plots, strict=True):
        for cpu in values(rows, "cpu"):
            own = sorted((row for row in rows if (row["mix"], row["cpu"]) == (mix, cpu)), key=lambda r: share(r["gpu"]))
            lru = [row for row in own if row["policy"] == "lru"]
            bound = [bounds[mix, both(row)] for row in lru]
            style = _style(rows, cpu)
            axes.plot([share(r["gpu"]) for r in lru], [r["token_hit_rate"] for r in lru], label=_label(cpu), **style)
            below = style | {"linestyle": ":", "marker": "", "linewidth": 0.9}
            axes.plot([share(r["gpu"]) for r in lru], [r["token_hit_rate"] for r in bound], **below)
        axes.set_xscale("log")
        plain(axes.xaxis, sorted({share(row["gpu"]) for row in rows}))
        axes.set_ylim(0, 1.02)
        axes.set_title(mix, fontsize=9)
    plots[0].set_ylabel("token hit rate")
    legend(figure, plots)
    more = (
        "x: GPU memory in % of the working set, as CPU memory; LRU on both. Backend fast: one request after the other, "
        "copies of no time.\nDotted: the optimum of one cache of both sizes."
    )
    return save(figure, figures, "tiers_sizes", caption(rows, more))


def _bandwidth(rows: list[Row], figures: Path) -> list[Path]:
    mixes = values(rows, "mix")
    figure, plots = panels("Time to first token over the bandwidth to CPU memory", len(mixes))
    for mix, axes in zip(mixes, plots, strict=True):
        own = [row for row in rows if row["mix"] == mix]
        for cpu in values(own, "cpu"):
            line = sorted((row for row in own if row["cpu"] == cpu), key=lambda r: r.get("offload_gbps") or 0)
            if cpu == NONE:
                axes.axhline(line[0]["ttft_ms_p50"], **CEILING, label=_label(cpu))
                continue
            places = [row["offload_gbps"] for row in line]
            axes.plot(places, [row["ttft_ms_p50"] for row in line], label=_label(cpu), **_style(rows, cpu))
        axes.set_xscale("log")
        plain(axes.xaxis, sorted({row["offload_gbps"] for row in own if "offload_gbps" in row}))
        axes.set_ylim(0, None)
        axes.set_title(mix, fontsize=9)
        axes.set_xlabel("GB/s in each direction", fontsize=8)
    plots[0].set_ylabel("median TTFT (ms)")
    legend(figure, plots)
    device = next(row["offload_gbps"] for row in rows if row["gbps"] == DEVICE and "offload_gbps" in row)
    more = (
        f"vLLM's engine in virtual time, LRU on both; GPU memory {' and '.join(values(rows, 'gpu'))} of the working "
        f"set; roofline of {rows[0]['device']}, whose own bandwidth is {device:g} GB/s.\n"
        "Times were not compared with a GPU."
    )
    return save(figure, figures, "tiers_bandwidth", caption(rows, more))
