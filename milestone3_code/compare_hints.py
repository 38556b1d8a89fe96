#!/usr/bin/env python3
"""Runs what hints of clients are worth over the mixes of study two; rows go into results/hints.jsonl."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    from milestone3_code.study import command

    parser = command.study_parser(__doc__, "hints.toml", "build_mixes.py", "visualize_hints.py")
    command.add_part(parser)
    options = parser.parse_args()

    def work(progress: command.Progress) -> None:
        from milestone3_code.hints.plan import read_plan
        from milestone3_code.hints.rows import run_study

        plan = read_plan(options.plan, options.quick)
        study = command.study_of(options, plan.mixes)
        run_study(plan, study, command.say, command.parts_of(options), options.jobs, progress)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
