"""Arrivals of public traces: sessions begin at the times of the file."""

from pathlib import Path

import pytest

from tests.commands import vllm_sim
from vllm_sim.trace.files import iter_records

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.1805900,396,109\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,x\n45.5,GPT-4,1,2,3,x\n"
)
CONFIG = """
[sources.calls]
kind = "oneoff"
sessions = {sessions}
arrivals = {{ kind = "file", path = "times.csv", speedup = {speedup} }}
"""


def build(folder: Path, times: str, sessions: int = 2, speedup: float = 1.0) -> tuple[str, list[float]]:
    (folder / "times.csv").write_text(times)
    (folder / "w.toml").write_text(CONFIG.format(sessions=sessions, speedup=speedup))
    done = vllm_sim("workload", "build", folder / "w.toml", "--out", folder / "out.jsonl")
    records = [] if done.returncode else [record for _, record in iter_records(folder / "out.jsonl")]
    return done.stderr, [record.timestamp for record in records if record.timestamp is not None]


def test_sessions_begin_at_the_times_of_azure_and_burstgpt(tmp_path: Path) -> None:
    assert build(tmp_path, AZURE)[1] == [0, 3500]
    assert build(tmp_path, BURST)[1] == [0, 40500]
    assert build(tmp_path, BURST, speedup=2.0)[1] == [0, 20250]


@pytest.mark.parametrize(
    ("times", "sessions", "reason"),
    [
        ("a,b\n1,2\n", 2, "line 1: the columns are ['a', 'b']; allowed: one of them TIMESTAMP or Timestamp"),
        (BURST, 3, "has 2 arrivals; allowed: 3 or more, one a session"),
        (BURST.replace("45.5", "x"), 2, 'line 3: Timestamp is "x"; allowed: seconds, 0 or more'),
        (AZURE.replace("2023-11-16 18:15:46.6805900", "soon"), 2, 'line 2: TIMESTAMP is "soon"; allowed: a time'),
        ("Timestamp\n", 2, "the file has no row"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, times: str, sessions: int, reason: str) -> None:
    assert reason in build(tmp_path, times, sessions)[0]
