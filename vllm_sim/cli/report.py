"""`vllm-sim report`: the old name of `vllm-sim plot FILE... --html`, for all rows of a folder."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report",
        help="the page of all results in a folder (as `plot --html`)",
        description="Shows the rows of a folder as one page that works offline.",
        epilog="example: vllm-sim report --html report.html",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--html", type=Path, required=True, metavar="OUT.html", help="write the page")
    parser.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> int:
    from vllm_sim.plots.page import write_page
    from vllm_sim.sweep.results import find_rows

    print(f"{options.html}: {write_page(find_rows(options.results), options.html):,} rows")
    return 0
