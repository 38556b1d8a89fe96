#!/usr/bin/env python3
"""Runs what hybrid models hit at equal memory, over two of the mixes; rows go into results/hybrids.jsonl."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # before vllm is imported
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, epilog="the step before is build_mixes.py")
    parser.add_argument(
        "--plan", type=Path, default=here / "hybrids.toml", help="default: milestone3_code/hybrids.toml"
    )
    parser.add_argument("--mixes", type=Path, default=ROOT / "data" / "mixes", help="default: data/mixes")
    parser.add_argument("--data", type=Path, help="of traces and models that are made (default: data/hybrids)")
    parser.add_argument(
        "--model", default=str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct"), help="the tokenizer"
    )
    parser.add_argument("--out", type=Path, help="folder of the rows (default: results; data/quick/results if quick)")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="a few points, with rows that are marked as quick")
    options = parser.parse_args()
    from milestone3_code.hybrids.plan import read_plan
    from milestone3_code.hybrids.rows import Study, run_study
    from vllm_sim.terminal import progress_bar

    top = ROOT / "data" / "quick" if options.quick else ROOT
    try:
        study = Study(
            mixes=options.mixes,
            tokeniser=options.model,
            data=options.data or (top if options.quick else ROOT / "data") / "hybrids",
            results=options.out or top / "results",
            quick=options.quick,
        )
        study.results.mkdir(parents=True, exist_ok=True)
        with progress_bar("points") as progress:
            say = lambda text: print(text, file=sys.stderr)  # noqa: E731
            run_study(read_plan(options.plan, options.quick), study, say, options.jobs, progress)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
