"""Builds traces of configurations for the tests."""

from pathlib import Path

from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import Record
from vllm_sim.workloads.build import build

MODEL = Path(__file__).parents[2] / "exported_models" / "Llama-3.2-1B-Instruct"


def rows(path: Path) -> list[Record]:
    """The records of a trace."""
    return [record for _, record in iter_records(path)]


def made(folder: Path, text: str, name: str = "out.jsonl") -> list[Record]:
    """The rows of a configuration."""
    (folder / "workload.toml").write_text(text)
    build(folder / "workload.toml", folder / name)
    return rows(folder / name)


def by_session(records: list[Record]) -> dict:
    """The rows of each session_id, in their order."""
    sessions: dict = {}
    for record in records:
        sessions.setdefault(record.session_id, []).append(record)
    return sessions
