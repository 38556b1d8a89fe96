"""The tables of the study of hints in docs/results.md, made from its rows."""

from collections.abc import Sequence
from pathlib import Path

from milestone3_code.hints.numbers import (
    BAR,
    POLICIES,
    cases,
    client_gain,
    closed,
    load,
    of_case,
    words,
    workload_gains,
)
from milestone3_code.hints.rows import FILE
from milestone3_code.study.drawing import values
from milestone3_code.study.names import arrivals
from vllm_sim.replay.rows import Row

CASES = "nothing", "right"
"""What is said in the table of mixes."""


def section(results: Path) -> str:
    """What hints close of the gap, by what is said and by mix, who pays, and the engine, in Markdown.

    Raises:
        ValueError: the rows are of a quick run, or one that is needed is not there.
    """
    if not (results / FILE).is_file():
        return f"No rows yet: `make study` writes `results/{FILE}`, and then these tables."
    rows = load(results)
    return "\n\n".join((_worth(rows), _mixes(rows), _pays(rows), _engine(rows)))


def _worth(rows: Sequence[Row]) -> str:
    found = cases(rows)
    lines = [f"| gap closed, clients say | {' | '.join(f'`{policy}`' for policy in POLICIES)} |", "|---" * 4 + "|"]
    for text in dict.fromkeys(words(of_case(rows, case)[0]) for case in found):
        own = [case for case in found if words(of_case(rows, case)[0]) == text]
        by_policy = {case.policy: case for case in own}
        cells = [closed(rows, by_policy[policy]).percent() + " %" if policy in by_policy else "" for policy in POLICIES]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    best = max((case for case in found if case.said == CASES[1]), key=lambda case: closed(rows, case).mean)
    reached = closed(rows, best)
    verdict = "reached" if reached.low >= BAR else "not surely reached" if reached.mean >= BAR else "not reached"
    lines.append(f"\nThe aim was {BAR:.0%} with hints: {verdict}, {reached.percent()} % under `{best.policy}`.")
    return "\n".join(lines)


def _mixes(rows: Sequence[Row]) -> str:
    shown = [case for case in cases(rows) if case.said in CASES]
    heads = [f"`{case.policy}`, {words(of_case(rows, case)[0])}" for case in shown]
    lines = [f"| gap closed in the mix | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for mix in values(of_case(rows, shown[0]), "mix"):
        lines.append(f"| {mix} | {' | '.join(closed(rows, case, mix).percent() + ' %' for case in shown)} |")
    return "\n".join(lines)


def _pays(rows: Sequence[Row]) -> str:
    parts = []
    for case in cases(rows):
        example = of_case(rows, case)[0]
        if "by_client" in example:
            gains = [
                f"{client} clients {client_gain(rows, case, client, 'gain_over_silence_tokens').percent()}"
                for client in ("speaking", "silent")
            ]
            parts.append(f"`{case.policy}` ({words(example)}): {', '.join(gains)}")
    lines = [
        f"Who pays, in points of token hit rate over the same policy where nobody says anything: {'; '.join(parts)}."
    ]
    for case in cases(rows):
        if case.said == CASES[1]:
            of_workloads = workload_gains(rows, case, "gain_over_silence_tokens")
            least, most = (choose(of_workloads, key=lambda one: one.gain.mean) for choose in (min, max))
            lines.append(
                f"Under `{case.policy}` with right hints from all, what gains least is {least.workload} in "
                f"`{least.mix}` ({least.gain.percent()}), what gains most {most.workload} in `{most.mix}` "
                f"({most.gain.percent()})."
            )
    return " ".join(lines)


def _engine(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row["backend"] == "engine"]
    lines = [
        "| engine | policy | clients say | token hit rate, % | TTFT p50, ms | TTFT p99, ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        times = [f"{row[name]:.1f}" for name in ("ttft_ms_p50", "ttft_ms_p99")]
        cells = [row["mix"], f"`{row['policy']}`", words(row), f"{100 * row['token_hit_rate']:.1f}", *times]
        lines.append(f"| {' | '.join(cells)} |")
    first = found[0]
    lines.append(
        f"\nEach mix in vLLM's engine in virtual time, {', '.join(first['capacities'])} of its working set, "
        f"{arrivals(first)}, one seed."
    )
    return "\n".join(lines)
