#!/usr/bin/env python3
"""Draws the plots of study three into figures/, from the rows in results/ alone."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    from milestone3_code.routing.plots import draw_routing
    from vllm_sim.plots.script import draw

    return draw(__doc__, draw_routing, ROOT, "compare_routers.py")


if __name__ == "__main__":
    sys.exit(main())
