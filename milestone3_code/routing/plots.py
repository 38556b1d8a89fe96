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
from milestone3_code.study.drawing import caption, legend, panels, plain, share, values
from vllm_sim.plots.style import save
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

LINES = (
    ("router", f"router: {ROUTED} over {PLAIN}", "#0072B2", "o", "-"),
    ("policy", f"policy: {BETTER} over LRU,\nafter {PLAIN}", "#B00020", "s", "--"),
    ("policy_routed", f"policy: {BETTER} over LRU,\nafter {ROUTED}", "#E69F00", "^", "-."),
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
    figure, plots = panels(f"What a better router and a better policy are worth, {MAIN_REPLICAS} replicas", len(mixes))
    for mix, axes in zip(mixes, plots, strict=True):
        own = [one for one in found if one.mix == mix]
        for field, label, color, marker, line in LINES:
            style = {"color": color, "marker": marker, "linestyle": line, "markersize": 4, "label": label}
            _with_intervals(axes, own, [getattr(one, field) for one in own], style)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        plain(axes.xaxis, [share(one.capacity) for one in own])
        axes.set_title(_title(mix), fontsize=9)
        axes.set_xlabel("capacity (% of the working set)", fontsize=8)
    plots[0].set_ylabel("token hit rate gained (points)")
    legend(figure, plots, 1)
    more = "Bars: 95 %, over seeds of a mix, over resampled sessions of a hash trace. Cells without rejected requests."
    return save(figure, figures, "routing_pays", caption(rows, more))


def _with_intervals(axes: Any, own: Sequence[Pays], spreads: Sequence[Spread], style: dict[str, Any]) -> None:
    at = [share(one.capacity) for one in own]
    middle = [100 * one.mean for one in spreads]
    ends = [[100 * (one.mean - one.low) for one in spreads], [100 * (one.high - one.mean) for one in spreads]]
    axes.errorbar(at, middle, ends, capsize=2, linewidth=1.3, **style)


def _ladder(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "ladder")
    mixes = [mix for mix in values(found, "mix") if not any(row["rejected_requests"] for row in _of(found, mix))]
    figure, plots = panels(f"Where the prompt tokens were lost: LRU, {MAIN_REPLICAS} replicas", len(mixes))
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
        axes.set_yticks(range(len(routers)), routers, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(_title(mix), fontsize=9)
        axes.set_xlabel("share of the prompt tokens (%)", fontsize=8)
    legend(figure, plots, 1)
    more = f"Backend `fast`, {found[0]['capacity']} of the working set in all. A step below 0 is drawn as none."
    return save(figure, figures, "routing_ladder", caption(found, more))


def _stale(rows: list[Row], figures: Path) -> list[Path]:
    found = pick(rows, "stale", router=ROUTED)
    mixes = [mix for mix in values(found, "mix") if not any(row["rejected_requests"] for row in _of(found, mix))]
    figure, plots = panels("How late a router may learn of KV events", len(mixes))
    for mix, axes in zip(mixes, plots, strict=True):
        own = _of(found, mix)
        delays = values(own, "delay_ms")
        rates = [spread([row for row in own if row["delay_ms"] == delay], "token_hit_rate").mean for delay in delays]
        axes.plot(range(len(delays)), rates, color="#0072B2", marker="o", markersize=4, label=ROUTED)
        for router, line in ((PLAIN, ":"), ("session", (0, (5, 2))), ("prefix_tree", "-.")):
            level = _level(rows, mix, router)
            if level is not None:
                axes.axhline(level, color="#666666", linestyle=line, linewidth=1, label=router)
        axes.set_xticks(range(len(delays)), [f"{delay / 1000:g}" for delay in delays], fontsize=8)
        axes.set_ylim(0, 1.02)
        axes.set_title(_title(mix), fontsize=9)
        axes.set_xlabel("delay of events (s)", fontsize=8)
    plots[0].set_ylabel("token hit rate")
    legend(figure, plots, 1)
    more = f"LRU, {MAIN_REPLICAS} replicas, {found[0]['capacity']} of the working set in all; grey: without events."
    return save(figure, figures, "routing_stale", caption(found, more))


def _level(rows: list[Row], mix: str, router: str) -> float | None:
    capacity, replicas = MAIN_CAPACITY, MAIN_REPLICAS
    wanted = {"mix": mix, "capacity": capacity, "replicas": replicas, "policy": "lru", "router": router}
    found = pick(rows, "fleet", **wanted)
    return spread(found, "token_hit_rate").mean if found else None


def _of(rows: Sequence[Row], mix: str) -> list[Row]:
    return [row for row in rows if row["mix"] == mix]


def _title(mix: str) -> str:
    return mix.split(".")[0]
