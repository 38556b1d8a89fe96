#!/usr/bin/env python3
"""Gets the texts that the mixes need (what is there is not got again) and builds the mixes into data/mixes."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from milestone3_code.study.build import build_mixes, fetch  # noqa: E402
from vllm_sim.terminal import exit_code  # noqa: E402


def main() -> int:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="the next step: compare_policies.py, compare_routers.py"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in report_even (default: all)")
    parser.add_argument("--configs", type=Path, default=here / "mixes", help="default: milestone3_code/mixes")
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "mixes", help="default: data/mixes")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="traces of each mix, by seeds (default: 1)")
    parser.add_argument("--no-download", action="store_true", help="fail where a text is missing")
    parser.add_argument("--force", action="store_true", help="build mixes that are there as well")
    options = parser.parse_args()
    configs = sorted(options.configs.glob("*.toml"))

    def work() -> None:
        unknown = set(options.names) - {config.stem for config in configs}
        if unknown:
            allowed = ", ".join(config.stem for config in configs)
            raise ValueError(f"no mix {', '.join(sorted(unknown))}; allowed: {allowed}")
        if options.seeds < 1:
            raise ValueError(f"--seeds is {options.seeds}; allowed: 1 or more")
        if not options.no_download:
            fetch(here / "mixed.toml", ROOT, print)
        chosen = [config for config in configs if not options.names or config.stem in options.names]
        build_mixes(chosen, options.out, options.force, print, options.seeds)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
