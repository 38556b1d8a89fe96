"""What to set for which model: a table out of the rows of the study."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from milestone3_code.hybrids.rows import ROWS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick, pick_one, read_rows

MEMORY = "8GiB"
WORTH = 0.005
"""The least gain in token hit rate, mean over the mixes, for which an option is set."""
USUAL = {"retention": "default", "match_unit": 0, "block_size": 16}
one = partial(pick_one, maker="compare_hybrids.py")
OPTIONS = {"retention": "--prefix-cache-retention-interval", "match_unit": "--prefix-match-unit"}
"""The names of the study's lists in vLLM; those of others are their own."""
REASONS = ("window", "alignment", "evicted")
"""The misses that an option can make fewer."""


class Advice(NamedTuple):
    """An option of a model that is worth it."""

    option: str
    gain: float
    """In token hit rate, mean over the mixes."""
    reason: str
    """Of REASONS, the misses that become fewer by most tokens."""

    def __str__(self) -> str:
        return f"{self.option} ({100 * self.gain:+.1f}, fewer {self.reason} misses)"


def read_results(results: Path) -> list[Row]:
    """The rows.

    Raises:
        ValueError: they are of a quick run.
    """
    rows = read_rows(results / ROWS)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_hybrids.py without --quick")
    return rows


def section(results: Path) -> str:
    """The table, in Markdown; where there are no rows a line that says so.

    Args:
        results: folder of the rows.

    Raises:
        ValueError: the rows are of a quick run, or one that is needed is not there.
    """
    if not (results / ROWS).is_file():
        return f"No rows yet: `make study` writes `results/{ROWS}`, and then this table."
    rows = read_results(results)
    traffic = list(dict.fromkeys(row["traffic"] for row in rows))
    heads = ["model", "hits are multiples of", *traffic, "set"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        alignment = one(own, "memory", memory=MEMORY, layout="groups")["hit_alignment_tokens"]
        cells = [f"`{model}`", f"{alignment:,}"]
        cells += [", ".join(f"{rate:.3f}" for rate in main_rates(own, mix)) for mix in traffic]
        advice = "; ".join(map(str, what_to_set(own)))
        lines.append(f"| {' | '.join([*cells, advice or 'nothing'])} |")
    return "\n".join(lines)


def main_rates(rows: Sequence[Row], traffic: str) -> list[float]:
    """Token hit rates of a model: its groups in MEMORY, full attention in the same bytes, its groups without limit."""
    places = ((MEMORY, "groups"), (MEMORY, "full"), ("unlimited", "groups"))
    found = (one(rows, "memory", traffic=traffic, memory=memory, layout=layout) for memory, layout in places)
    return [row["token_hit_rate"] for row in found]


def what_to_set(rows: Sequence[Row]) -> list[Advice]:
    """The options of a model that are worth it, the best first; each by itself against what is usual.

    Args:
        rows: of the model.
    """
    found = []
    for name, usual in USUAL.items():
        others = dict.fromkeys(row[name] for row in pick(rows, "options") if row[name] != usual)
        for value in others:
            gain = _gain(rows, "options", USUAL, USUAL | {name: value})
            found.append(Advice(f"`{OPTIONS.get(name, '--block-size')} {value}`", *gain))
    for policy in dict.fromkeys(row["policy"] for row in pick(rows, "policy") if row["policy"] != "lru"):
        gain = _gain(rows, "policy", {"policy": "lru"}, {"policy": policy})
        found.append(Advice(f"policy `{policy}`", *gain))
    return sorted((advice for advice in found if advice.gain >= WORTH), key=lambda advice: -advice.gain)


def _gain(rows: Sequence[Row], experiment: str, before: dict[str, Any], after: dict[str, Any]) -> tuple[float, str]:
    """What is gained in token hit rate, mean over the mixes, and which misses became fewer by most tokens."""
    one(rows, experiment, **before)
    new, old = (pick(rows, experiment, **values) for values in (after, before))
    fewer = {name: sum(row[f"miss_{name}_tokens"] for row in old) for name in REASONS}
    for row in new:
        for name in REASONS:
            fewer[name] -= row[f"miss_{name}_tokens"]
    rates = [mean(row["token_hit_rate"] for row in part) for part in (new, old)]
    return rates[0] - rates[1], max(fewer, key=fewer.__getitem__)
