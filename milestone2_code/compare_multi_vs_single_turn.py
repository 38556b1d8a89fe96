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
    from milestone2_code.study.run import ENGINE_FILE, FILE, run_study
    from milestone2_code.study.study import Study
    from vllm_sim.terminal import exit_code, progress_bar

    parser = argparse.ArgumentParser(
        description=__doc__, epilog="the step before is preprocess_sharegpt.py, the next one visualize_task2.py"
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "sharegpt", help="default: data/sharegpt")
    parser.add_argument("--model", default=str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct"))
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the rows (default: results)")
    parser.add_argument("--part", choices=("cache", "engine", "all"), default="all", help="default: all")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="fewer runs, and rows that are marked as quick")
    options = parser.parse_args()
    study = Study(data=options.data, model=options.model, results=options.out, quick=options.quick)
    parts = {"cache": (FILE,), "engine": (ENGINE_FILE,), "all": (ENGINE_FILE, FILE)}[options.part]

    def work() -> None:
        for workload in ("single", "multi"):
            if not study.trace(workload).is_file():
                raise ValueError(f"no {study.trace(workload)}; first run preprocess_sharegpt.py")
        with progress_bar("rows") as progress:
            run_study(study, lambda text: print(text, file=sys.stderr), parts, options.jobs, progress)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
