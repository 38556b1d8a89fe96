#!/usr/bin/env python3
"""Runs the experiments of study two over the mixes; rows go into results/mixed*.jsonl."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    from milestone3_code.study import command

    parser = command.study_parser(__doc__, "study.toml", "build_mixes.py", "visualize_task3.py")
    command.add_part(parser)
    command.add_hash_trace(parser)
    options = parser.parse_args()

    def work(progress: command.Progress) -> None:
        from milestone3_code.study.plan import mixes
        from milestone3_code.study.run import run_study

        study = command.study_of(options, mixes(options.plan, options.quick))
        run_study(options.plan, study, command.say, command.parts_of(options), options.jobs, progress)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
