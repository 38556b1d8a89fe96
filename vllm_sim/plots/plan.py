"""Plots of a plan: latencies and hit rate over the capacity of a replica, the service level drawn in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_sim.plots.style import ALONE_IN, CEILING, legend_beside, new_panels, save

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def draw_plan(row: Any, tried: Sequence[Any], level: Sequence[Any], out: Path) -> list[Path]:
    """Draws what was tried with the number of replicas that a plan came to.

    Args:
        row: of the plan (`sweep.plan_rows.PlanRow`).
        tried: the deployments (`sweep.planning.Probe`).
        level: the service level (`sweep.service_level.Bound`).
        out: folder for plan-LOAD-POLICY-BLOCK.png and .pdf; of several replicas plan-LOAD-POLICY-BLOCK-ROUTER.
    """
    same = sorted((one for one in tried if one.config.replicas == row.replicas), key=lambda one: one.replica_blocks)
    gib = [one.replica_blocks * one.device.bytes_per_block / 2**30 for one in same]
    before = "" if row.router is None else f" after {row.router}"
    figure, (left, right) = new_panels(2, height=ALONE_IN[1])
    for color, bound in zip(_COLORS, level, strict=False):
        values = [one.row.get(bound.field) or 0.0 for one in same]
        left.plot(gib, values, marker="o", color=color, label=f"{bound.metric} p{bound.share}")
        left.axhline(bound.most_ms, color=color, linestyle="--", linewidth=1, label=f"wanted: {bound.most_ms:g} ms")
    right.plot(gib, [one.row["token_hit_rate"] for one in same], marker="o", color="black", label="token hit rate")
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("KV cache of a device (GiB)")
        if row.met:
            axes.axvline(row.capacity_gib, **CEILING, label="the plan")
    left.set_yscale("log")
    left.set_ylabel("latency (ms)")
    right.set_ylabel("token hit rate (0 to 1)")
    left.legend()
    legend_beside(right)
    tier = "" if row.tier is None else f", {row.tier.kv_offloading_size:g} GiB of CPU memory"
    router = "" if row.router is None else f"-{row.router}"
    name = f"plan-{row.load:g}-{row.policy}-{row.block_size}{router}".replace(":", "-")
    note = [
        f"{row.trace} ({row.trace_sha256[:8]}), model {row.model}, tensor parallel {row.tensor_parallel}{tier}.",
        "Latencies are those of the latency model in virtual time; each point is a run of vLLM's engine.",
    ]
    title = f"{row.trace}: load {row.load:g}, {row.replicas} x {row.device}{before}, {row.policy}"
    return save(figure, out, name, title, note)
