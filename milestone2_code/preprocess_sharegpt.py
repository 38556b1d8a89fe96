#!/usr/bin/env python3
"""Makes two traces out of the same ShareGPT conversations: single-turn (first exchange) and multi-turn (all)."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vllm_sim.terminal import exit_code  # noqa: E402
from vllm_sim.workloads import sharegpt  # noqa: E402
from vllm_sim.workloads.sharegpt_download import FILE  # noqa: E402


def main() -> int:
    default = sharegpt.ChatChoice()
    folder = ROOT / "data" / "sharegpt"
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python milestone2_code/preprocess_sharegpt.py --conversations 500 --min-turns 3",
    )
    parser.add_argument("--input", type=Path, default=folder / FILE, help=f"dump (default: data/sharegpt/{FILE})")
    parser.add_argument("--out", type=Path, default=folder, help="folder of the traces (default: data/sharegpt)")
    parser.add_argument("--model", type=Path, default=ROOT / "exported_models" / "Llama-3.2-1B-Instruct")
    parser.add_argument("--conversations", type=int, default=default.conversations, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the sampling (default: %(default)s)")
    parser.add_argument(
        "--max-tokens", type=int, default=default.max_tokens, help="prompt and response (default: %(default)s)"
    )
    parser.add_argument("--min-turns", type=int, default=default.min_turns, help="default: %(default)s")
    parser.add_argument("--max-turns", type=int, help="default: no limit")
    parser.add_argument("--system-prompt", metavar="TEXT", help="put in front of every conversation")
    parser.add_argument(
        "--active-sessions",
        type=int,
        default=default.active_sessions,
        help="conversations that take turns in the multi-turn trace (default: %(default)s)",
    )
    options = vars(parser.parse_args())
    dump, out, model = options.pop("input"), options.pop("out"), options.pop("model")

    def work() -> None:
        if not dump.is_file():
            raise ValueError(f"no {dump}; first run milestone2_code/download_sharegpt.py")
        result = sharegpt.preprocess(dump, model, out, sharegpt.ChatChoice(**options))
        print(
            f"{result['conversations']} conversations: {out / sharegpt.SINGLE_TURN} "
            f"({result['single_turn_requests']} requests), {out / sharegpt.MULTI_TURN} "
            f"({result['multi_turn_requests']} requests); what was dropped: {out / sharegpt.REPORT}"
        )

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
