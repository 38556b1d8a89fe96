"""The deeper plots of study one: reuse gaps, capacity by block size, where hits come from, policies, arrivals."""

from pathlib import Path

from vllm_sim.replay.rows import Row
from vllm_sim.study.chat.plan import MAIN_BLOCK, SHARES, WORKLOADS
from vllm_sim.study.chat.plots import LOOKS, caption, errors, load, pick, style
from vllm_sim.study.chat.reuse import SOURCES
from vllm_sim.study.style import line_style, new_figure, new_panels, save

GAPS = {
    "reuse_gap_s": "seconds",
    "reuse_gap_requests": "requests",
    "reuse_gap_tokens": "tokens, prompts and answers",
}
HATCHES = {"system": ("#999999", "xx"), "same_session": ("#0072B2", ""), "other_session": ("#E69F00", "//")}


def draw_deep(results: Path, figures: Path) -> list[Path]:
    """Writes the deeper plots; returns their files."""
    rows = load(results)
    draws = (_reuse_gaps, _heat_map, _sources, _policies, _arrivals)
    return [path for draw in draws for path in draw(rows, figures)]


def _reuse_gaps(rows: list[Row], figures: Path) -> list[Path]:
    figure, panels = new_panels("How far a hit lies behind the use before it", 3)
    for axes, field, words in zip(panels, GAPS, GAPS.values(), strict=True):
        for workload in WORKLOADS:
            row = pick(rows, "reuse", workload=workload, system_prompt=False)[0]
            if not row[field]:  # no hit at all
                continue
            shares = [float(share) for share in row[field]]
            axes.plot(list(row[field].values()), shares, **style(workload) | {"markersize": 3.5})
            low, high = zip(*row[f"{field}_95"].values(), strict=True)
            axes.fill_betweenx(shares, low, high, color=LOOKS[workload].color, alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(words)
    panels[0].set_ylabel("share of hits with at most this gap")
    panels[0].legend(frameon=False, fontsize=8)
    row = pick(rows, "reuse")[0]
    more = (
        f"Unlimited cache, blocks of {MAIN_BLOCK}; {row['sessions_per_s']:g} sessions/s, median think time "
        f"{row['think_s']:g} s (assumed). Bands: 95 %, sessions resampled."
    )
    return save(figure, figures, "chat_reuse_gaps", caption(rows, more))


def _heat_map(rows: list[Row], figures: Path) -> list[Path]:
    chosen = pick(rows, "block_size", workload="multi")
    sizes = sorted({row["block_size"] for row in chosen})
    shares = [share for share in SHARES if any(row["capacity_share"] == share for row in chosen)]
    value = {(row["block_size"], row["capacity_share"]): row["token_hit_rate"] for row in chosen}
    table = [[value[size, share] for share in shares] for size in sizes]
    figure, axes = new_figure("Token hit rate of multi-turn chat over capacity and block size")
    axes.grid(False)
    image = axes.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for i, line in enumerate(table):
        for j, rate in enumerate(line):
            axes.text(
                j, i, f"{rate:.2f}", ha="center", va="center", fontsize=8, color="black" if rate > 0.6 else "white"
            )
    axes.set_xticks(range(len(shares)), ["no limit" if share is None else f"{share * 100:g}%" for share in shares])
    axes.set_yticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("capacity, share of the working set")
    axes.set_ylabel("block size (tokens)")
    figure.colorbar(image, label="token hit rate")
    more = f"LRU; a column holds the same tokens of capacity (working set at {MAIN_BLOCK} tokens a block)."
    return save(figure, figures, "chat_heat_map", caption(rows, more))


def _sources(rows: list[Row], figures: Path) -> list[Path]:
    figure, axes = new_figure("Where hits come from, unlimited cache")
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
            axes.text(1.01, len(names), f"{total / 1e6:.2f} M", va="center", fontsize=8)
            names.append(f"{LOOKS[workload].label}\n{'with' if prompt else 'without'} system prompt")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("share of hit tokens (right: hit tokens)")
    figure.legend(frameon=False, loc="outside upper center", ncol=3, fontsize=8)
    system_tokens = pick(rows, "reuse", system_prompt=True)[0]["system_tokens"]
    more = f"Blocks of {MAIN_BLOCK}; the system prompt with the template around it has {system_tokens} tokens."
    return save(figure, figures, "chat_sources", caption(rows, more))


def _policies(rows: list[Row], figures: Path) -> list[Path]:
    chosen = pick(rows, "policy", workload="multi")
    figure, (rates, gains) = new_panels("Eviction policies and the optimum, multi-turn", 2)
    names = list(dict.fromkeys(row["policy"] for row in chosen))
    for place, policy in enumerate(names):
        mine = [row for row in chosen if row["policy"] == policy]
        shares = [row["capacity_share"] * 100 for row in mine]
        rates.plot(shares, [row["token_hit_rate"] for row in mine], **line_style(policy))
        if policy in ("lru", "opt"):
            continue
        points = [row["gain_over_lru"] * 100 for row in mine]
        ends = [[end * 100 for end in row["gain_over_lru_95"]] for row in mine]
        moved = [share * 1.025 ** (place - len(names) / 2) for share in shares]  # or the bars lie on each other
        gains.errorbar(moved, points, errors(points, ends), capsize=2, **line_style(policy) | {"markersize": 4})
    gains.axhline(0, color="black", linewidth=1)
    rates.set_ylim(0, 1.02)
    gains.set_yscale("symlog", linthresh=1)
    gains.set_yticks([-30, -10, -3, -1, 0, 1, 3, 10], ["-30", "-10", "-3", "-1", "0", "1", "3", "10"])
    ticks = sorted({row["capacity_share"] * 100 for row in chosen})
    for axes, words in ((rates, "token hit rate"), (gains, "points of token hit rate over LRU")):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("capacity (% of the working set)")
        axes.set_ylabel(words)
    rates.legend(frameon=False, ncol=2, loc="lower right", fontsize=8)
    row = chosen[0]
    more = (
        f"Blocks of {MAIN_BLOCK}; {row['sessions_per_s']:g} sessions/s, median think time {row['think_s']:g} s; opt "
        "knows the future, lru+ends which sessions are over.\n"
        "Right: linear from -1 to 1, else log; bars: 95 %, sessions resampled in pairs."
    )
    return save(figure, figures, "chat_policies", caption(rows, more))


def _arrivals(rows: list[Row], figures: Path) -> list[Path]:
    chosen = pick(rows, "arrival", workload="multi")
    groups: dict[tuple[float, float], list[float]] = {}
    for row in chosen:
        groups.setdefault((row["sessions_per_s"], row["think_s"]), []).append(row["token_hit_rate"])
    figure, axes = new_figure("Multi-turn chat by arrival rate and think time, a tenth of the working set")
    looks = {10.0: ("#009E73", "^", ":"), 60.0: ("#0072B2", "o", "-"), 300.0: ("#D55E00", "s", "--")}
    for think_s, (color, marker, line) in looks.items():
        rates = sorted(rate for rate, think in groups if think == think_s)
        if not rates:
            continue
        values = [groups[rate, think_s] for rate in rates]
        middle = [sum(v) / len(v) for v in values]
        ends = [
            [m - min(v) for m, v in zip(middle, values, strict=True)],
            [max(v) - m for m, v in zip(middle, values, strict=True)],
        ]
        label = f"median think time {think_s:g} s"
        axes.errorbar(rates, middle, ends, color=color, marker=marker, linestyle=line, label=label, capsize=4)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1.02)
    ticks = sorted({rate for rate, _ in groups})
    axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    axes.set_xlabel("sessions per second (Poisson)")
    axes.set_ylabel("token hit rate")
    axes.legend(frameon=False)
    more = f"LRU, blocks of {MAIN_BLOCK}; mean and range of {max(map(len, groups.values()))} arrival seeds."
    return save(figure, figures, "chat_arrivals", caption(rows, more))
