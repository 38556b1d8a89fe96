"""Numbers of what hybrid models hit at equal memory, out of results/hybrids.jsonl."""

from pathlib import Path
from typing import Any

from milestone3_code.hybrids.table import MEMORY, main_rates, one, read_results, what_to_set
from report.numbers.texts import number


def model_numbers(results: Path) -> dict[str, Any]:
    """What the study of hybrid models found."""
    rows = read_results(results)
    traffic = list(dict.fromkeys(row["traffic"] for row in rows))
    table, advice, less = [], [], []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        alignment = one(own, "memory", memory=MEMORY, layout="groups")["hit_alignment_tokens"]
        rates = [main_rates(own, mix) for mix in traffic]
        table.append([f"`{model}`", number(alignment), *(number(rate, 3) for part in rates for rate in part)])
        found = "; ".join(map(str, what_to_set(own)))
        advice.append([f"`{model}`", found.replace("`", "") or "nothing"])
        less += [model for groups, full, _ in rates if groups < full]
    return {
        "table": table,
        "advice": advice,
        "traffic": traffic,
        "models": number(len(table)),
        "memory": MEMORY.replace("GiB", " GiB"),
        "requests": number(rows[0]["requests"]),
        "less_than_full": list(dict.fromkeys(less)),
    }
