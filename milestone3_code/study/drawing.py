"""What the plots of study two share: they read rows and nothing else."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.ticker import NullLocator

from milestone3_code.study.study import RUNS
from vllm_sim.plots.style import save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick_one, read_made_rows

MAKER = "milestone3_code/compare_policies.py"
one = partial(pick_one, maker=MAKER)
HATCHES = {"lru": "", "hybrid": "//", "belady": ".."}


def load(results: Path, name: str = RUNS) -> list[Row]:
    """The rows of a file."""
    return read_made_rows(results / name, MAKER)


def values(rows: Sequence[Row], name: str) -> list[Any]:
    """The different values of a field, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def chosen(rows: Sequence[Row], name: str, wanted: str) -> str:
    """`wanted` if a row has it, else what the first row has."""
    found = values(rows, name)
    return wanted if wanted in found else found[0]


def write(figure: Any, figures: Path, name: str, rows: Sequence[Row]) -> list[Path]:
    """Saves a plot of rows; one of a quick run says that it is no result."""
    return save(figure, figures, name, "QUICK RUN: no result" if any(row["quick"] for row in rows) else "")


def legend(figure: Any, plots: Sequence[Any], columns: int = 4) -> None:
    """One for all plots: in the place that is left over, else above them."""
    spare = [axes for axes in figure.axes if axes not in plots]
    handles, labels = plots[0].get_legend_handles_labels()
    if spare:
        spare[0].legend(handles, labels, loc="center")
    else:
        figure.legend(handles, labels, ncol=columns, loc="outside upper center")


def bars(axes: Any, at: Sequence[float], rows: Sequence[Row], field: str, scale: float = 1.0, **style: Any) -> None:
    """Bars of a field, with its 95 % intervals."""
    heights = [scale * row[field] for row in rows]
    axes.bar(at, heights, edgecolor="white" if style.get("hatch") else "black", linewidth=0.5, **style)
    ends = [[scale * end for end in row[f"{field}_ci95"]] for row in rows]
    below = [max(0.0, height - low) for height, (low, _) in zip(heights, ends, strict=True)]
    above = [max(0.0, high - height) for height, (_, high) in zip(heights, ends, strict=True)]
    axes.errorbar(at, heights, [below, above], color="#444444", linestyle="", capsize=1.5, linewidth=0.8)


def side_by_side(count: int, place: int, kinds: int, width: float = 0.8) -> list[float]:
    """Where the bars of one of so many kinds stand, for each of `count` groups."""
    return [group + (place - (kinds - 1) / 2) * width / kinds for group in range(count)]


def plain(axis: Any, ticks: Sequence[float]) -> None:
    """Marks a logarithmic axis at some places, with plain numbers."""
    axis.set_ticks(list(ticks), [f"{tick:,g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def share(text: str) -> float:
    """A capacity like 10% as a number, for an axis."""
    return float(text.rstrip("%"))


def shares(rows: Sequence[Row]) -> list[Row]:
    """Those whose capacity is a share of the working set, from left to right."""
    return sorted((row for row in rows if (row["capacity"] or "").endswith("%")), key=lambda r: share(r["capacity"]))
