"""What to set for which model: a table out of the rows of the study."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from milestone3_code.hybrids.rows import ROWS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_rows

MEMORY = "8GiB"
WORTH = 0.005
"""The least gain in token hit rate, mean over the mixes, for which an option is set."""


def section(results: Path) -> str:
    """The table, in Markdown.

    Args:
        results: folder of the rows.

    Raises:
        ValueError: the rows are of a quick run, or one that is needed is not there.
    """
    rows = read_rows(results / ROWS)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_hybrids.py without --quick")
    traffic = list(dict.fromkeys(row["traffic"] for row in rows))
    heads = ["model", "hits are multiples of"]
    heads += [f"{mix}: {MEMORY}, if all layers were full, unlimited" for mix in traffic]
    lines = [" | ".join(["", *heads, "set", ""]).strip(), "|" + "---|" * (len(heads) + 1)]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        found = _rate_rows(own, experiment="memory", memory=MEMORY, layout="groups")
        cells = [f"`{model}`", f"{found[0]['hit_alignment_tokens']:,}"]
        for mix in traffic:
            places = ((MEMORY, "groups"), (MEMORY, "full"), ("unlimited", "groups"))
            chosen = [
                _one(own, traffic=mix, experiment="memory", memory=memory, layout=kind) for memory, kind in places
            ]
            cells.append(", ".join(f"{row['token_hit_rate']:.3f}" for row in chosen))
        lines.append(f"| {' | '.join([*cells, what_to_set(own)])} |")
    return "\n".join(lines)


def what_to_set(rows: Sequence[Row]) -> str:
    """The options of a model that are worth it, each with its gain in points of token hit rate.

    Args:
        rows: of the model.
    """
    options = [row for row in rows if row["experiment"] == "options"]
    plain = {"retention": "default", "match_unit": 0, "block_size": 16}
    names = {"retention": "prefix_cache_retention_interval", "match_unit": "prefix_match_unit"}
    found = [
        (_gain(options, plain, plain | {field: value}), f"`{names.get(field, field)}` {value}")
        for field, usual in plain.items()
        for value in dict.fromkeys(row[field] for row in options)
        if value != usual and any(row[field] == value for row in options)
    ]
    policies = [row for row in rows if row["experiment"] == "policy"]
    found += [
        (_gain(policies, {"policy": "lru"}, {"policy": name}), f"policy `{name}`")
        for name in dict.fromkeys(row["policy"] for row in policies)
        if name != "lru"
    ]
    worth = sorted((one for one in found if one[0] >= WORTH), reverse=True)
    return "; ".join(f"{words} ({100 * gain:+.1f})" for gain, words in worth) or "nothing"


def _gain(rows: Sequence[Row], before: Row, after: Row) -> float:
    """Mean over the mixes of what the rows with some values hit more than those with others."""
    rates = [mean(row["token_hit_rate"] for row in _rate_rows(rows, **values)) for values in (before, after)]
    return rates[1] - rates[0]


def _rate_rows(rows: Sequence[Row], **wanted: str | int) -> list[Row]:
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    if not found:
        raise ValueError(f"no row of {wanted}; run compare_hybrids.py")
    return found


def _one(rows: Sequence[Row], **wanted: str | int) -> Row:
    return _rate_rows(rows, **wanted)[0]
