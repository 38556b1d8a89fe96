"""`vllm-sim report`."""

import argparse
import sys
from pathlib import Path

from vllm_sim.cli.model import DEFAULT_MODEL
from vllm_sim.cli.progress import progress_bar
from vllm_sim.cli.running import quieten_vllm


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report",
        help="a page of all results, the technical report, or a check of them",
        description="Shows the rows of a folder as one page that works offline, typesets the technical report from "
        "them, or computes a sample of them again.",
        epilog="example: vllm-sim report --html report.html --check",
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--html", type=Path, metavar="OUT.html", help="write the page")
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
    parser.set_defaults(run=run_report)


def run_report(options: argparse.Namespace) -> int:
    quieten_vllm()
    if options.html is None and options.pdf is None and not options.check:
        raise ValueError("nothing to do; allowed: --html OUT.html, --pdf OUT.pdf, --check")
    if options.pdf is not None:
        from vllm_sim.study.report.build import build

        print(f"{options.pdf}: {build(options.results, Path(), options.pdf):,} bytes")
    if options.html is None and not options.check:
        return 0
    from vllm_sim.study.results import find_rows

    files = find_rows(options.results)
    if options.html is not None:
        from vllm_sim.study.html import write_page

        print(f"{options.html}: {write_page(files, options.html):,} rows")
    return _check(files, options) if options.check else 0


def _check(files: "dict[Path, list[dict]]", options: argparse.Namespace) -> int:
    from vllm_sim.study.check import check

    with progress_bar("rows") as progress:
        report = check(files, options.traces, options.model, options.sample, options.seed, progress)
    for line in report.missing:
        print(f"vllm-sim: not checked: {line}", file=sys.stderr)
    for line in report.differences:
        print(f"vllm-sim: differs: {line}", file=sys.stderr)
    print(f"{report.checked} rows computed again, {len(report.differences)} differ, {report.skipped} not checked")
    return 1 if report.differences or not report.checked else 0
