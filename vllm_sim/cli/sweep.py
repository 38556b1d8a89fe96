"""`vllm-sim sweep`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_sim.cli.running import add_config_options, config_from, quieten_vllm
from vllm_sim.garbage import no_search_for_garbage
from vllm_sim.terminal import progress_bar, say, show_table

if TYPE_CHECKING:
    from vllm_sim.sweep.units import Traffic


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "sweep",
        help="replay traces under many policies, capacities and block sizes, on all cores",
        description="Appends a row a run to FILE; started again, it goes on with the runs that FILE does not hold.",
        epilog="example: vllm-sim sweep trace.jsonl --out results/first.jsonl --policies lru,arc,belady "
        "--capacities 5%,10%,20%,unlimited --block-sizes 16,64",
    )
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE", help="traces in the native format")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="the file of rows")
    add_config_options(parser, backend="fast", is_grid=True)
    run = parser.add_argument_group("run")
    run.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes (default: one a core)")
    run.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, local, ray://HOST:PORT")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    parser.set_defaults(run=run_sweep)


def run_sweep(options: argparse.Namespace) -> int:
    quieten_vllm()
    with no_search_for_garbage():
        from vllm_sim.sweep.grid import Grid, check_run, make_runs, sweep

    check_run(options.out, options.traces, options.jobs)
    grid = Grid(
        options.policies,
        options.capacities,
        options.block_sizes,
        options.seeds,
        options.policy_params,
        options.replicas,
        options.routers,
        options.router_params,
        options.kv_offloading_sizes,
    )
    one: dict[str, Any] = {"replicas": 1, "router": None, "router_params": {}}
    one["kv_offloading_size"] = next((size for size in options.kv_offloading_sizes if size is not None), None)
    base = config_from(options, policy="lru", capacity_blocks=None, block_size=1, seed=0, policy_params={}, **one)
    with no_search_for_garbage():
        runs = make_runs(options.traces, base, grid)
    with progress_bar("runs") as progress:
        rows = sweep(runs, options.out, options.jobs, options.ray, progress, _say)
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        from vllm_sim.sweep.runs import traffics

        _print_tables(rows, options.policies, options.out, traffics, base.model)
    return 0


def _say(text: str) -> None:
    say(text, to_stderr=True)


def _print_tables(
    rows: list[dict[str, Any]], order: list[str], out: Path, traffics: dict[str, "Traffic"], model: str | None
) -> None:
    """Token hit rates, a table for each trace, a column for each policy; of several seeds the mean."""
    from vllm_sim.sweep.units import HEADS, units_of

    rows = [{"replicas": 1, "router": "", "kv_offloading_size": None} | row for row in rows]
    for (trace, sha256, replicas, router, gib), found in _grouped(
        rows, "trace", "trace_sha256", "replicas", "router", "kv_offloading_size"
    ).items():
        policies = sorted(_grouped(found, "policy"), key=order.index)
        lines = []
        for (size, capacity), same in _grouped(found, "block_size", "capacity_blocks").items():
            rates = _grouped(same, "policy")
            shown = "unlimited" if capacity is None else f"{capacity:,}" if isinstance(capacity, int) else capacity
            units = ("",) * len(HEADS)
            if isinstance(capacity, int):
                working_set = same[0].get("working_set_blocks")
                units = units_of(capacity, size, working_set, model, traffics.get(sha256)).texts()
            lines.append((size, shown, *units, *(_rate(rates.get(policy, [])) for policy in policies)))
        fleet = f", {replicas} replicas, {router}" if replicas > 1 else ""
        tier = f", {gib:g} GiB of CPU memory" if gib is not None else ""
        show_table(f"token hit rate: {trace}{fleet}{tier}", ("B", "capacity", *HEADS, *policies), lines)
    rejected = sum(row.get("rejected_requests", 0) > 0 for row in rows)
    if rejected:
        print(f"{rejected:,} runs had requests that need more blocks than there are")
    say(f"{len(rows):,} rows with all counts: {out}")


def _grouped(rows: list[dict[str, Any]], *names: str) -> dict[Any, list[dict[str, Any]]]:
    """Rows by the values of some fields (by the value where it is one), as they come first."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        values = tuple(row[name] for name in names)
        groups.setdefault(values if len(names) > 1 else values[0], []).append(row)
    return groups


def _rate(rows: list[dict[str, Any]]) -> str:
    if any("curve" in row for row in rows):
        return "curve"
    return f"{sum(row['token_hit_rate'] for row in rows) / len(rows):.4f}" if rows else ""
