"""How all plots look: one face and size, and one colour, marker and line for each policy, everywhere.

The face is the report's, of those that matplotlib brings along, and goes into a PDF as TrueType. A plot of a study is
as large as the report prints it, and its caption stands there; a plot that stands alone has a title and a note.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which colour-blind people tell apart; marker and
line tell policies apart in black and white. A policy that is not listed takes a free look by its place.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

mpl.rcParams.update(
    {
        "text.parse_math": False,  # names come out of traces; a $ in one is a letter
        "font.family": "STIXGeneral",
        "font.size": 9.0,
        "axes.titlesize": 9.0,
        "axes.labelsize": 9.0,
        "axes.linewidth": 0.6,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.title_fontsize": 8.5,
        "legend.frameon": False,
        "hatch.linewidth": 0.6,
        "pdf.fonttype": 42,
    }
)

WIDE_IN = 6.5
"""The width of the report's text."""
SIZE_IN = (4.6, 2.8)
ALONE_IN = (6.5, 4.2)
"""Of a plot that stands alone."""
CEILING = {"color": "#666666", "linestyle": (0, (1, 2)), "linewidth": 1.2}
"""The line of an unlimited cache."""


class Look(NamedTuple):
    """Of a policy's line."""

    color: str
    marker: str
    line: Any


LOOKS = {
    "lru": Look("#000000", "o", "-"),
    "belady": Look("#666666", "*", "--"),
    "fifo": Look("#E69F00", "v", "-."),
    "random": Look("#999999", "x", ":"),
    "lfu": Look("#56B4E9", "^", "-"),
    "slru": Look("#009E73", "s", "--"),
    "arc": Look("#0072B2", "D", "-."),
    "s3fifo": Look("#D55E00", "P", "-"),
    "workload_aware": Look("#CC79A7", "X", "--"),
    "session_end_oracle": Look("#4B0082", ">", ":"),
    "hybrid": Look("#B00020", "h", "-"),
}
_FREE = (Look("#8C6D00", "<", ":"), Look("#4B0082", ">", "-."), Look("#2F6B2F", "p", ":"))

_VARIANTS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", (0, (5, 1, 1, 1, 1, 1))), ("p", (0, (1, 3))))
"""Marker and line of a policy's parameters, in turn."""


def look(policy: str) -> Look:
    """How a policy is drawn."""
    return LOOKS.get(policy) or _FREE[sum(policy.encode()) % len(_FREE)]


def line_style(policy: str) -> dict[str, Any]:
    """Arguments of `Axes.plot` for a policy's line."""
    color, marker, line = look(policy)
    return {"color": color, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.4, "label": policy}


def line_styles(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Arguments of `Axes.plot` by label, POLICY or POLICY (PARAMETERS): marker and line tell parameters apart."""
    styles: dict[str, dict[str, Any]] = {}
    variants: dict[str, int] = {}
    for label in labels:
        policy, params, _ = label.partition(" (")
        styles[label] = line_style(policy) | {"label": label}
        if params:
            variant = variants[policy] = variants.get(policy, -1) + 1
            marker, line = _VARIANTS[variant % len(_VARIANTS)]
            styles[label] |= {"marker": marker, "linestyle": line, "markerfacecolor": "white"}
    return styles


def legend_beside(axes: Any) -> None:
    """A legend next to the plot, where it hides no line."""
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def new_figure(size: tuple[float, float] = SIZE_IN) -> tuple[Any, Any]:
    """A figure with one plot in it."""
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    _open(axes)
    return figure, axes


def new_panels(count: int, columns: int = 3, height: float = 2.1, **shared: Any) -> tuple[Any, list[Any]]:
    """A figure as wide as the report's text with `count` plots.

    Args:
        count: of plots.
        columns: most plots in a line.
        height: of a line, in inches.
        shared: `sharex`, `sharey` of `pyplot.subplots`.
    """
    wide = min(columns, count)
    high = -(-count // wide)
    size = (WIDE_IN, height * high)
    figure, grid = plt.subplots(high, wide, figsize=size, layout="constrained", squeeze=False, **shared)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for axes in grid.flat[:count]:
        _open(axes)
    return figure, list(grid.flat[:count])


def _open(axes: Any) -> None:
    axes.grid(True, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def in_percent(axis: Any, ticks: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1)) -> None:
    """Marks an axis of shares in per cent."""
    axis.set_ticks(list(ticks), [f"{100 * tick:g}" for tick in ticks])


def save(figure: Any, folder: Path, name: str, title: str = "", note: Sequence[str] = ()) -> list[Path]:
    """Writes NAME.png and NAME.pdf; the same rows give the same bytes.

    Args:
        figure: is closed.
        folder: of the files.
        name: of the files.
        title: above a plot that stands alone.
        note: lines below it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if title:
        figure.suptitle(title, fontsize=10)
    if note:
        figure.supxlabel("\n".join(note), fontsize=8, color="#333333", x=0.02, ha="left")
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(paths[0], dpi=200, metadata={"Software": None})
    figure.savefig(paths[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    plt.close(figure)
    return paths
