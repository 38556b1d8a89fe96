#!/usr/bin/env python3
"""Runs GPU memory against CPU memory over mixes of study two; rows go into results/tiers.jsonl."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    from milestone3_code.study import command

    parser = command.study_parser(__doc__, "tiers.toml", "build_mixes.py", "visualize_tiers.py")
    command.add_hash_trace(parser)
    options = parser.parse_args()

    def work(progress: command.Progress) -> None:
        from milestone3_code.study.tiers import run_tiers, tier_mixes

        study = command.study_of(options, tier_mixes(options.plan, options.quick))
        run_tiers(options.plan, study, command.say, options.jobs, progress)

    return command.run_command(work)


if __name__ == "__main__":
    sys.exit(main())
