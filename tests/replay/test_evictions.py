"""Matrices of who evicted whom, by hand."""

from vllm_sim.replay.evictions import eviction_rows
from vllm_sim.trace.record import Record


def test_each_matrix_adds_up_and_sessions_are_told_apart() -> None:
    records = [
        Record(workload="chat", session_id="a", tenant=1),
        Record(workload="agent", session_id="b", tenant=2),
        Record(workload="chat", session_id="a", tenant=1),
        Record(),
    ]
    rows = eviction_rows({("0", "1"): 5, ("0", "2"): 3, ("1", "3"): 2, ("1", "1"): 1}, records)
    found = {(row["by"], row["owner"], row["evictor"]): row["blocks"] for row in rows}
    assert found == {
        ("workload", "chat", "agent"): 5,
        ("workload", "chat", "chat"): 3,
        ("workload", "agent", ""): 2,
        ("workload", "agent", "agent"): 1,
        ("tenant", "1", "2"): 5,
        ("tenant", "1", "1"): 3,
        ("tenant", "2", ""): 2,
        ("tenant", "2", "2"): 1,
        ("session", "chat", "other session"): 5,
        ("session", "chat", "same session"): 3,
        ("session", "agent", "no session"): 2,
        ("session", "agent", "same session"): 1,
    }
