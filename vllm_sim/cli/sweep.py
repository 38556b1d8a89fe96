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
    from vllm_sim.study.sweep import make_cells, sweep

    base = Settings(**shared_settings(options))
    cells = make_cells(options.traces, base, options.policies, options.capacities, options.block_sizes, options.seeds)
    with progress_bar("runs") as progress:
        rows = sweep(cells, options.out, options.jobs, options.ray, progress)
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _print_table(rows, options.out)
    return 0


def _print_table(rows: list[dict[str, Any]], out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"hit rates: {out}", box=box.SIMPLE, padding=(0, 0, 0, 1))
    has_rejected = any(row.get("rejected_requests") for row in rows)  # rare, and 80 columns are soon full
    columns = ["trace", "policy", "B", "capacity", "token", "block", "request", "evicted"]
    columns += ["rejected"] if has_rejected else []
    for name in columns:
        wide = name == "trace"
        justify: Any = "left" if name in columns[:2] else "right"
        table.add_column(name, justify=justify, no_wrap=not wide, overflow="fold", min_width=12 if wide else None)
    for row in rows:
        capacity = row["capacity_blocks"]
        shown = "unlimited" if capacity is None else f"{capacity:,}" if isinstance(capacity, int) else capacity
        head = (row["trace"].split(".jsonl")[0], row["policy"], str(row["block_size"]), shown)
        if "curve" in row:
            table.add_row(*head, "curve")
            continue
        rates = (f"{row[f'{name}_hit_rate']:.4f}" for name in ("token", "block", "request"))
        counts = (f"{row['evicted_blocks']:,}", f"{row['rejected_requests']:,}")
        table.add_row(*head, *rates, *counts[: len(columns) - 7])
    Console().print(table)
