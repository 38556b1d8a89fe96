#!/usr/bin/env python3
"""Draws the main plots of study one into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from milestone2_code.study.plots import draw_main  # noqa: E402
from vllm_sim.plots.script import draw  # noqa: E402

if __name__ == "__main__":
    sys.exit(draw(__doc__, draw_main, ROOT, "compare_multi_vs_single_turn.py"))
