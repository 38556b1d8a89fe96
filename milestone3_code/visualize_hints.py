#!/usr/bin/env python3
"""Draws the plot of what hints are worth into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    from milestone3_code.hints.plots import draw_hints
    from vllm_sim.plots.script import draw

    return draw(__doc__, draw_hints, ROOT, "compare_hints.py")


if __name__ == "__main__":
    sys.exit(main())
