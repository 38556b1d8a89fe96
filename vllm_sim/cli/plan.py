"""`vllm-sim plan`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_sim.cli.model import given_or_default
from vllm_sim.cli.model_cache import memory_of
from vllm_sim.cli.model_cache import size as size_of
from vllm_sim.cli.running import add_options, numbers, quieten_vllm, texts

if TYPE_CHECKING:
    from vllm_sim.sweep.plan_rows import PlanRow
    from vllm_sim.sweep.planning import Wanted

STEPS = ("tensor_parallel", "host_overhead_ms", "max_num_seqs", "max_num_batched_tokens")
MEMORY = ("kv_offloading_size", "offload_gbps")
"""Fields of RunConfig that are options of a plan as they are of a replay."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plan",
        help="the smallest cache and number of replicas that meet a service level for a trace",
        description="Bisection over runs of vLLM's engine in virtual time; each is a row of DIR/runs.jsonl and is not "
        "computed twice. Also writes DIR/plan.jsonl and plots. Latencies are those of the latency model, which was not "
        "compared with a GPU.",
        epilog='example: vllm-sim plan trace.jsonl --device l4 --slo "ttft_p99<=1s,tpot_p99<=50ms" --load 1,2,4 '
        "--out plans/l4 --price-per-hour 0.8",
    )
    parser.add_argument("trace", type=Path, metavar="TRACE", help="trace in the native format, with timestamps")
    parser.add_argument("--slo", required=True, metavar="LEVEL", help='service level, as in "ttft_p99<=1s,e2e_p90<=9s"')
    parser.add_argument("--device", required=True, metavar="NAME", help="a known device: h100, a100, l4")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for rows and plots")
    add_options(parser, ("model", *STEPS))
    parser.add_argument(
        "--load", type=_loads, default=(1.0,), metavar="X,X", help="times the trace's load (default: 1)"
    )
    parser.add_argument(
        "--policies", type=texts, default=["lru"], metavar="P,P", help="eviction policies (default: lru)"
    )
    parser.add_argument(
        "--routers", type=texts, default=["session"], metavar="R,R", help="before several replicas (default: session)"
    )
    parser.add_argument("--block-sizes", type=numbers, default=[16], metavar="B,B", help="in tokens (default: 16)")
    parser.add_argument("--max-replicas", type=int, default=8, metavar="N", help="most that are tried (default: 8)")
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="of a device; adds cost to the rows")
    parser.add_argument("--latency-file", type=Path, metavar="FILE", help="what vllm-sim calibrate wrote, for roofline")
    memory = parser.add_argument_group("memory of a device")
    memory.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="(default: vLLM's)")
    memory.add_argument("--weights", type=size_of, metavar="SIZE", help="of a device (default: unquantised)")
    memory.add_argument("--reserve", type=size_of, metavar="SIZE", help="activations and the rest (default: 2GiB)")
    add_options(memory, MEMORY)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    parser.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> int:
    wanted = _wanted(options)
    quieten_vllm()
    from vllm_sim.plots.plan import draw_plan
    from vllm_sim.replay.rows import write_rows
    from vllm_sim.sweep.plan_rows import plan_row
    from vllm_sim.sweep.planning import plan
    from vllm_sim.terminal import say

    rows, plots = [], []
    for found in plan(wanted, options.out, lambda text: say(text, to_stderr=True)):
        row = plan_row(wanted, found, options.price_per_hour)
        rows.append(row)
        plots += draw_plan(row, found.tried, wanted.level, options.out)
    write_rows(options.out / "plan.jsonl", rows)
    if options.json:
        print((options.out / "plan.jsonl").read_text(encoding="utf-8"), end="")
    else:
        _show(rows)
        say(f"{options.out / 'plan.jsonl'}, {', '.join(path.name for path in plots if path.suffix == '.png')}: written")
    return 0 if all(row.met for row in rows) else 1


def _wanted(options: argparse.Namespace) -> "Wanted":
    from vllm_sim.replay.config import RunConfig
    from vllm_sim.replay.latency import load_table
    from vllm_sim.sweep.grid import check_run
    from vllm_sim.sweep.planning import Wanted
    from vllm_sim.sweep.service_level import parse_level

    if options.max_replicas < 1:
        raise ValueError(f"--max-replicas is {options.max_replicas}; allowed: 1 or more")
    if options.price_per_hour is not None and not 0 <= options.price_per_hour < float("inf"):
        raise ValueError(f"--price-per-hour is {options.price_per_hour}; allowed: 0 or more")
    memory = memory_of(options)
    assert isinstance(memory, dict)  # there is a device
    del memory["total"]
    table = None if options.latency_file is None else load_table(options.latency_file)
    config = RunConfig(
        model=given_or_default(options.model),
        device=options.device,
        latency_model="roofline" if table is None else "table",
        latency_table=table,
        **{name: getattr(options, name) for name in (*STEPS, *MEMORY)},
    )
    level = parse_level(options.slo)
    check_run(options.out / "runs.jsonl", [options.trace], 1)
    return Wanted(
        options.trace,
        config,
        level,
        options.load,
        tuple(options.policies),
        tuple(options.routers),
        tuple(options.block_sizes),
        options.max_replicas,
        memory,
    )


def _show(rows: "list[PlanRow]") -> None:
    from vllm_sim.terminal import say, show_table

    first = rows[0]
    devices = f"{first.tensor_parallel} x {first.device}" if first.tensor_parallel > 1 else first.device
    lines = [
        (
            f"{row.load:g}",
            row.policy,
            row.router or "",
            row.block_size,
            row.replicas if row.met else f"> {row.replicas}",
            f"{row.capacity_gib:,.2f}",
            f"{row.capacity_tokens:,}",
            f"{row.capacity_share:.0%}",
            f"{row.token_hit_rate:.4f}",
            f"{row.ttft_ms['p99'] or 0:,.1f}",
            f"{row.tpot_ms['p99'] or 0:,.1f}",
            f"{row.goodput_requests_per_s:,.2f}",
            max(row.bound_by, key=lambda name: row.bound_by[name]) if row.bound_by else "",
            "" if row.cost_per_hour is None else f"{row.cost_per_hour:,.2f}",
        )
        for row in rows
    ]
    heads = ["load", "policy", "router", "B", "replicas", "GiB", "tokens", "of device", "hit rate"]
    heads += ["TTFT p99", "TPOT p99", "goodput/s", "bound by", "cost/h"]
    tier = "" if first.tier is None else f" and {first.tier.kv_offloading_size:g} GiB of CPU memory"
    show_table(f"{first.trace}: {first.service_level} on {devices}{tier}, each replica; times in ms", heads, lines)
    for row in rows:
        if not row.met:
            say(f"load {row.load:g}, {row.policy}: the level is not met. It would take {row.what_it_would_take}.")


def _loads(text: str) -> tuple[float, ...]:
    try:
        loads = tuple(float(part) for part in texts(text))
    except ValueError:
        loads = ()
    if not loads or not all(0 < load < float("inf") for load in loads):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of loads above 0, as in 1,2,4")
    return loads
