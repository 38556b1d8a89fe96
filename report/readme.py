"""The tables of the README and of docs/results.md, made from rows: `python -m report.readme`.

Each table stands between two comments, `<!-- NAME: begin -->` and `<!-- NAME: end -->`, and replaces what is there.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rows import read_bench
from benchmarks.rows import table as bench_table
from milestone2_code.study.study import ORACLE
from milestone3_code.hints import table as hints
from milestone3_code.hybrids import table as hybrids
from milestone3_code.routing import table as routing
from milestone3_code.routing.plan import RUNS
from milestone3_code.study import table as mixed
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_rows

Section = Callable[[Path], str]
"""Markdown out of the folder of rows."""


def table(rows: Sequence[Row]) -> str:
    """The lines of the table, in Markdown.

    Raises:
        ValueError: a row comes from a quick run, or one that is needed is not there.
    """
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_multi_vs_single_turn.py without --quick")
    unlimited = [_row(rows, "capacity", name, capacity_share=None) for name in ("single", "multi")]
    small = [_row(rows, "capacity", name, capacity_share=0.1) for name in ("single", "multi")]
    lines = [
        "| | single-turn | multi-turn |",
        "|---|---|---|",
        _line("conversations", [f"{row['conversations']:,}" for row in unlimited]),
        _line("requests that count", [f"{row['requests']:,}" for row in unlimited]),
        _line("10% of the working set, GiB of `Llama-3.2-1B`", [f"{row['capacity_gib']:.1f}" for row in small]),
        _line("the same in seconds of traffic", [f"{row['capacity_seconds']:,.0f}" for row in small]),
    ]
    for name in ("token", "block", "request"):
        rate = f"{name}_hit_rate"
        lines.append(_line(f"{name} hit rate, unlimited cache, %", [_rate(row, rate) for row in unlimited]))
    rest: list[tuple[str, str, dict[str, Any], str]] = [
        (f"token hit rate, {share:.0%} of the working set, %", "capacity", {"capacity_share": share}, "token_hit_rate")
        for share in (0.5, 0.2, 0.1)
    ]
    for words, policy in (
        ("the same under `hybrid`", "hybrid"),
        ("the same under LRU with a session-end oracle (it knows which blocks no later request asks for)", ORACLE),
        ("the same under the optimum (`belady`)", "belady"),
    ):
        rest.append((words, "policy", {"capacity_share": 0.1, "policy": policy}, "token_hit_rate"))
    for size in (64, 512):
        wanted = {"capacity_share": None, "block_size": size}
        rest.append((f"token hit rate, blocks of {size}, unlimited", "block_size", wanted, "token_hit_rate"))
    prompt = "token hit rate with a shared system prompt, unlimited"
    rest.append((prompt, "system_prompt", {"capacity_share": None}, "token_hit_rate"))
    for words, experiment, wanted, field in rest:
        found = [_row(rows, experiment, name, **wanted) for name in ("single", "multi")]
        lines.append(_line(words, [_rate(row, field) for row in found]))
    return "\n".join(lines)


def backends(rows: Sequence[Row], engine: Sequence[Row]) -> str:
    """The lines of a second table: what the backends say of the same runs, LRU, and the engine's times.

    The first rows of a workload have one request after the other and are equal; else requests overlap.
    """
    lines = [
        "| LRU | capacity | requests | hit tokens | hit rate, % | TTFT p50, ms | TTFT p99, ms | output tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("single", "multi"):
        chosen = [row for row in rows if row["experiment"] == "agree" and row["workload"] == name]
        timed = [row for row in engine if row["workload"] == name]
        timed.sort(key=lambda row: (not row["arrival"].endswith("concurrency 1"), row["arrival"]))
        for row in (*chosen, *timed):
            sent = row.get("arrival", "one after the other").removeprefix("closed, ")
            if sent.startswith("open"):
                sent = f"{row['sessions_per_s']:g} sessions/s"
            share = "unlimited" if row["capacity_share"] is None else f"{row['capacity_share']:.0%}"
            values = [share, sent, f"{row['hit_tokens']:,}", f"{100 * row['token_hit_rate']:.1f}"]
            values += [_spread(row, field, ".1f") for field in ("ttft_ms_p50", "ttft_ms_p99")]
            values.append(_spread(row, "output_tokens_per_s", ",.0f"))
            lines.append(_line(f"{name}-turn, `{row['backend']}`", values))
    return "\n".join(lines)


def _rate(row: Row, field: str) -> str:
    """A share in per cent, and its interval."""
    ends = [100 * end for end in row[f"{field}_ci95"]]
    return _spread({field: 100 * row[field], f"{field}_ci95": ends}, field, ".1f")


def _spread(row: Row, field: str, form: str) -> str:
    """A number, and its interval where the row has one; nothing where the row has no such number."""
    if field not in row:
        return ""
    low, high = row.get(f"{field}_ci95", (None, None))
    return f"{row[field]:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def section(results: Path) -> str:
    """Both tables of study one.

    Raises:
        ValueError: the rows are not results.
    """
    rows = read_rows(results / "chat.jsonl")
    return f"{table(rows)}\n\n{backends(rows, read_rows(results / 'chat_engine.jsonl'))}"


def findings(results: Path) -> str:
    """What the studies found, in a few lines.

    Raises:
        ValueError: the rows are not results.
    """
    chat, mixes, gaps = read_rows(results / "chat.jsonl"), read_rows(results / "mixed.jsonl"), mixed.read_gaps(results)
    if any(row["quick"] for row in (*chat, *mixes)):
        raise ValueError("rows of a quick run are no results; run the studies without --quick")
    single, multi = (_row(chat, "capacity", name, capacity_share=None) for name in ("single", "multi"))
    tenth = {"capacity_share": 0.1}
    lru, best = (_row(chat, "policy", "multi", policy=policy, **tenth) for policy in ("lru", "belady"))
    whole = mixed.gap(gaps, "hybrid")
    closed = ", ".join(f"`{name}` {mixed.percent(mixed.gap(gaps, name), 'gap_closed')} %" for name in ("hybrid", "arc"))
    shown = [
        share for share in mixed.GAP_SHARES if mixed.gap(gaps, "belady", share)["gain_over_lru"] >= mixed.LEAST_GAP
    ]
    by_share = ", ".join(f"{100 * mixed.gap(gaps, 'hybrid', share)['gap_closed']:.0f} % at {share}" for share in shown)
    count = f"{len({row['mix'] for row in gaps} - {mixed.ALL})} mixes"
    shares = f"capacities of {mixed.GAP_SHARES[0]} to {mixed.GAP_SHARES[-1]}"
    runs = mixed.distinct(mixes)
    worst = 100 * min(row["gain_over_lru"] for row in runs)
    in_engine = mixed.engine_shares(read_rows(results / mixed.ENGINE))[1.0]
    loss = mixed.lost_most(gaps)
    mix_gain = 100 * loss.row["gain_over_lru"]
    rate, blocks = "token_hit_rate", f"blocks of {mixed.MAIN_BLOCK}"
    lines = [
        "| question | answer | condition |",
        "|---|---|---|",
        _line(
            "What do the turns of a chat share, and what does a small cache keep of it?",
            [
                f"{_rate(multi, rate)} % of their prompt tokens, first exchanges alone {_rate(single, rate)} %; in a "
                f"cache of 10% of the conversations LRU keeps {_rate(lru, rate)} %, the optimum {_rate(best, rate)} %",
                f"{multi['conversations']:,} ShareGPT conversations, {blocks}",
            ],
        ),
        _line(
            "How much of the gap between LRU and the optimum does a policy close?",
            [
                f"{closed}; `hybrid` by capacity: {by_share}; under vLLM's scheduler, where requests overlap, "
                f"{mixed.in_words(in_engine)}",
                f"{count} of chat, agents, documents, few-shot and one-off calls, {whole['seeds']} seeds each, "
                f"{shares}, {blocks}; the scheduler: one seed, the mixes' own load",
            ],
        ),
        _line(
            "What can `hybrid` lose against LRU?",
            [
                f"{worst:+.2f} points of token hit rate; one workload within a mix ({loss.workload}) "
                f"{100 * loss.gain:+.1f}, while the mix gains {mix_gain:+.1f}",
                f"the worst of {len(runs):,} runs; the worst workload of the {count}",
            ],
        ),
    ]
    if (results / RUNS).is_file():
        lines.append(
            _line(
                "What is a better router worth, and a better policy?",
                routing.finding(results),
            )
        )
    return "\n".join(lines)


def measured(results: Path) -> str:
    """What `make bench` measured.

    Raises:
        ValueError: there is no results/bench.json.
    """
    return bench_table(read_bench(results / "bench.json"))


PAGES: Mapping[str, Mapping[str, Section]] = {
    "README.md": {"findings": findings},
    "docs/models.md": {"hybrids": hybrids.section},
    "docs/results.md": {
        "study one": section,
        "study two": mixed.section,
        "hints": hints.section,
        "study three": routing.section,
        "measured": measured,
    },
}


def rewrite(page: Path, sections: Mapping[str, Section], results: Path) -> None:
    """Puts the tables between the comments.

    Args:
        page: the Markdown file.
        sections: by the name in the comments, what makes the table.
        results: folder of rows.

    Raises:
        ValueError: a comment is missing, or the rows are not results.
    """
    text = page.read_text(encoding="utf-8")
    for name, make in sections.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, found_begin, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            raise ValueError(f"{page} lacks {begin} or {end}")
        text = f"{before}{begin}\n{make(results)}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


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
    parser.add_argument("--root", type=Path, default=Path(), help="folder of README.md and docs/ (default: this one)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of rows (default: %(default)s)")
    options = parser.parse_args()
    for page, sections in PAGES.items():
        rewrite(options.root / page, sections, options.results)


if __name__ == "__main__":
    main()
