"""A trace's share for each of several replicas: sessions are dealt out in turn, in the order of their first requests.

That is a router which keeps a session on one replica and looks at nothing else. A request without a session counts as
one of its own. Each replica then serves its share alone.
"""

from pathlib import Path
from typing import Any

from vllm_sim.trace.files import iter_records, write_records
from vllm_sim.trace.record import Record

ROUTER = "sessions in turn"


def split_sessions(trace: Path, replicas: int, folder: Path) -> list[Path]:
    """Writes the share of each replica; of one replica the trace is its own.

    Args:
        trace: in the native format.
        replicas: how many.
        folder: for the shares, REPLICAS/NUMBER.jsonl.zst.

    Raises:
        ValueError: there are fewer sessions than replicas.
    """
    if replicas == 1:
        return [trace]
    shares: list[list[Record]] = [[] for _ in range(replicas)]
    places: dict[Any, int] = {}
    for row, (_, record) in enumerate(iter_records(trace)):
        session = ("row", row) if record.session_id is None else record.session_id
        shares[places.setdefault(session, len(places)) % replicas].append(record)
    if len(places) < replicas:
        raise ValueError(f"{trace} has {len(places)} sessions; allowed: up to as many replicas, not {replicas}")
    paths = [folder / str(replicas) / f"{place}.jsonl.zst" for place in range(replicas)]
    for path, records in zip(paths, shares, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, records)
    return paths
