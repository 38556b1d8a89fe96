"""`vllm-sim plot`."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plot",
        help="draw the rows of sweeps",
        description="Draws hit rates over capacity, block size and per workload, and the gap to the optimum that each "
        "policy closes, as PNG and PDF; or shows all rows as one page that works offline.",
        epilog="example: vllm-sim plot results/first.jsonl --out figures --html page.html",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.jsonl", help="rows of sweep or replay")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the plots")
    parser.add_argument("--html", type=Path, metavar="OUT.html", help="write the page")
    parser.add_argument(
        "--rate", choices=("token", "block", "request"), default="token", help="definition of the hit rate"
    )
    parser.set_defaults(run=run_plot)


def run_plot(options: argparse.Namespace) -> int:
    from vllm_sim.sweep.results import read_rows

    if options.out is None and options.html is None:
        raise ValueError("nothing to draw; allowed: --out DIR, --html OUT.html")
    files = {path: read_rows(path) for path in options.files}
    if options.out is not None:
        from vllm_sim.plots.curves import draw_all

        rows = [row for found in files.values() for row in found]
        stem = options.files[0].name.removesuffix(".jsonl")
        for path in draw_all(rows, options.out, stem, f"{options.rate}_hit_rate"):
            print(path)
    if options.html is not None:
        from vllm_sim.plots.page import write_page

        print(f"{options.html}: {write_page(files, options.html):,} rows")
    return 0
