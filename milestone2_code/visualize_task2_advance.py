#!/usr/bin/env python3
"""Draws the deeper plots of study one into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from milestone2_code.study.plots_deep import draw_deep
from vllm_sim.plots.script import draw

if __name__ == "__main__":
    sys.exit(draw(__doc__, draw_deep, __file__, "compare_multi_vs_single_turn.py"))
