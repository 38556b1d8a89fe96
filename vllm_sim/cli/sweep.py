"""`vllm-sim sweep`."""

import argparse
import json
from pathlib import Path
from typing import Any

from vllm_sim.cli.progress import progress_bar
from vllm_sim.cli.running import (
    add_cache_options,
    add_engine_options,
    add_model,
    json_object,
    quieten_vllm,
    shared_settings,
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "sweep",
        help="replay traces under many policies, capacities and block sizes, on all cores",
        description="Appends a row a run to FILE; started again, it goes on with the runs that FILE does not hold.",
        epilog="example: vllm-sim sweep trace.jsonl --out results/first.jsonl --policies lru,arc,opt "
        "--capacities 5%,10%,20%,unlimited --block-sizes 16,64",
    )
    parser.add_argument("traces", type=Path, nargs="+", metavar="TRACE", help="traces in the native format")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="the file of rows")
    add_model(parser)
    grid = parser.add_argument_group("grid; lists are separated by commas")
    grid.add_argument("--policies", "--policy", type=_texts, default=["lru"], metavar="P,P", help="(default: lru)")
    capacity = (
        "blocks (3000), tokens (48000tok, 48Ktok), a share of the working set (10%%), bytes of the model's cache "
        "(16GiB), unlimited, or all for LRU's whole curve"
    )
    names = ("--capacities", "--capacity-blocks")
    grid.add_argument(*names, type=_texts, default=["10%", "unlimited"], metavar="C,C", help=capacity)
    grid.add_argument("--block-sizes", "--block-size", type=_numbers, default=[16], metavar="B,B", help="(default: 16)")
    grid.add_argument("--seeds", "--seed", type=_numbers, default=[0], metavar="S,S", help="(default: 0)")
    params = 'by policy: {"slru": {...}}'
    grid.add_argument("--policy-params", type=json_object, default={}, metavar="JSON", help=params)
    run = parser.add_argument_group("run")
    add_cache_options(run, backend="fast")
    run.add_argument("--jobs", type=int, default=-1, metavar="N", help="processes (default: one a core)")
    run.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster: auto, local, ray://HOST:PORT")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    parser.set_defaults(run=run_sweep)


def _texts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in _texts(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, as in 16,64") from None


def run_sweep(options: argparse.Namespace) -> int:
    quieten_vllm()
    from vllm_sim.replay.settings import Settings
    from vllm_sim.sweep.grid import check_run, make_cells, sweep

    check_run(options.out, options.traces, options.jobs)
    base = Settings(**shared_settings(options))
    cells = make_cells(options.traces, base, options.policies, options.capacities, options.block_sizes, options.seeds)
    with progress_bar("runs") as progress:
        rows = sweep(cells, options.out, options.jobs, options.ray, progress)
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _print_tables(rows, options.policies, options.out)
    return 0


def _print_tables(rows: list[dict[str, Any]], order: list[str], out: Path) -> None:
    """Token hit rates, a table for each trace, a column for each policy; of several seeds the mean."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for (trace, _), cells in _grouped(rows, "trace", "trace_sha256").items():
        policies = sorted(_grouped(cells, "policy"), key=order.index)
        table = Table(title=f"token hit rate: {trace}", box=box.SIMPLE, padding=(0, 0, 0, 1))
        for name in ("B", "capacity", *policies):
            table.add_column(name, justify="right", no_wrap=True)
        for (size, capacity), same in _grouped(cells, "block_size", "capacity_blocks").items():
            rates = _grouped(same, "policy")
            shown = "unlimited" if capacity is None else f"{capacity:,}" if isinstance(capacity, int) else capacity
            table.add_row(str(size), shown, *(_rate(rates.get(policy, [])) for policy in policies))
        # Rather longer lines than columns that are cut.
        console.width = max(
            console.width, console.measure(table, options=console.options.update(max_width=999)).maximum
        )
        console.print(table)
    rejected = sum(row.get("rejected_requests", 0) > 0 for row in rows)
    if rejected:
        console.print(f"{rejected:,} runs had requests that need more blocks than there are")
    console.print(f"{len(rows):,} rows with all counts: {out}", soft_wrap=True, highlight=False)


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
