"""The rows as one page that needs nothing else: no network, no other file.

page.html next to this module is the page; its data, each policy's look (style.py), and the libraries that draw it are
put in here. These are Vega and Vega-Lite (BSD-3-Clause, 0.8 MB of the page) in vega/, as vega/update.sh fetched them.
Plotly's basic bundle is larger and draws without the labels by which a screen reader finds a point.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_sim.plots.style import look
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import RATES, conditions
from vllm_sim.trace.files import open_output

CURVE_POINTS = 400
"""Of LRU's whole curve; a step between them is at most a pixel or two away."""

_LIBRARIES = Path(__file__).with_name("vega")
_SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
_DASHES = {"-": [1, 0], "--": [7, 4], "-.": [7, 3, 2, 3], ":": [2, 3]}
_PATHS = {  # in a square from -1 to 1, as Vega has its shapes
    "o": "M0.8 0A0.8 0.8 0 1 1 -0.8 0A0.8 0.8 0 1 1 0.8 0Z",
    "s": "M-0.8 -0.8H0.8V0.8H-0.8Z",
    "D": "M0 -1L1 0L0 1L-1 0Z",
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
        files: rows of each file of results; rows without hit rates are passed over.
        out: the page.

    Raises:
        ValueError: no row has hit rates.
    """
    groups: dict[Any, dict[str, str]] = {}
    places: dict[Any, int] = {}
    rows = []
    for path, found in files.items():
        for row in found:
            if "curve" not in row and not all(rate in row for rate in RATES):
                continue
            counts = (row.get("raw_blocks", False), row.get("warmup_requests", 0), row.get("requests", 0))
            key = (path.name, row["trace_sha256"], row["backend"], counts, tuple(conditions(row).items()))
            if key not in groups:
                places[key] = len(groups)
                groups[key] = _group(path, row)
            rows.append(_compact(row, places[key]))
    if not rows:
        raise ValueError(f"no row has {', '.join(RATES)}; allowed: rows of sweep or replay")
    data = {
        "groups": list(groups.values()),
        "rows": rows,
        "rates": RATES,
        "looks": {policy: _look(policy) for policy in _labels(rows)},
    }
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    with open_output(out) as file:
        file.write(page.replace(">LIBRARIES<", f">{_libraries()}<").replace(">DATA<", f">{text}<"))
    return len(rows)


def _libraries() -> str:
    """The libraries' scripts, after their licences as a comment."""
    licences = [path.read_text(encoding="utf-8") for path in sorted(_LIBRARIES.glob("LICENSE.*"))]
    scripts = [(_LIBRARIES / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    return "\n".join(["/*", *licences, "*/", *scripts])


def _group(path: Path, row: Row) -> dict[str, str]:
    blocks = "raw blocks, outputs left out" if row.get("raw_blocks") else "vLLM's rules"
    setting = "".join(f", {name.replace('_', ' ')} {value}" for name, value in conditions(row).items())
    skipped = row.get("warmup_requests", 0)
    left_out = f", the first {skipped:,} left out" if skipped else ""
    name = f"{row['trace']}: {row['backend']}{setting}, {'raw blocks' if row.get('raw_blocks') else 'vLLM blocks'}"
    caption = (
        f"{row['trace']} (sha256 {row['trace_sha256'][:12]}), {row.get('requests', 0):,} requests{left_out}. "
        f"Backend {row['backend']}{setting}, {blocks}. Rows of {path.name}."
    )
    return {"name": f"{name} ({path.name})", "caption": caption}


def _compact(row: Row, group: int) -> dict[str, Any]:
    params = row.get("policy_params") or {}
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    values: dict[str, Any] = {
        "group": group,
        "policy": f"{row['policy']} ({shown})" if shown else row["policy"],
        "capacity": row["capacity_blocks"],
        "tokens": row.get("capacity_tokens"),
        "at": _at(row),
        "block": row["block_size"],
        "evicted": row.get("evicted_blocks", 0),
        "rates": {rate: row.get(rate) for rate in RATES},
        "workloads": {name: {rate: part[rate] for rate in RATES} for name, part in row.get("by_workload", {}).items()},
    }
    if "tier_stored_bytes" in row:
        values["tier"] = _tier(row)
    if "curve" in row:
        count = len(row["curve"]["capacity_blocks"])
        kept = sorted({round(i * (count - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
        values["curve"] = {rate: [row["curve"][rate][i] for i in kept] for rate in RATES}
        values["curve"]["capacity"] = [row["curve"]["capacity_blocks"][i] for i in kept]
    return values


def _tier(row: Row) -> dict[str, Any]:
    """What CPU memory gave and cost: GiB of it, the share of the prompt tokens from it, GiB that were copied."""
    found = {"gib": row["kv_offloading_size"], "stored": row["tier_stored_bytes"], "loaded": row["tier_loaded_bytes"]}
    found |= {name: round(found[name] / 2**30, 3) for name in ("stored", "loaded")}
    if "external_hit_tokens" in row:
        found["share"] = row["external_hit_tokens"] / max(1, row["prompt_tokens"])
    return found


def _at(row: Row) -> str:
    """The capacity as something that block sizes have in common."""
    if row["capacity_blocks"] is None:
        return "unlimited"
    if row.get("capacity_share") is not None:
        return f"{row['capacity_share']:.3g} of the working set"
    tokens = row.get("capacity_tokens")
    return f"{tokens:,} tokens" if isinstance(tokens, int) else str(tokens)


def _labels(rows: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({row["policy"] for row in rows})


def _look(label: str) -> dict[str, Any]:
    color, marker, line = look(label.split(" (")[0])
    return {"color": color, "path": _PATHS[marker], "dash": _DASHES[line]}
