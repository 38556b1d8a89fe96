"""Rows of before they had a schema number, read for one release: what they said in words is put into fields.

The key of a run was called `cell`, intervals NAME_95, and three policies had other names.
"""

from typing import Any

from vllm_sim.replay.rows import Row


def upgraded(row: Row) -> Row:
    """A row with the fields of schema 1; rows that have a schema number keep all values.

    The warm-up was written as a number of requests alone: the fraction is the middle of those that leave out so many.
    """
    if "cell" in row:
        row = {"key" if name == "cell" else name: value for name, value in row.items()}
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


_KEYS = {"opt": "belady", "wa": "workload_aware", "lru+ends": "session_end_oracle", "opt_hit_rate": "belady_hit_rate"}


def _renamed(value: Any) -> Any:
    """A value with its keys and policies as they are named today."""
    if isinstance(value, dict):
        return {_name(key): _KEYS.get(item, item) if key == "policy" else _renamed(item) for key, item in value.items()}
    return value


def _name(key: str) -> str:
    stem = key.removesuffix("_95")
    return f"{stem}_ci95" if stem != key else _KEYS.get(key, key)
