#!/usr/bin/env python3
"""Draws the plot of what hints are worth into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from milestone3_code.hints.plots import draw_hints  # noqa: E402
from vllm_sim.plots.script import draw  # noqa: E402

if __name__ == "__main__":
    sys.exit(draw(__doc__, draw_hints, ROOT, "compare_hints.py"))
