"""The rows as one page that needs nothing else: no network, no library, opened from a file.

page.html beside this module is the page; its data, and each policy's look (style.py), are put in here.
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

_DASHES = {"-": "none", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
_PATHS = {
    "o": "M4 0A4 4 0 1 1 -4 0A4 4 0 1 1 4 0Z",
    "s": "M-4 -4H4V4H-4Z",
    "D": "M0 -5L5 0L0 5L-5 0Z",
    "^": "M0 -5L5 4H-5Z",
    "v": "M0 5L5 -4H-5Z",
    "<": "M-5 0L4 -5V5Z",
    ">": "M5 0L-4 -5V5Z",
    "x": "M-4 -4L4 4M-4 4L4 -4",
    "X": "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "P": "M-2 -5H2V-2H5V2H2V5H-2V2H-5V-2H-2Z",
    "*": "M0 -6L1.5 -2H6L2.5 1L4 5.5L0 3L-4 5.5L-2.5 1L-6 -2H-1.5Z",
    "h": "M0 -5L4.5 -2.5V2.5L0 5L-4.5 2.5V-2.5Z",
    "p": "M0 -5L5 -1L3 5H-3L-5 -1Z",
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
        file.write(page.replace(">DATA<", f">{text}<"))
    return len(rows)


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
    if "curve" in row:
        count = len(row["curve"]["capacity_blocks"])
        kept = sorted({round(i * (count - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})
        values["curve"] = {rate: [row["curve"][rate][i] for i in kept] for rate in RATES}
        values["curve"]["capacity"] = [row["curve"]["capacity_blocks"][i] for i in kept]
    return values


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


def _look(label: str) -> dict[str, str]:
    color, marker, line = look(label.split(" (")[0])
    return {"color": color, "path": _PATHS[marker], "dash": _DASHES[line]}
