#!/usr/bin/env python3
"""Draws the plots of study three into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from milestone3_code.routing.plots import draw_routing
from vllm_sim.plots.script import draw

if __name__ == "__main__":
    sys.exit(draw(__doc__, draw_routing, __file__, "compare_routers.py"))
