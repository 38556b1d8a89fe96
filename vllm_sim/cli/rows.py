"""`vllm-sim rows`."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "rows",
        help="write rows of replay, sweep or plan as CSV or Parquet",
        description="A field of a field becomes a column NAME.FIELD, a list a JSON text. Parquet needs pyarrow, which "
        "the extra `parquet` brings.",
        epilog="example: vllm-sim rows results/first.jsonl --format csv --out first.csv",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.jsonl", help="rows of replay, sweep or plan")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table")
    parser.set_defaults(run=run_rows)


def run_rows(options: argparse.Namespace) -> None:
    from vllm_sim.sweep.table import write_table
    from vllm_sim.terminal import say
    from vllm_sim.trace.files import iter_objects

    rows = (row for path in options.files for _, row in iter_objects(path))
    count, columns = write_table(rows, options.out, options.format)
    say(f"{options.out}: {count:,} rows, {columns} columns")
