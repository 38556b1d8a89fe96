#!/usr/bin/env python3
"""Gets the public traces of milestone3_code/traces.toml into data/traces, and says what each one is."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from milestone3_code.study.real_traces import fetch_traces  # noqa: E402
from vllm_sim.terminal import exit_code  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="the next step: compare_policies.py --hash-trace data/traces/NAME"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in mooncake_conversation (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "traces", help="default: data/traces")
    options = parser.parse_args()
    plan = Path(__file__).resolve().parent / "traces.toml"
    return exit_code(lambda: fetch_traces(plan, options.out, print, options.names))


if __name__ == "__main__":
    sys.exit(main())
