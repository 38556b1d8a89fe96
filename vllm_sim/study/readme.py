"""The README's tables of study one, made from its rows: `python -m vllm_sim.study.readme`, between two comments."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_sim.replay.rows import Row
from vllm_sim.study.results import read_rows

BEGIN, END = "<!-- study one: begin -->", "<!-- study one: end -->"


def table(rows: Sequence[Row]) -> str:
    """The lines of the table, in Markdown.

    Raises:
        ValueError: a row comes from a quick run, or one that is needed is not there.
    """
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_multi_vs_single_turn.py without --quick")
    unlimited = [_row(rows, "capacity", name, capacity_share=None) for name in ("single", "multi")]
    lines = [
        "| | single-turn | multi-turn |",
        "|---|---|---|",
        _line("requests", [f"{row['requests']:,}" for row in unlimited]),
        _line("working set, blocks of 16", [f"{row['working_set_blocks']:,}" for row in unlimited]),
    ]
    for name in ("token", "block", "request"):
        values = [f"{row[f'{name}_hit_rate']:.3f}" for row in unlimited]
        if name == "token":
            ends = [row["token_hit_rate_95"] for row in unlimited]
            values = [f"{v} ({low:.3f} to {high:.3f})" for v, (low, high) in zip(values, ends, strict=True)]
        lines.append(_line(f"{name} hit rate, unlimited cache", values))
    for share in (0.5, 0.2, 0.1):
        cells = [_row(rows, "capacity", name, capacity_share=share) for name in ("single", "multi")]
        lines.append(
            _line(f"token hit rate, {share:.0%} of the working set", [f"{r['token_hit_rate']:.3f}" for r in cells])
        )
    cells = [_row(rows, "policy", name, capacity_share=0.1, policy="opt") for name in ("single", "multi")]
    lines.append(_line("the same under the optimum (`opt`)", [f"{row['token_hit_rate']:.3f}" for row in cells]))
    for size in (64, 512):
        cells = [_row(rows, "block_size", n, capacity_share=None, block_size=size) for n in ("single", "multi")]
        lines.append(
            _line(f"token hit rate, blocks of {size}, unlimited", [f"{row['token_hit_rate']:.3f}" for row in cells])
        )
    cells = [_row(rows, "system_prompt", name, capacity_share=None) for name in ("single", "multi")]
    lines.append(_line("with a shared system prompt, unlimited", [f"{row['token_hit_rate']:.3f}" for row in cells]))
    return "\n".join(lines)


def backends(rows: Sequence[Row], engine: Sequence[Row]) -> str:
    """The lines of a second table: the backends at a tenth of the working set, LRU, and the engine's times.

    The first rows of a workload have one request after the other and are equal; with arrivals requests overlap.
    """
    lines = [
        "| at 10 %, LRU | requests | hit tokens | token hit rate | TTFT p50, p99 | output tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("single", "multi"):
        chosen = [row for row in rows if row["experiment"] == "agree" and row["workload"] == name]
        timed = [row for row in engine if row["workload"] == name and row["capacity_share"] == 0.1]
        timed.sort(key=lambda row: not row["arrival"].startswith("closed"))
        for row in (*chosen, *timed):
            sent = row.get("arrival", "one after the other")
            if sent.startswith("open"):
                sent = f"{row['sessions_per_s']:g} sessions/s"
            times = f"{row['ttft_ms_p50']:.1f}, {row['ttft_ms_p99']:.1f} ms" if "ttft_ms_p50" in row else ""
            speed = f"{row['output_tokens_per_s']:,.0f}" if "output_tokens_per_s" in row else ""
            rate = f"{row['token_hit_rate']:.4f}"
            lines.append(
                _line(f"{name}-turn, `{row['backend']}`", [sent, f"{row['hit_tokens']:,}", rate, times, speed])
            )
    return "\n".join(lines)


def section(results: Path) -> str:
    """Both tables.

    Raises:
        ValueError: the rows are not results.
    """
    rows = read_rows(results / "chat.jsonl")
    return f"{table(rows)}\n\n{backends(rows, read_rows(results / 'chat_engine.jsonl'))}"


def rewrite(readme: Path, results: Path) -> None:
    """Puts the table between the comments.

    Raises:
        ValueError: a comment is missing, or the rows are not results.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme} lacks {BEGIN} or {END}")
    readme.write_text(f"{before}{BEGIN}\n{section(results)}\n{END}{after}", encoding="utf-8")


def _row(rows: Sequence[Row], experiment: str, workload: str, **wanted: Any) -> Row:
    for row in rows:
        found = row["experiment"] == experiment and row["workload"] == workload
        if found and all(row[name] == value for name, value in wanted.items()):
            return row
    raise ValueError(f"no row of {experiment}, {workload}, {wanted}; run compare_multi_vs_single_turn.py")


def _line(name: str, values: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(values)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    rewrite(options.readme, options.results)


if __name__ == "__main__":
    main()
