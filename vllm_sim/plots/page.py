"""The rows as one page that needs nothing else: no network, no other file.

page.html next to this module is the page; ladder.js, its data, each policy's look (style.py), and the libraries that
draw it are put in here. These are Vega and Vega-Lite (BSD-3-Clause, 0.8 MB of the page) in vega/, as vega/update.sh
fetched them. Plotly's basic bundle is larger and draws without the labels by which a screen reader finds a point.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_sim.plots.grouping import conditions, label, seeds
from vllm_sim.plots.ladder import STEP_WORDS
from vllm_sim.plots.style import look
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import RATES
from vllm_sim.trace.files import open_output

MEASURES = {
    "steps": ("the ladder: where the prompt tokens were lost", "%"),
    "gap_closed": ("share of the gap between LRU and the optimum that is closed", "%"),
    "gain_over_lru": ("gain over LRU", "points"),
    **{name: (words, "%") for name, words in RATES.items()},
    "ttft_ms_p50": ("time to first token, median", "ms"),
    "ttft_ms_p90": ("time to first token, 90th percentile", "ms"),
    "ttft_ms_p99": ("time to first token, 99th percentile", "ms"),
    "tpot_ms_p50": ("time per output token, median", "ms"),
    "e2e_ms_p50": ("time of a request, median", "ms"),
    "output_tokens_per_s": ("output tokens a second", ""),
}
"""What can be shown, in words and its unit; the page computes the first two where LRU and the optimum ran."""
_SHOWN = ("experiment", "mix", "traffic", "raw_blocks", "warmup", "backend")
"""Conditions that the page has in words of its own."""
_DIGITS = 6
CURVE_POINTS = 400
"""Of LRU's whole curve; a step between them is at most a pixel or two away."""

_LIBRARIES = Path(__file__).with_name("vega")
_SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
_DASHES = {"-": [1, 0], "--": [7, 4], "-.": [7, 3, 2, 3], ":": [2, 3]}
_PATHS = {  # in a square from -1 to 1, as Vega has its shapes
    "o": "M0.8 0A0.8 0.8 0 1 1 -0.8 0A0.8 0.8 0 1 1 0.8 0Z",
    "s": "M-0.8 -0.8H0.8V0.8H-0.8Z",
    "D": "M0 -1L1 0L0 1L-1 0Z",
    "d": "M0 -1.1L0.6 0L0 1.1L-0.6 0Z",
    "^": "M0 -1L1 0.8H-1Z",
    "v": "M0 1L1 -0.8H-1Z",
    "<": "M-1 0L0.8 -1V1Z",
    ">": "M1 0L-0.8 -1V1Z",
    "x": "M-0.8 -0.8L0.8 0.8M-0.8 0.8L0.8 -0.8",
    "X": "M-1 -0.6L-0.6 -1L0 -0.4L0.6 -1L1 -0.6L0.4 0L1 0.6L0.6 1L0 0.4L-0.6 1L-1 0.6L-0.4 0Z",
    "P": "M-0.4 -1H0.4V-0.4H1V0.4H0.4V1H-0.4V0.4H-1V-0.4H-0.4Z",
    "*": "M0 -1.2L0.3 -0.4H1.2L0.5 0.2L0.8 1.1L0 0.6L-0.8 1.1L-0.5 0.2L-1.2 -0.4H-0.3Z",
    "h": "M0 -1L0.9 -0.5V0.5L0 1L-0.9 0.5V-0.5Z",
    "p": "M0 -1L1 -0.2L0.6 1H-0.6L-1 -0.2Z",
}


def write_page(files: Mapping[Path, Sequence[Row]], out: Path) -> int:
    """Writes the page; returns the number of rows in it.

    Args:
        files: rows of each file of results; rows with nothing that the page shows are passed over.
        out: the page.

    Raises:
        ValueError: no row has a hit rate or a ladder.
    """
    names: dict[str, int] = {}
    seen: dict[str, str] = {}
    rows = []
    for path, found in files.items():
        for row in found:
            values = _compact(row)
            if values is not None:
                if (
                    "experiment" not in row
                    and seen.setdefault(values["trace"], row["trace_sha256"]) != row["trace_sha256"]
                ):
                    values["trace"] += f" ({row['trace_sha256'][:6]})"
                experiment = str(row.get("experiment") or "runs").replace("_", " ")
                values["set"] = names.setdefault(f"{experiment} ({path.name})", len(names))
                rows.append(values)
    if not rows:
        raise ValueError(f"no row has {', '.join(RATES)}; allowed: rows of sweep, replay or explain")
    data = {
        "sets": list(names),
        "rows": rows,
        "measures": MEASURES,
        "steps": STEP_WORDS,
        "looks": {policy: _look(policy) for policy in sorted({row["policy"] for row in rows})},
    }
    page, ladder = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.html", "ladder.js"))
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    with open_output(out) as file:
        scripts = page.replace(">LIBRARIES<", f">{_libraries()}<").replace(">LADDER<", f">{ladder}<")
        file.write(scripts.replace(">DATA<", f">{text}<"))
    return len(rows)


def _libraries() -> str:
    """The libraries' scripts, after their licences as a comment."""
    licences = [path.read_text(encoding="utf-8") for path in sorted(_LIBRARIES.glob("LICENSE.*"))]
    scripts = [(_LIBRARIES / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return "\n".join(["/*", *licences, "*/", *scripts])


def _compact(row: Row) -> dict[str, Any] | None:
    """What the page needs of a row; None if it shows nothing of it."""
    shown = {name: _value(row, name) for name in MEASURES if isinstance(row.get(name), int | float)}
    matrix = row.get("share_of_prompt", {}).get("workload")
    if not (shown.keys() & {*RATES, "gap_closed"} or "curve" in row or "steps" in row or matrix):
        return None
    values: dict[str, Any] = {
        "policy": label(row),
        "trace": _trace(row),
        "capacity": row["capacity_blocks"],
        "tokens": row.get("capacity_tokens"),
        "at": _at(row),
        "block": row["block_size"],
        "facets": _facets(row),
        "seed": seeds(row),
        "values": shown,
        "workloads": {
            name: {key: _value(part, key) for key in MEASURES if isinstance(part.get(key), int | float)}
            for name, part in row.get("by_workload", {}).items()
        },
    }
    if "seeds" in row:
        values["seeds"] = row["seeds"]
    if "steps" in row:
        values["steps"] = _steps(row)
    if matrix:
        values["matrix"] = {owner: {by: round(share, 4) for by, share in of.items()} for owner, of in matrix.items()}
    if "tier_stored_bytes" in row:
        values["tier"] = _tier(row)
    if "curve" in row:
        count = len(row["curve"]["capacity_blocks"])
        kept = sorted({round(i * (count - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
        values["curve"] = {rate: [row["curve"][rate][i] for i in kept] for rate in RATES}
        values["curve"]["capacity"] = [row["curve"]["capacity_blocks"][i] for i in kept]
    return values


def _steps(row: Row) -> dict[str, Any]:
    """A ladder: what each step took, in tokens or, in rows of a study, in shares of the prompt tokens; and of which
    requests."""
    return {
        "by": row.get("by", "all"),
        "value": row.get("value", ""),
        "requests": row["requests"],
        "tokens": row["prompt_tokens"],
        "of": row["prompt_tokens"] if "by" in row else 1,
        "lost": row["steps"],
        "negative": row.get("negative_requests"),
    }


def _trace(row: Row) -> str:
    """A trace by its name; of a study its mix or workload, whose traces differ by seeds and arrivals alone."""
    name = row.get("mix") or (row.get("workload") if "experiment" in row else None) or row["trace"]
    return str(name).split(".json")[0].replace("_", " ")


def _value(row: Mapping[str, Any], name: str) -> list[float]:
    """A number, and its interval where the row has one."""
    return [round(value, _DIGITS) for value in (row[name], *row.get(f"{name}_ci95", ()))]


def _facets(row: Row) -> dict[str, str]:
    """What sets the row apart from others of its file, in words; what a study varies before what follows from it."""
    found = {"backend": row["backend"], "blocks": "raw" if row.get("raw_blocks") else "vLLM's rules"}
    found |= {name: value for name, value in conditions(row).items() if name not in _SHOWN}
    if not row.get("mix"):
        found.pop("workload", None)
    if row.get("warmup_requests") and "load" not in row:
        found["left out"] = f"{row['warmup_requests']:,} requests"
    return {
        name.replace("_", " "): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in found.items()
    }


def _tier(row: Row) -> dict[str, Any]:
    """What CPU memory gave and cost: GiB of it, the share of the prompt tokens from it, GiB that were copied."""
    found = {"gib": row["kv_offloading_size"], "stored": row["tier_stored_bytes"], "loaded": row["tier_loaded_bytes"]}
    found |= {name: round(found[name] / 2**30, 3) for name in ("stored", "loaded")}
    if "external_hit_tokens" in row:
        found["share"] = row["external_hit_tokens"] / max(1, row["prompt_tokens"])
    return found


def _at(row: Row) -> str:
    """The capacity as something that block sizes have in common."""
    given = str(row.get("capacity") or "")
    if given.endswith("%") or given == "largest":
        return given
    if "gap_closed" in row:
        return "all of them"
    if row["capacity_blocks"] is None:
        return "unlimited"
    if row.get("capacity_share") is not None:
        return f"{100 * row['capacity_share']:.3g}%"
    tokens = row.get("capacity_tokens")
    if tokens is None:
        return f"{row['capacity_blocks']:,} blocks"
    return f"{tokens:,} tokens" if isinstance(tokens, int) else str(tokens)


def _look(label: str) -> dict[str, Any]:
    color, marker, line = look(label.split(" (")[0])
    return {"color": color, "path": _PATHS[marker], "dash": _DASHES[line]}
