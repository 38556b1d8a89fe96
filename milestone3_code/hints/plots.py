"""The plot of the study of hints, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milestone3_code.hints.numbers import BAR, MAKER, POLICIES, Case, cases, client_gain, closed, of_case, words
from milestone3_code.hints.rows import FILE
from milestone3_code.routing.numbers import Spread
from milestone3_code.study.drawing import side_by_side, write
from vllm_sim.plots.style import CEILING, look, new_panels
from vllm_sim.sweep.results import read_made_rows

CLIENTS = ("speaking", "silent")


def draw_hints(results: Path, figures: Path) -> list[Path]:
    """Writes the plot; returns its files."""
    rows = read_made_rows(results / FILE, MAKER)
    plain = cases(rows)
    figure, (left, right) = new_panels(2, height=3.6)
    said = list(dict.fromkeys(words(of_case(rows, case)[0]) for case in plain))
    _bars(left, said, {case: (words(of_case(rows, case)[0]), closed(rows, case)) for case in plain})
    left.axvline(100 * BAR, **CEILING)
    left.set_xlabel("gap to the optimum closed (%)")
    some = [case for case in plain if "by_client" in of_case(rows, case)[0]]
    gains = [
        (case, client, client_gain(rows, case, client, "gain_over_silence_tokens"))
        for client in CLIENTS
        for case in some
    ]
    for client in CLIENTS:
        _bars(right, list(CLIENTS), {case: (client, gain) for case, name, gain in gains if name == client})
    right.set_xlabel("gained over silence (points)")
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, frameon=False)
    return write(figure, figures, "hints_worth", rows)


def _bars(axes: Any, groups: Sequence[str], shown: dict[Case, tuple[str, Spread]]) -> None:
    """Bars of cases with their intervals, each in its group, the first one on top; a colour for each policy."""
    for place, policy in enumerate(POLICIES):
        own = [pair for case, pair in shown.items() if case.policy == policy]
        at = side_by_side(len(groups), place, len(POLICIES))
        means = [100 * gain.mean for _, gain in own]
        ends = [[100 * (gain.mean - gain.low) for _, gain in own], [100 * (gain.high - gain.mean) for _, gain in own]]
        style = {"height": 0.8 / len(POLICIES), "color": look(policy).color, "label": policy}
        error = {"elinewidth": 0.8, "capsize": 1.5, "ecolor": "#444444"}
        axes.barh([at[groups.index(group)] for group, _ in own], means, xerr=ends, error_kw=error, **style)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.5, -0.5)
