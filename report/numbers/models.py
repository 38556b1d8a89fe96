"""Numbers of what hybrid models hit at equal memory, out of results/hybrids.jsonl."""

from pathlib import Path
from typing import Any

from milestone3_code.hybrids.table import MEMORY, main_rates, one, read_results, what_to_set
from report.numbers.texts import number, points, rate


def model_numbers(results: Path) -> dict[str, Any]:
    """What the study of hybrid models found."""
    rows = read_results(results)
    traffic = list(dict.fromkeys(row["traffic"] for row in rows))
    table, advice, less, over_full = [], [], [], []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        alignment = one(own, "memory", memory=MEMORY, layout="groups")["hit_alignment_tokens"]
        rates = [main_rates(own, mix) for mix in traffic]
        table.append([f"`{model}`", number(alignment), *(rate(share) for part in rates for share in part)])
        advice += [
            (
                option.gain,
                [
                    f"`{model}`",
                    option.option.removeprefix("policy "),
                    points(option.gain, 1),
                    f"{option.reason} misses",
                ],
            )
            for option in what_to_set(own)[:1]
        ]
        over_full += [groups - full for groups, full, _ in rates]
        less += [model for groups, full, _ in rates if groups < full]
    best = None
    if advice:
        _, (model, option, gain, _) = max(advice, key=lambda one: one[0])
        best = {"model": model.strip("`"), "option": option.replace("`", ""), "gain": gain}
    return {
        "table": table,
        "advice": [line for _, line in advice],
        "advised": number(len(advice)),
        "best_advice": best,
        "least_over": points(min(over_full), 1),
        "most_over": points(max(over_full), 1),
        "traffic": traffic,
        "models": number(len(table)),
        "memory": MEMORY.replace("GiB", " GiB"),
        "requests": number(rows[0]["requests"]),
        "less_than_full": list(dict.fromkeys(less)),
    }
