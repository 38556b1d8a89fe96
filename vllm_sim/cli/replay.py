"""`vllm-sim replay`."""

import argparse
import json
from pathlib import Path
from typing import Any

from vllm_sim.cli.running import add_config_options, config_from, quieten_vllm
from vllm_sim.terminal import progress_bar, say, show_table


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "replay",
        help="run a trace through vLLM's engine in virtual time, or through its cache alone",
        description="Writes summary.jsonl, requests.jsonl, sessions.jsonl and run.json into a folder; the engine adds "
        "evictions.jsonl and blocks.jsonl. Fields and units: vllm_sim/replay/rows.py and summary.py.",
        epilog="example: vllm-sim replay trace.jsonl --out runs/first --capacity-blocks 1000 --concurrency 8",
    )
    parser.add_argument("trace", type=Path, metavar="TRACE", help="trace in the native format")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files of the run")
    add_config_options(parser, backend="engine", is_grid=False)
    parser.add_argument("--timeline", type=Path, metavar="FILE", help="engine: write a trace that Perfetto opens")
    parser.add_argument("--expect", type=Path, metavar="FILE", help="a stored summary.jsonl whose hits must come again")
    parser.add_argument("--json", action="store_true", help="print the summary row as JSON")
    parser.set_defaults(run=run_replay)


def run_replay(options: argparse.Namespace) -> int:
    quieten_vllm()
    from vllm_sim.replay.expect import differences, read_expected
    from vllm_sim.replay.files import replay

    config = config_from(options)
    stored = read_expected(options.expect) if options.expect else None
    with progress_bar("requests") as progress:
        summary = replay(options.trace, options.out, config, progress, options.timeline)
    if options.json:
        print(json.dumps(summary.to_row(), ensure_ascii=False))
    else:
        row = summary.to_row()
        _print_table(row, _units(row, options.trace, config.model))
    if stored is None:
        return 0
    found = differences(options.expect, stored, summary)
    for line in found:
        say(f"vllm-sim: {line}", to_stderr=True)
    return 1 if found else 0


def _units(row: dict[str, Any], trace: Path, model: str | None) -> list[tuple[str, str]]:
    """The capacity as a sweep's table has it; nothing of an unlimited one, or where no unit goes with the model."""
    from vllm_sim.sweep.runs import traffic
    from vllm_sim.sweep.units import HEADS, units_of

    blocks, size = row["capacity_blocks"], row["block_size"]
    if blocks is None or "cache_groups" in row:  # there a block is no number of tokens
        return []
    units = units_of(blocks, size, row.get("working_set_blocks"), model, traffic(trace, model))
    return [(f"capacity, {head}", text) for head, text in zip(HEADS, units.texts(), strict=True) if text]


def _print_table(summary: dict[str, Any], units: list[tuple[str, str]]) -> None:
    values = [(name, _shown(value)) for name, value in summary.items() if _shown(value)] + units
    show_table(f"{summary['trace']}: {summary['backend']}, {summary['policy']}", ("what", "value"), values)
    for group in ("by_workload", "by_turn", "by_replica"):
        if summary.get(group):
            rows = [
                (name, f"{row['requests']:,}", f"{row['prompt_tokens']:,}", f"{row['token_hit_rate']:.4f}")
                for name, row in summary[group].items()
            ]
            show_table(group, (group.removeprefix("by_"), "requests", "prompt tokens", "token hit rate"), rows)


def _shown(value: object) -> str:
    """A number as a table has it; nothing for other values."""
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else ""
