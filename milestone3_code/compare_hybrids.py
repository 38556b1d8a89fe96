#!/usr/bin/env python3
"""Runs what hybrid models hit at equal memory, over two of the mixes; rows go into results/hybrids.jsonl."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    from milestone3_code.study import command

    parser = command.study_parser(__doc__, "hybrids.toml", "build_mixes.py", "visualize_hybrids.py")
    parser.add_argument("--made", type=Path, help="folder of traces and models that are made (default: data/hybrids)")
    options = parser.parse_args()

    def work(progress: command.Progress) -> None:
        from milestone3_code.hybrids.plan import read_plan
        from milestone3_code.hybrids.rows import Study, run_study

        top = command.top_of(options)
        study = Study(
            mixes=options.data,
            tokeniser=options.model,
            data=options.made or (top if options.quick else top / "data") / "hybrids",
            results=options.out or top / "results",
            quick=options.quick,
        )
        study.results.mkdir(parents=True, exist_ok=True)
        run_study(read_plan(options.plan, options.quick), study, command.say, options.jobs, progress)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
