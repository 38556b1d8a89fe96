#!/usr/bin/env python3
"""Runs the single-turn and the multi-turn trace of the same chats through the cache; rows go into results/."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # before vllm is imported
    from vllm_sim.study.chat.run import Study, run_cache_cells, run_engine_cells

    parser = argparse.ArgumentParser(
        description=__doc__, epilog="the step before is preprocess_sharegpt.py, the next one visualize_task2.py"
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "sharegpt", help="default: data/sharegpt")
    parser.add_argument("--model", default=str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct"))
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the rows (default: results)")
    parser.add_argument("--part", choices=("cache", "engine", "all"), default="all", help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer cells, and rows that are marked as quick")
    options = parser.parse_args()
    study = Study(data=options.data, model=options.model, results=options.out, quick=options.quick)
    for workload in ("single", "multi"):
        if not study.trace(workload).is_file():
            print(f"error: no {study.trace(workload)}; first run preprocess_sharegpt.py", file=sys.stderr)
            return 1
    end = "\r" if sys.stderr.isatty() else "\n"

    def say(text: str) -> None:
        print(f"{text:<50}", end=end, file=sys.stderr, flush=True)

    if options.part != "cache":  # first: the engine sets the platform, before blockpool imports vllm
        run_engine_cells(study, say)
    if options.part != "engine":
        run_cache_cells(study, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
