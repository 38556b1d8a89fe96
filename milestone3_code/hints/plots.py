"""The plot of the study of hints, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milestone3_code.hints.numbers import BAR, MAKER, POLICIES, Case, cached, cases, client_gain, closed, of_case, words
from milestone3_code.hints.rows import FILE
from milestone3_code.routing.numbers import Spread
from milestone3_code.study.drawing import bars, caption, panels, side_by_side, values
from vllm_sim.plots.style import CEILING, look, save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_made_rows

CLIENTS = ("speaking", "silent")


def draw_hints(results: Path, figures: Path) -> list[Path]:
    """Writes the plot; returns its files."""
    rows = read_made_rows(results / FILE, MAKER)
    plain = cases(rows)
    figure, (left, right) = panels("What a client's hint is worth, and to whom", 2)
    figure.set_figwidth(10.5)
    said = list(dict.fromkeys(words(of_case(rows, case)[0]) for case in plain))
    _bars(left, said, {case: (words(of_case(rows, case)[0]), closed(rows, case)) for case in plain})
    left.axhline(100 * BAR, **CEILING)
    left.set_ylabel("gap to the optimum closed (%)")
    some = [case for case in plain if "by_client" in of_case(rows, case)[0]]
    gains = [
        (case, client, client_gain(rows, case, client, "gain_over_silence_tokens"))
        for client in CLIENTS
        for case in some
    ]
    for client in CLIENTS:
        _bars(right, list(CLIENTS), {case: (client, gain) for case, name, gain in gains if name == client})
    right.set_ylabel("token hit rate gained over silence (points)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right upper")
    found = cached(rows)
    more = (
        f"{len(values(found, 'mix'))} mixes, {len(values(found, 'mix_seed'))} seeds, "
        f"capacities {', '.join(found[0]['capacities'])} of the working set; bars: 95 % over seeds.\n"
        f"Dotted: {BAR:.0%}. Right: some of the clients say something; each policy against itself in silence."
    )
    return save(figure, figures, "hints_worth", caption(found, more))


def _bars(axes: Any, groups: Sequence[str], shown: dict[Case, tuple[str, Spread]]) -> None:
    """Bars of cases, each in its group; a colour for each policy."""
    for place, policy in enumerate(POLICIES):
        own = [pair for case, pair in shown.items() if case.policy == policy]
        at = side_by_side(len(groups), place, len(POLICIES))
        rows: list[Row] = [{"value": gain.mean, "value_ci95": (gain.low, gain.high)} for _, gain in own]
        where = [at[groups.index(group)] for group, _ in own]
        width = 0.8 / len(POLICIES)
        bars(axes, where, rows, "value", 100.0, width=width, color=look(policy).color, label=policy)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), [group.replace(", ", "\n") for group in groups], fontsize=6.5, rotation=30)
