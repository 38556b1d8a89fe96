"""`vllm-sim plot`."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plot",
        help="draw the rows of sweeps",
        description="Draws hit rates over capacity, block size and per workload, and the gap to the optimum that each "
        "policy closes, as PNG and PDF.",
        epilog="example: vllm-sim plot results/first.jsonl --out figures",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.jsonl", help="rows of sweep or replay")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the plots")
    parser.add_argument(
        "--rate", choices=("token", "block", "request"), default="token", help="definition of the hit rate"
    )
    parser.set_defaults(run=run_plot)


def run_plot(options: argparse.Namespace) -> int:
    from vllm_sim.study.plot import draw_all
    from vllm_sim.study.results import read_rows

    rows = [row for path in options.files for row in read_rows(path)]
    for path in draw_all(rows, options.out, options.files[0].name.removesuffix(".jsonl"), f"{options.rate}_hit_rate"):
        print(path)
    return 0
