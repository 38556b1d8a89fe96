"""The plot of the study of hybrid models, from its rows alone."""

from pathlib import Path
from typing import Any

from milestone3_code.hybrids.rows import ROWS
from milestone3_code.study.drawing import legend, plain, values, write
from vllm_sim.plots.style import in_percent, new_panels
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.capacity import size_bytes
from vllm_sim.sweep.results import pick, read_made_rows

COLORS = ("#000000", "#B00020", "#0072B2", "#009E73")
"""Of the mixes, in their order."""
LINES = {"groups": ("-", "o", "vLLM's cache groups"), "full": ("--", "^", "full attention in the same bytes")}


def draw_hybrids(results: Path, figures: Path) -> list[Path]:
    """Writes the plot; returns its files."""
    rows = read_made_rows(results / ROWS, "milestone3_code/compare_hybrids.py")
    found = pick(rows, "memory", policy="lru")
    models = values(found, "model")
    figure, plots = new_panels(len(models), height=1.9, sharey=True)
    for model, axes in zip(models, plots, strict=True):
        for color, mix in zip(COLORS, values(found, "traffic"), strict=False):
            _draw_mix(axes, [row for row in found if (row["model"], row["traffic"]) == (model, mix)], color)
        axes.set_xscale("log")
        plain(axes.xaxis, sorted({_gib(row) for row in found if row["memory"] != "unlimited"}))
        axes.set_ylim(0, 1.02)
        in_percent(axes.yaxis)
        axes.set_title(model)
    for axes in plots[::3]:
        axes.set_ylabel("token hit rate (%)")
    for axes in plots[-3:]:
        axes.set_xlabel("memory for the cache (GiB)")
    legend(figure, plots, columns=2)
    return write(figure, figures, "hybrids_memory", found)


def _draw_mix(axes: Any, rows: list[Row], color: str) -> None:
    for layout, (line, marker, label) in LINES.items():
        own = [row for row in rows if row["layout"] == layout and row["memory"] != "unlimited"]
        own.sort(key=_gib)
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 3.5, "linewidth": 1.1}
        words = f"{rows[0]['traffic']}, {label}"
        axes.plot([_gib(row) for row in own], [row["token_hit_rate"] for row in own], label=words, **style)
        for row in rows:
            if row["layout"] == layout == "groups" and row["memory"] == "unlimited":
                axes.axhline(row["token_hit_rate"], color=color, linestyle=":", linewidth=1)


def _gib(row: Row) -> float:
    return size_bytes(row["memory"]) / 2**30
