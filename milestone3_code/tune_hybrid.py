#!/usr/bin/env python3
"""Tries constants of the hybrid and of other policies on the mixes tune_* and on first halves of hash-id traces, on
nothing else."""

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
    parser.add_argument(
        "--policies", default="hybrid", help="separated by commas, or all that the plan has (default: hybrid)"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help="a JSON file of what was found")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    options = parser.parse_args()
    from milestone3_code.study.tune import tune, tuned_policies, tuning_views

    found = {}
    try:
        views = tuning_views(options.plan, options.data, options.model, options.hash_trace)
        names = tuned_policies(options.plan) if options.policies == "all" else options.policies.split(",")
        for name in names:
            found[name] = tune(options.plan, name, views, lambda text: print(text, flush=True), options.jobs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, tuned in found.items():
        print(
            f"{name} best: --policy-params '{json.dumps(tuned.best)}', closes {tuned.score.gap_closed:.4f} of the gap,"
            f" by default {tuned.default_score.gap_closed:.4f}"
        )
    if options.out is not None:
        values = {
            name: {"best": tuned.best, **tuned.score._asdict(), "default": tuned.default}
            | {f"default_{key}": value for key, value in tuned.default_score._asdict().items()}
            for name, tuned in found.items()
        }
        options.out.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
