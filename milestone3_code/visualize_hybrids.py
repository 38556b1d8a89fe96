#!/usr/bin/env python3
"""Draws the plot of what hybrid models hit into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from milestone3_code.hybrids.plots import draw_hybrids
from vllm_sim.plots.script import draw

if __name__ == "__main__":
    sys.exit(draw(__doc__, draw_hybrids, __file__, "compare_hybrids.py"))
