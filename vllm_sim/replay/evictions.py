"""Evicted blocks, by the request that cached them and the one whose allocation took them.

Each matrix adds up to `evicted_blocks`. By workload and by tenant a row is a pair ("" where a request has none). By
session a row is a workload of owners, and says whether the evictor was the same session, another one, or one of the two
had no session: a whole matrix of sessions would be larger than the trace.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from vllm_sim.replay.rows import SCHEMA, Row
from vllm_sim.trace.record import Record


def eviction_rows(evictions: Mapping[tuple[str, str], int], records: Sequence[Record]) -> list[Row]:
    """The matrices as rows with `by`, `owner`, `evictor`, `blocks`.

    Args:
        evictions: Blocks by the names of both requests, which are rows.
        records: The rows.
    """
    blocks: Counter[tuple[str, str, str]] = Counter()
    for (owner_name, evictor_name), count in evictions.items():
        owner, evictor = records[int(owner_name)], records[int(evictor_name)]
        blocks["workload", _text(owner.workload), _text(evictor.workload)] += count
        blocks["tenant", _text(owner.tenant), _text(evictor.tenant)] += count
        blocks["session", _text(owner.workload), _kinship(owner.session_id, evictor.session_id)] += count
    return [
        {"schema": SCHEMA, "by": by, "owner": owner, "evictor": evictor, "blocks": blocks[by, owner, evictor]}
        for by, owner, evictor in sorted(blocks)
    ]


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _kinship(owner: str | int | None, evictor: str | int | None) -> str:
    if owner is None or evictor is None:
        return "no session"
    return "same session" if owner == evictor else "other session"
