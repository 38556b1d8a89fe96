"""`python -m report`: typesets the technical report from rows, or computes a sample of the rows again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from report.check import check
from report.numbers.build import build
from vllm_sim.cli.model import DEFAULT_MODEL
from vllm_sim.cli.running import quieten_vllm
from vllm_sim.sweep.results import check_commit, find_rows
from vllm_sim.terminal import progress_bar


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m report",
        description=__doc__,
        epilog="example: python -m report --pdf report.pdf (in the project's folder)",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--pdf", type=Path, metavar="OUT.pdf", help="typeset report/ (in the project's folder)")
    parser.add_argument("--check", action="store_true", help="compute a sample again; exit code 1 if one differs")
    parser.add_argument("--sample", type=int, default=20, metavar="N", help="rows to check (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--traces",
        type=Path,
        nargs="+",
        default=[Path("data")],
        metavar="PATH",
        help="traces, or folders to look for them in, by their sha256 (default: data)",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.pdf is None and not options.check:
        parser.error("nothing to do; allowed: --pdf OUT.pdf, --check")
    quieten_vllm()
    try:
        if options.pdf is not None:
            print(f"{options.pdf}: {build(options.results, Path(), options.pdf):,} bytes")
        return _check(options) if options.check else 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _check(options: argparse.Namespace) -> int:
    files = find_rows(options.results)
    for path, rows in files.items():
        if any("experiment" in row for row in rows):  # a study's, which the report cites
            check_commit(path, "make study")
    with progress_bar("rows") as progress:
        found = check(files, options.traces, options.model, options.sample, options.seed, progress)
    for line in found.missing:
        print(f"not checked: {line}", file=sys.stderr)
    for line in found.differences:
        print(f"differs: {line}", file=sys.stderr)
    print(f"{found.checked} rows computed again, {len(found.differences)} differ, {found.skipped} not checked")
    return 1 if found.differences or not found.checked else 0


if __name__ == "__main__":
    sys.exit(main())
