#!/usr/bin/env python3
"""Runs study three (routing, eviction, capacity) over mixes and hash traces; rows go into results/routing*.jsonl."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # before vllm is imported
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="the step before is build_mixes.py --seeds 4, the next one visualize_routing.py"
    )
    parser.add_argument("--plan", type=Path, default=here / "routing.toml", help="default: routing.toml, beside it")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "mixes", help="default: data/mixes")
    parser.add_argument("--model", default=str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct"))
    parser.add_argument("--out", type=Path, help="folder of the rows (default: results; data/quick/results if quick)")
    parser.add_argument("--part", choices=("cache", "engine", "all"), default="all", help="default: all")
    parser.add_argument("--hash-trace", type=Path, action="append", default=[], metavar="PATH", help="runs it as well")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="a few points, with rows that are marked as quick")
    options = parser.parse_args()
    from milestone3_code.routing.plan import size_of
    from milestone3_code.routing.run import run_study
    from milestone3_code.study.study import Study
    from vllm_sim.terminal import progress_bar

    try:
        study = Study(
            configs=options.plan.parent / "mixes",
            data=options.data,
            model=options.model,
            results=options.out or (ROOT / "data" / "quick" if options.quick else ROOT) / "results",
            mixes=size_of(options.plan, options.quick).mixes,
            quick=options.quick,
            hash_traces=tuple(options.hash_trace),
        )
        parts = ("engine", "cache") if options.part == "all" else (options.part,)
        with progress_bar("points") as progress:
            run_study(options.plan, study, lambda text: print(text, file=sys.stderr), parts, options.jobs, progress)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
