"""`vllm-sim explain`: where the hits were lost."""

import argparse
import json
from pathlib import Path
from typing import Any

from vllm_sim.cli.running import add_config_options, config_from, quieten_vllm
from vllm_sim.terminal import progress_bar, show_table


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "explain",
        help="the ladder: what cost the hits of a run - the trace, vLLM's rules, capacity, routing, policy, schedule",
        description="Runs a trace on every level of the ladder and charges each prompt token that was computed to one "
        "step. With --out: ladder.jsonl (sums), ladder_requests.jsonl, ladder.png, ladder.pdf, ladder.html (a page).",
        epilog="example: vllm-sim explain trace.jsonl --capacity-blocks 4000 --replicas 4 --router session",
    )
    parser.add_argument("trace", type=Path, metavar="TRACE", help="trace in the native format")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for rows, the plot and the page")
    add_config_options(parser, backend="fast", is_grid=False)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    parser.set_defaults(run=run_explain)


def run_explain(options: argparse.Namespace) -> int:
    quieten_vllm()
    from vllm_sim.replay.ladder import explain, file_rows, ladder_requests
    from vllm_sim.replay.rows import write_rows
    from vllm_sim.replay.run import load

    config = config_from(options)
    loaded = load(options.trace, config.model)
    with progress_bar("requests") as progress:
        ladder = explain(loaded, config, lambda done: progress(done, len(loaded.records)))
    rows = file_rows(ladder)
    if options.out is not None:
        from vllm_sim.plots.ladder import draw_ladder
        from vllm_sim.plots.page import write_page

        write_rows(options.out / "ladder.jsonl", rows)
        write_rows(options.out / "ladder_requests.jsonl", ladder_requests(ladder))
        draw_ladder(rows, options.out)
        write_page({options.out / "ladder.jsonl": rows}, options.out / "ladder.html")
    if options.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _print_tables(rows)
    return 0


def _print_tables(rows: list[dict[str, Any]]) -> None:
    whole, *parts = rows
    total = whole["prompt_tokens"]
    lines = [("prompt", f"{total:,}", "1.0000", "")]
    for name, tokens in whole["steps"].items():
        negative = whole["negative_requests"].get(name)
        lines.append(
            (f"- {name}", f"{tokens:,}", f"{tokens / total:.4f}", "never" if negative is None else f"{negative:,}")
        )
    left = total - whole["computed_tokens"]
    lines.append(("= found cached", f"{left:,}", f"{left / total:.4f}", ""))
    fleet = f", {whole['replicas']} replicas, {whole['router']}" if "replicas" in whole else ""
    title = f"{whole['trace']}: {whole['backend']}, {whole['policy']}{fleet}"
    show_table(title, ("step", "prompt tokens", "share", "requests below 0"), lines)
    for by in dict.fromkeys(row["by"] for row in parts):
        found = [row for row in parts if row["by"] == by]
        names = list(whole["steps"])
        table = [
            (
                row["value"],
                f"{row['prompt_tokens']:,}",
                *(f"{row['steps'][name] / row['prompt_tokens']:.4f}" for name in names),
            )
            for row in found
        ]
        show_table(f"shares of the prompt tokens, by {by}", (by, "prompt tokens", *names), table)
