"""Numbers of the comparison with real execution, out of results/parity.json and results/upstream_tests.json."""

import json
from pathlib import Path
from typing import Any

from report.numbers.texts import number

Numbers = dict[str, Any]
PARITY, UPSTREAM = "make parity", "python -m parity.upstream_tests"
TALLIED = ("steps", "requests", "preemptions", "evictions", "chunked_prefills")


def parity_numbers(results: Path) -> Numbers:
    """What `make parity` has found.

    Raises:
        ValueError: the file is not there, or not all of it.
    """
    found = _read(results / "parity.json", PARITY)
    try:
        cases, driver, replay, http = (found[name] for name in ("cases", "driver", "replay", "http"))
        table = [[*_case(row), *(number(row[name]) for name in TALLIED), number(row["differences"])] for row in cases]
        return {
            "table": table,
            "cases": number(len(cases)),
            "steps": number(sum(row["steps"] for row in cases)),
            "requests": number(sum(row["requests"] for row in cases)),
            "equal": not any(row["differences"] for row in (*cases, *driver, *replay, *http)),
            "asynchronous": number(sum(row["async_scheduling"] for row in cases)),
            "driver_steps": number(sum(row["steps"] for row in driver)),
            "replay_policies": list(dict.fromkeys(row["policy"] for row in replay)),
            "replays": number(len(replay)),
            "http_requests": number(sum(row["requests"] for row in http)),
            "http_cached": number(sum(row["cached_tokens"] for row in http)),
            "wrong": [row["wrong"] for row in found["wrong_on_purpose"]],
            "wrong_found": all(row["found"] for row in found["wrong_on_purpose"]),
        }
    except KeyError as error:
        raise ValueError(f"{results / 'parity.json'} has no {error}; `{PARITY}` writes it whole") from None


def _case(row: dict[str, Any]) -> list[str]:
    scheduling = "asynchronous" if row["async_scheduling"] else "synchronous"
    arrivals = "one by one" if row["concurrency"] == 1 else "as they arrive"
    return [row.get("model", "llama"), f"`{row['policy']}`", scheduling, arrivals, str(row["seed"])]


def upstream_numbers(results: Path) -> Numbers:
    """What upstream's own tests gave in each of the runs.

    Raises:
        ValueError: the file is not there.
    """
    found = _read(results / "upstream_tests.json", UPSTREAM)
    runs = found["runs"]
    table = [[name, *(number(row[key]) for key in ("passed", "failed", "refused"))] for name, row in runs.items()]
    refused = {name: sum(map(len, row["passed_plain_but_refused"].values())) for name, row in runs.items()}
    listed = [words for row in runs.values() for words in row["passed_plain_but_refused"]]
    what = dict.fromkeys(word for words in listed for word in words.replace(" and ", ", ").split(", "))
    different = list(dict.fromkeys(test for row in runs.values() for test in row["differences"]))
    first, *_, last = runs.values()
    return {
        "vllm": found["vllm"],
        "table": table,
        "files": number(len(found["files"])),
        "same": not different and first["passed"] > 0,
        "different": number(len(different)),
        "such": different[:2],
        "refused": number(max(refused.values())),
        "refused_what": list(what),
        "pools": last["pools"].replace("refused", "upstream's"),
    }


def _read(path: Path, maker: str) -> Numbers:
    if not path.is_file():
        raise ValueError(f"no {path}; `{maker}` writes it")
    found: Numbers = json.loads(path.read_text(encoding="utf-8"))
    return found
