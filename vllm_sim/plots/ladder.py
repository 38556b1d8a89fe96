"""The ladder as a plot: what each step takes from the prompt tokens, from the top down to what was found cached."""

from collections.abc import Sequence
from pathlib import Path

from vllm_sim.plots.style import ALONE_IN, new_figure, save
from vllm_sim.replay.rows import Row

STEP_WORDS = {
    "nothing_to_share": "no earlier request has computed them: the trace's own limit",
    "block_rules": "full blocks alone, never the last token",
    "capacity": "one cache of all blocks under the optimum",
    "routing": "a cache for each replica, each request where the router sent it",
    "policy": "the run's policy in place of the optimum",
    "tier": "two tiers in place of one cache",
    "schedule": "the engine: batches, chunks, requests in flight together",
    "preemption": "computed again after preemptions, less what was found on returns",
}
"""What each step is lost to."""
_LOSS, _GAIN, _LEFT = "#D55E00", "#009E73", "#0072B2"


def draw_ladder(rows: Sequence[Row], out: Path) -> list[Path]:
    """Draws the row of all requests.

    Args:
        rows: of ladder.jsonl.
        out: folder for ladder.png and ladder.pdf.

    Returns:
        Their paths.
    """
    row = next(row for row in rows if row["by"] == "all")
    total = row["prompt_tokens"]
    figure, axes = new_figure(ALONE_IN)
    names = list(row["steps"])
    left = 100.0
    for place, name in enumerate(names):
        part = 100 * row["steps"][name] / total
        axes.barh(place, -part, left=left, color=_LOSS if part >= 0 else _GAIN)
        left -= part
        axes.text(max(left, left + part) + 1, place, f"{part:.1f}", va="center")
    axes.barh(len(names), left, color=_LEFT)
    axes.text(left + 1, len(names), f"{left:.1f}", va="center")
    axes.set_yticks(range(len(names) + 1), [*(name.replace("_", " ") for name in names), "found cached"])
    axes.invert_yaxis()
    axes.set_xlim(min(0, left), 112)
    axes.set_xlabel("share of the prompt tokens (%)")
    fleet = f"{row.get('replicas', 1)} replicas" + (f", router {row['router']}" if "router" in row else "")
    capacity = "unlimited" if row["capacity_blocks"] is None else f"{row['capacity_blocks']:,} blocks of"
    note = [
        f"{row['trace']}: {row['requests']:,} requests, {total:,} prompt tokens. Backend {row['backend']}, "
        f"policy {row['policy']}.",
        f"{fleet}, capacity {capacity} {row['block_size']} tokens in all. Green: a step that gave tokens back.",
    ]
    return save(figure, out, "ladder", "Where the prompt tokens were lost", note)
