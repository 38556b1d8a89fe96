"""How all plots look: one colour, marker and line for each policy, everywhere.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which colour-blind people tell apart; marker and
line tell policies apart in black and white. A policy that is not listed takes a free look by its place.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

mpl.rcParams["text.parse_math"] = False  # names come out of traces; a $ in one is a letter

SIZE_IN = (6.4, 4.2)
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
    "ttl": Look("#7FB2E5", "d", "-."),
    "priority": Look("#B8A038", "<", ":"),
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
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def new_figure(title: str) -> tuple[Any, Any]:
    """A figure with one plot in it."""
    figure, axes = plt.subplots(figsize=SIZE_IN, layout="constrained")
    axes.set_title(title, fontsize=10)
    axes.grid(True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def new_panels(title: str, panels: int) -> tuple[Any, Any]:
    """A wider figure with plots next to each other."""
    figure, axes = plt.subplots(1, panels, figsize=(SIZE_IN[0] * 1.35, SIZE_IN[1]), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for part in axes:
        part.grid(True, alpha=0.25)
        part.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Any, folder: Path, name: str, caption: Sequence[str]) -> list[Path]:
    """Writes NAME.png and NAME.pdf, the caption's lines below the plot; the same rows give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.supxlabel("\n".join(caption), fontsize=7.5, color="#333333", x=0.02, ha="left")
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    figure.savefig(paths[0], dpi=160, metadata={"Software": None})
    figure.savefig(paths[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    plt.close(figure)
    return paths
