#!/usr/bin/env python3
"""Runs study three (routing, eviction, capacity) over mixes and hash traces; rows go into results/routing*.jsonl."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    from milestone3_code.study import command

    parser = command.study_parser(__doc__, "routing.toml", "build_mixes.py --seeds 4", "visualize_routing.py")
    command.add_part(parser)
    command.add_hash_trace(parser)
    options = parser.parse_args()

    def work(progress: command.Progress) -> None:
        from milestone3_code.routing.plan import size_of
        from milestone3_code.routing.run import run_study

        study = command.study_of(options, size_of(options.plan, options.quick).mixes)
        run_study(options.plan, study, command.say, command.parts_of(options), options.jobs, progress)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
