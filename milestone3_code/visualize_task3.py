#!/usr/bin/env python3
"""Draws the main plots of study two into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from milestone3_code.study.plots import draw_main
from vllm_sim.plots.script import draw

if __name__ == "__main__":
    sys.exit(draw(__doc__, draw_main, __file__, "compare_policies.py"))
