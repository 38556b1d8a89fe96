#!/usr/bin/env python3
"""Draws the deeper plots of study one into figures/, from the rows in results/ alone."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    from vllm_sim.study.chat.plots_deep import draw_deep

    parser = argparse.ArgumentParser(description=__doc__, epilog="the step before is compare_multi_vs_single_turn.py")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="default: results")
    parser.add_argument("--out", type=Path, default=ROOT / "figures", help="default: figures")
    options = parser.parse_args()
    try:
        for path in draw_deep(options.results, options.out):
            print(path)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
