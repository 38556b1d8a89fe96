"""Rows of before they had a schema number, read for one release: what they said in words is put into fields.

The key of a run was called `cell`, and two policies had shorter names.
"""

from vllm_sim.eviction.names import full_name
from vllm_sim.replay.rows import Row


def upgraded(row: Row) -> Row:
    """A row with the fields of schema 1; rows that have a schema number keep all values.

    The warm-up was written as a number of requests alone: the fraction is the middle of those that leave out so many.
    """
    if "cell" in row:
        row = {"key" if name == "cell" else name: value for name, value in row.items()}
    if "policy" in row:
        row = row | {"policy": full_name(row["policy"])}
    if "gains_over_lru" in row:
        row = row | {"gains_over_lru": {full_name(name): gain for name, gain in row["gains_over_lru"].items()}}
    if "schema" in row:
        return row
    skipped, requests = row.get("warmup_requests", 0), row.get("requests", 0)
    more: Row = {"warmup": (skipped + 0.5) / requests if skipped else 0.0}
    if row.get("backend") == "engine":
        kind, _, number = str(row.get("arrival", "")).rpartition(" ")
        closed = kind.startswith("closed")
        more |= {"concurrency": int(number) if closed and number else None, "latency_table": None}
        more |= {"speedup": float(number) if number and not closed else 1.0, "attribution": "hit_tokens" in row}
        more |= {"device": row.get("device") or "h100"}
    return {"schema": 0} | _renamed(row) | more


def _renamed(row: Row) -> Row:
    """Intervals were called NAME_95."""
    return {
        f"{name}_ci95" if (name := key.removesuffix("_95")) != key else key: _renamed(value)
        if isinstance(value, dict)
        else value
        for key, value in row.items()
    }
