"""The deeper plots of study one: reuse gaps, capacity by block size, where hits come from, policies, arrivals."""

from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from milestone2_code.study.plan import SHARES, WORKLOADS
from milestone2_code.study.plots import LOOKS, errors, load, style, write
from milestone2_code.study.reuse import SOURCES
from vllm_sim.plots.style import in_percent, line_style, new_figure, new_panels
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

THINKING = {10.0: ("#009E73", "^", ":"), 60.0: ("#0072B2", "o", "-"), 300.0: ("#D55E00", "s", "--")}
"""Looks of median think times in seconds."""
HATCHES = {"system": ("#999999", "xx"), "same_session": ("#0072B2", ""), "other_session": ("#E69F00", "//")}


def draw_deep(results: Path, figures: Path) -> list[Path]:
    """Writes the deeper plots; returns their files."""
    rows = load(results)
    draws = (_reuse_gaps, _blocks, _heat_map, _sources, _policies, _arrivals)
    return [path for draw in draws for path in draw(rows, figures)]


def _reuse_gaps(rows: list[Row], figures: Path) -> list[Path]:
    panels = {
        "reuse_gap_s": "seconds",
        "reuse_gap_requests": "requests",
        "reuse_gap_tokens": "tokens, prompts and answers",
    }
    figure = _distributions(rows, panels, "hits up to there (%)")
    return write(figure, figures, "chat_reuse_gaps", rows)


def _blocks(rows: list[Row], figures: Path) -> list[Path]:
    panels = {
        "shared_prefix_tokens": "tokens found cached, by request",
        "uses_of_hit_blocks": "hits, by hit block",
    }
    figure = _distributions(rows, panels, "up to there (%)")
    return write(figure, figures, "chat_blocks", rows)


def _plain(rows: list[Row]) -> list[Row]:
    return [pick(rows, "reuse", workload=workload, system_prompt=False)[0] for workload in WORKLOADS]


def _distributions(rows: list[Row], panels: dict[str, str], share_of_what: str) -> Any:
    """A panel a field: its quantiles for both workloads."""
    figure, plots = new_panels(len(panels), height=2.5, sharey=True)
    for axes, (field, words) in zip(plots, panels.items(), strict=True):
        for row in _plain(rows):
            if not row[field]:  # no hit at all
                continue
            shares = [float(share) for share in row[field]]
            axes.plot(list(row[field].values()), shares, **style(row["workload"]) | {"markersize": 3.5})
            low, high = zip(*row[f"{field}_ci95"].values(), strict=True)
            axes.fill_betweenx(shares, low, high, color=LOOKS[row["workload"]].color, alpha=0.2, linewidth=0)
        if any(value == 0 for row in _plain(rows) for value in row[field].values()):
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=0)
        else:
            axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        axes.set_ylim(0, 1.02)
        in_percent(axes.yaxis)
        axes.set_xlabel(words)
    plots[0].set_ylabel(share_of_what)
    plots[1].legend(loc="upper left")
    return figure


def short(value: float, _: int = 0) -> str:
    """A number in three letters or so: 20,000 is 20k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _heat_map(rows: list[Row], figures: Path) -> list[Path]:
    chosen = pick(rows, "block_size", workload="multi")
    sizes = sorted({row["block_size"] for row in chosen})
    shares = [share for share in SHARES if any(row["capacity_share"] == share for row in chosen)]
    value = {(row["block_size"], row["capacity_share"]): row["token_hit_rate"] for row in chosen}
    table = [[value[size, share] for share in shares] for size in sizes]
    figure, axes = new_figure()
    axes.grid(False)
    image = axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for i, line in enumerate(table):
        for j, rate in enumerate(line):
            axes.text(j, i, f"{100 * rate:.0f}", ha="center", va="center", color="black" if rate > 0.6 else "white")
    axes.set_xticks(range(len(shares)), ["no limit" if share is None else f"{share * 100:g}%" for share in shares])
    axes.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("capacity, share of the working set")
    axes.set_ylabel("block size (tokens)")
    figure.colorbar(image, label="token hit rate", format=PercentFormatter(1))
    return write(figure, figures, "chat_heat_map", rows)


def _sources(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure()
    names: list[str] = []
    for prompt in (False, True):
        for workload in WORKLOADS:
            row = pick(rows, "reuse", workload=workload, system_prompt=prompt)[0]
            tokens = row["hits_by_source_tokens"]
            total = sum(tokens.values()) or 1
            left = 0.0
            for source in SOURCES:
                color, hatch = HATCHES[source]
                label = source.replace("_", " ") if not names else None
                width = tokens[source] / total
                axes.barh(len(names), width, 0.6, left, color=color, hatch=hatch, edgecolor="black", label=label)
                left += width
            axes.text(1.01, len(names), f"{total / 1e6:.2f} M", va="center")
            names.append(f"{LOOKS[workload].label}\n{'with' if prompt else 'without'} system prompt")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15)
    in_percent(axes.xaxis)
    axes.set_xlabel("hit tokens (%; right: their number)")
    figure.legend(loc="outside upper center", ncol=3)
    return write(figure, figures, "chat_sources", rows)


def _policies(rows: list[Row], figures: Path) -> list[Path]:
    chosen = pick(rows, "policy", workload="multi")
    figure, (rates, gains) = new_panels(2, height=2.7)
    names = list(dict.fromkeys(row["policy"] for row in chosen))
    for place, policy in enumerate(names):
        mine = [row for row in chosen if row["policy"] == policy]
        shares = [row["capacity_share"] * 100 for row in mine]
        rates.plot(shares, [row["token_hit_rate"] for row in mine], **line_style(policy))
        if policy in ("lru", "belady"):
            continue
        points = [row["gain_over_lru"] * 100 for row in mine]
        ends = [[end * 100 for end in row["gain_over_lru_ci95"]] for row in mine]
        moved = [share * 1.025 ** (place - len(names) / 2) for share in shares]  # or the bars lie on each other
        gains.errorbar(moved, points, errors(points, ends), capsize=2, **line_style(policy) | {"markersize": 4})
    gains.axhline(0, color="black", linewidth=1)
    rates.set_ylim(0, 1.02)
    in_percent(rates.yaxis)
    gains.set_yscale("symlog", linthresh=1)
    gains.set_yticks([-30, -10, -3, -1, 0, 1, 3, 10], ["-30", "-10", "-3", "-1", "0", "1", "3", "10"])
    ticks = sorted({row["capacity_share"] * 100 for row in chosen})
    for axes, words in ((rates, "token hit rate (%)"), (gains, "gain over LRU (points)")):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("capacity (% of the working set)")
        axes.set_ylabel(words)
    handles, labels = rates.get_legend_handles_labels()
    figure.legend(handles, labels, ncol=6, loc="outside upper center")
    return write(figure, figures, "chat_policies", rows)


def _arrivals(rows: list[Row], figures: Path) -> list[Path]:
    chosen = pick(rows, "arrival", workload="multi")
    seeds: dict[tuple[float, float], list[Row]] = {}
    for row in chosen:
        seeds.setdefault((row["think_s"], row["sessions_per_s"]), []).append(row)
    figure, (hits, gaps) = new_panels(2, height=2.7)
    for think_s, (color, marker, line) in THINKING.items():
        rates = sorted(rate for think, rate in seeds if think == think_s)
        if not rates:
            continue
        look = {"color": color, "marker": marker, "linestyle": line, "capsize": 4, "markersize": 5}
        own = [seeds[think_s, rate] for rate in rates]
        kinds = (
            (hits, [[row["token_hit_rate"] for row in of] for of in own]),
            (gaps, [[row["reuse_gap_tokens"]["0.90"] for row in of] for of in own]),
        )
        for axes, values in kinds:
            means = [sum(found) / len(found) for found in values]
            ends = [(min(found), max(found)) for found in values]
            axes.errorbar(rates, means, errors(means, ends), label=f"{think_s:g} s", **look)
    for axes in (hits, gaps):
        axes.set_xscale("log", base=2)
        ticks = sorted({rate for _, rate in seeds})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel("sessions per second (Poisson)")
    hits.set_ylim(0, 1.02)
    in_percent(hits.yaxis)
    hits.set_ylabel("token hit rate (%)")
    gaps.set_yscale("log")
    gaps.yaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    gaps.yaxis.set_minor_formatter(NullFormatter())
    gaps.set_ylabel("tokens between uses (90th percentile)")
    hits.legend(title="median think time", loc="upper right")
    return write(figure, figures, "chat_arrivals", rows)
