"""The canary: a stored summary whose hits must come again, so that a new vLLM can be held against an old one."""

import json
from pathlib import Path

from vllm_sim.replay.about import fields_of
from vllm_sim.replay.config import heeded_fields
from vllm_sim.replay.old_rows import upgraded
from vllm_sim.replay.rows import Row, RunSummary

SET_UP = ("trace_sha256", "warmup_requests")
"""Fields of a summary that must be the same, besides those of its configuration."""
FREE = ("model", "warmup")
"""Fields of the configuration that may differ: a folder may have another name, and warmup_requests says what counts."""


def read_expected(path: Path) -> Row:
    """A stored summary; to be read before the run, which may write to the same file.

    Raises:
        ValueError: there is no such file, or it holds no summary.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, which --expect compares with")
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        stored = json.loads(lines[0])
    except (IndexError, ValueError):
        stored = None
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: line 1 is not a summary row, as replay writes it to summary.jsonl")
    return upgraded(stored)


def differences(expected: Path, stored: Row, summary: RunSummary) -> list[str]:
    """What differs between a stored summary and a new one, a line each; nothing where the hits came again.

    Args:
        expected: The file of the stored one, for messages.
        stored: What was in it.
        summary: The new one.

    Raises:
        ValueError: the stored one has another configuration, or a run without attribution has no hits.
    """
    row = summary.to_row()
    config = (name for name in heeded_fields(summary.config.backend) if name not in FREE)
    for name in (*SET_UP, *config):
        if stored.get(name) != row.get(name):
            raise ValueError(f"{expected}: {name} is {stored.get(name)!r}, this run has {row.get(name)!r}")
    for found, where in ((stored, str(expected)), (row, "this run")):
        if "hit_tokens" not in found:
            raise ValueError(f"{where} has no hits to compare; allowed: a run without --no-attribution")
    return [
        f"{name} is {row[name]}, expected {stored[name]}"
        for name in (field.name for field in fields_of(RunSummary) if field.about.compared)
        if name in stored and name in row and stored[name] != row[name]
    ]
