"""The plots of study three, from its rows alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milestone3_code.routing.numbers import (
    BETTER,
    PLAIN,
    ROUTED,
    Pays,
    Spread,
    load,
    pays,
    spread,
)
from milestone3_code.routing.plan import MAIN_CAPACITY, MAIN_REPLICAS
from milestone3_code.study.drawing import legend, plain, share, values, write
from milestone3_code.study.names import spoken
from vllm_sim.plots.style import in_percent, new_panels
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

LINES = (
    ("router", f"{ROUTED} for {PLAIN}", "#0072B2", "o", "-"),
    ("policy", f"{BETTER} for LRU, after {PLAIN}", "#B00020", "s", "--"),
    ("policy_routed", f"{BETTER} for LRU, after {ROUTED}", "#E69F00", "^", "-."),
)
STEPS = {
    "nothing_to_share": ("nothing to share", "#DDDDDD", ""),
    "block_rules": ("block rules", "#BBBBBB", ".."),
    "capacity": ("capacity", "#56B4E9", "//"),
    "routing": ("routing", "#D55E00", "xx"),
    "policy": ("policy", "#CC79A7", "\\\\"),
    "hit": ("found cached", "#009E73", ""),
}


def draw_routing(results: Path, figures: Path) -> list[Path]:
    """Writes the plots; returns their files."""
    rows = load(results)
    return [path for draw in (_pays, _ladder, _stale) for path in draw(rows, figures)]


def _pays(rows: list[Row], figures: Path) -> list[Path]:
    found = [one for one in pays(rows) if one.replicas == MAIN_REPLICAS]
    mixes = list(dict.fromkeys(one.mix for one in found))
    figure, plots = new_panels(len(mixes), columns=4, height=2.2)
    for mix, axes in zip(mixes, plots, strict=True):
        own = [one for one in found if one.mix == mix]
        for field, label, color, marker, line in LINES:
            style = {"color": color, "marker": marker, "linestyle": line, "markersize": 4, "label": label}
            _with_intervals(axes, own, [getattr(one, field) for one in own], style)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        plain(axes.xaxis, [share(one.capacity) for one in own])
        axes.set_title(spoken(mix))
        axes.set_xlabel("capacity (%)")
    plots[0].set_ylabel("gain (points)")
    legend(figure, plots, 3)
    return write(figure, figures, "routing_pays", rows)


def _with_intervals(axes: Any, own: Sequence[Pays], spreads: Sequence[Spread], style: dict[str, Any]) -> None:
    at = [share(one.capacity) for one in own]
    middle = [100 * one.mean for one in spreads]
    ends = [[100 * (one.mean - one.low) for one in spreads], [100 * (one.high - one.mean) for one in spreads]]
    axes.errorbar(at, middle, ends, capsize=2, linewidth=1.3, **style)


def _ladder(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "ladder")
    mixes = [mix for mix in values(found, "mix") if not any(row["rejected_requests"] for row in _of(found, mix))]
    figure, plots = new_panels(len(mixes), height=1.8, sharey=True)
    for mix, axes in zip(mixes, plots, strict=True):
        own = _of(found, mix)
        routers = values(own, "router")
        for place, router in enumerate(routers):
            one = [row | {**row["steps"], "hit": row["token_hit_rate"]} for row in own if row["router"] == router]
            left = 0.0
            for name, (label, color, hatch) in reversed(STEPS.items()):
                part = 100 * spread(one, name).mean
                look = {"color": color, "hatch": hatch, "edgecolor": "white", "label": label if not place else None}
                axes.barh(place, max(0.0, part), 0.7, left=left, **look)
                left += max(0.0, part)
        axes.set_yticks(range(len(routers)), routers)
        axes.set_title(spoken(mix))
        axes.set_xlabel("prompt tokens (%)")
    plots[0].invert_yaxis()
    legend(figure, plots, 6)
    return write(figure, figures, "routing_ladder", found)


def _stale(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "stale", router=ROUTED)
    mixes = [mix for mix in values(found, "mix") if not any(row["rejected_requests"] for row in _of(found, mix))]
    figure, plots = new_panels(len(mixes), height=2.2, sharey=True)
    for mix, axes in zip(mixes, plots, strict=True):
        own = _of(found, mix)
        delays = values(own, "delay_ms")
        rates = [spread([row for row in own if row["delay_ms"] == delay], "token_hit_rate").mean for delay in delays]
        axes.plot(range(len(delays)), rates, color="#0072B2", marker="o", markersize=4, label=ROUTED)
        for router, line in ((PLAIN, ":"), ("session", (0, (5, 2))), ("prefix_tree", "-.")):
            level = _level(rows, mix, router)
            if level is not None:
                axes.axhline(level, color="#666666", linestyle=line, linewidth=1, label=router)
        axes.set_xticks(range(len(delays)), [f"{delay / 1000:g}" for delay in delays])
        axes.set_ylim(0, 1.02)
        in_percent(axes.yaxis)
        axes.set_title(spoken(mix))
        axes.set_xlabel("delay of events (s)")
    plots[0].set_ylabel("token hit rate (%)")
    legend(figure, plots)
    return write(figure, figures, "routing_stale", found)


def _level(rows: list[Row], mix: str, router: str) -> float | None:
    capacity, replicas = MAIN_CAPACITY, MAIN_REPLICAS
    wanted = {"mix": mix, "capacity": capacity, "replicas": replicas, "policy": "lru", "router": router}
    found = pick(rows, "fleet", **wanted)
    return spread(found, "token_hit_rate").mean if found else None


def _of(rows: Sequence[Row], mix: str) -> list[Row]:
    return [row for row in rows if row["mix"] == mix]
