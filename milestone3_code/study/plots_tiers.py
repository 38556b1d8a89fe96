"""The plots of GPU memory against CPU memory, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from milestone3_code.study.drawing import legend, plain, share, values, write
from milestone3_code.study.names import spoken
from milestone3_code.study.tier_bounds import both, bounds_of
from milestone3_code.study.tiers import FILE, NONE
from vllm_sim.plots.style import CEILING, in_percent, new_panels
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_made_rows

COLORS = ("#000000", "#56B4E9", "#0072B2", "#009E73", "#D55E00")
"""Of sizes of CPU memory, in the order of the rows."""
FAR = 5
"""Times further apart than this factor get a logarithmic axis."""
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
    figure, plots = new_panels(len(mixes), columns=4, height=2.4, sharey=True)
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
        in_percent(axes.yaxis)
        axes.set_title(spoken(mix))
        axes.set_xlabel("GPU memory (%)")
    plots[0].set_ylabel("token hit rate (%)")
    legend(figure, plots, 3)
    return write(figure, figures, "tiers_sizes", rows)


def _bandwidth(rows: list[Row], figures: Path) -> list[Path]:
    mixes = values(rows, "mix")
    figure, plots = new_panels(len(mixes), height=2.3)
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
        low, high = axes.dataLim.intervaly
        if high > FAR * low:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(spoken(mix))
        axes.set_xlabel("GB/s in each direction")
    plots[0].set_ylabel("median TTFT (ms)")
    legend(figure, plots)
    return write(figure, figures, "tiers_bandwidth", rows)
