#!/usr/bin/env python3
"""Tries constants of the hybrid policy on the mixes tune_* and on first halves of hash-id traces, on nothing else."""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, epilog="the step before is build_mixes.py")
    parser.add_argument("--plan", type=Path, default=here / "study.toml", help="default: milestone3_code/study.toml")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "mixes", help="default: data/mixes")
    parser.add_argument("--model", default=str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct"))
    parser.add_argument(
        "--hash-trace",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="its first half, by time, tunes too",
    )
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    options = parser.parse_args()
    from milestone3_code.study.tune import tune, tuning_views

    try:
        views = tuning_views(options.plan, options.data, options.model, options.hash_trace)
        best, score = tune(options.plan, views, lambda text: print(text, flush=True), options.jobs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"best: --policy-params '{json.dumps(best)}', closes {score.gap_closed:.4f} of the gap")
    return 0


if __name__ == "__main__":
    sys.exit(main())
