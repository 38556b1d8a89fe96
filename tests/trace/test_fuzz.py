"""Lines that were mutated, through every command that reads a trace: no traceback, and one reading for all of them.

Hundreds of lines in `make test`, thousands in `make test-all`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import MODEL
from vllm_sim.cli import main
from vllm_sim.cli.main import build_parser

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "r"},
    {"role": "tool", "tool_call_id": "c", "content": "2"},
]
ABOUT = {
    "id": "i",
    "timestamp": 5,
    "session_id": "s",
    "turn": 1,
    "workload": "w",
    "think_time_ms": 2.5,
    "max_tokens": 9,
}
NATIVE: list[dict[str, Any]] = [
    {"prompt": "a prompt", "response": "an answer", "finish_reason": "stop", **ABOUT},
    {"messages": CHAT, "tools": [TOOL], "chat_template_kwargs": {"date_string": "today"}, "response": "two"},
    {"prompt_token_ids": [1, 2, 3], "response_token_ids": [4, 128009], "cache_salt": "c", "priority": 1, "tenant": 7},
    {"hash_ids": [1, 2, 3], "input_length": 40, "hash_block_size": 16, "output_length": 20, **ABOUT},
]
FOREIGN: dict[str, dict[str, Any]] = {
    "openai": {
        "custom_id": "b",
        "body": {"messages": CHAT, "tools": [TOOL]},
        "response": {"role": "assistant", **CALL},
    },
    "mooncake": {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
    "bailian": {
        "chat_id": 1,
        "parent_chat_id": -1,
        "timestamp": 1.5,
        "type": "text",
        "turn": 1,
        "input_length": 20,
        "output_length": 3,
        "hash_ids": [1, 2],
    },
    "vllm-custom": {"prompt": "a", "output_tokens": 5},
    "sharegpt": {"id": "a_1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
}
NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 2**24, 2**31, 2**63, 2**64, 10**12, 2**200, -(2**70), 10**400, 0.5, -0.0, 1e308]
)
TEXTS = st.sampled_from(["", "x", "[/b]", "\x1b[31m", "\ud83d", "<|eot_id|>", "é\u2028", "9" * 40, "assistant", "self"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from([float("nan"), float("inf")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
NAMES = sorted({*ABOUT, "finish_reason", *(name for row in NATIVE for name in row)})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in [(*path, key), *places(one, (*path, key))]]


@st.composite
def mutated(draw: Any, row: dict[str, Any]) -> bytes:
    """A line: a row whose values are replaced or left out, to which fields are added, or whose bytes are changed."""
    row = json.loads(json.dumps(row))
    for _ in range(draw(st.integers(0, 2))):
        found = places(row)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        owner = row
        for key in path:
            owner = owner[key]
        if draw(st.booleans()):
            owner[last] = draw(VALUES)
        else:
            del owner[last]
    if draw(st.integers(0, 3)) == 0:
        row[draw(st.sampled_from(NAMES))] = draw(VALUES)
    line = json.dumps(row).encode()
    if draw(st.integers(0, 3)) == 0:
        start = draw(st.integers(0, len(line)))
        end = min(len(line), start + draw(st.integers(0, 4)))
        line = line[:start] + draw(st.binary(max_size=3)) + line[end:]
    return line.replace(b"\n", b" ")


def run(capsys: pytest.CaptureFixture[str], path: Path, *command: str) -> bool:
    """Whether a command ends well; one that does not says why in one line, and names the file."""
    code = main(command)
    output = capsys.readouterr()
    assert code in (0, 1), command
    assert "\x1b[31m" not in output.out + output.err
    if code and command[1] != "validate":
        errors = [line for line in output.err.splitlines() if line.startswith("vllm-sim: error: ")]
        assert len(errors) == 1, output.err
        assert path.name in errors[0]
    return code == 0


def check(
    folder: Path, capsys: pytest.CaptureFixture[str], lines: list[bytes], foreign: list[tuple[str, bytes]]
) -> None:
    """All commands on each line by itself, and validate on all of them together."""
    trace, out, model = folder / "trace.jsonl", str(folder / "out"), ("--model", str(MODEL))
    validate, stats = ("trace", "validate", str(trace), *model), ("trace", "stats", str(trace), "--json", *model)
    native = ("trace", "convert", "--from", "native", str(trace), out + ".jsonl")
    fast = ("--backend", "fast", "--json", *model)
    trace.write_bytes(b"\n".join(lines))
    all_good = run(capsys, trace, *validate)
    verdicts = []
    for line in lines:
        trace.write_bytes(line + b"\n")
        verdicts.append(run(capsys, trace, *validate))
        replayed = run(capsys, trace, "replay", str(trace), "--out", out, "--block-size", "4", *fast)
        assert (run(capsys, trace, *stats), replayed) == (verdicts[-1], verdicts[-1]), line
        assert run(capsys, trace, *native) or not replayed, line
        assert run(capsys, trace, *native, "--anonymise", *model) or not replayed, line
        run(capsys, trace, "replay", str(trace), "--out", out, "--raw-blocks", *fast)
    assert all_good == all(verdicts)
    rows, config = folder / "rows.jsonl", folder / "workload.toml"
    rows.unlink(missing_ok=True)
    sweep = ("sweep", str(trace), "--out", str(rows), "--capacities", "3", "--jobs", "1", *fast)
    assert run(capsys, trace, *sweep) == verdicts[-1]
    config.write_text('[sources.a]\nkind = "trace"\npath = "trace.jsonl"\narrivals = { kind = "at_once" }\n')
    assert run(capsys, trace, "workload", "build", str(config), "--out", out + ".jsonl") or not verdicts[-1]
    for name, line in foreign:
        trace.write_bytes(line + b"\n")
        run(capsys, trace, "trace", "convert", "--from", name, str(trace), out + ".jsonl")
        run(capsys, trace, "trace", "convert", "--from", name, str(trace), out + ".jsonl", "--strict")


LINES = st.lists(st.sampled_from(NATIVE).flatmap(mutated), min_size=1, max_size=6)
FOREIGN_LINES = st.lists(
    st.sampled_from(sorted(FOREIGN)).flatmap(lambda name: st.tuples(st.just(name), mutated(FOREIGN[name]))), max_size=6
)


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(50, id="hundreds"),
        pytest.param(1000, id="thousands", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_no_mutated_line_brings_a_traceback_and_all_commands_read_alike(
    examples: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What takes most of the time of a command on a line, and has nothing to do with it.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr("vllm_sim.replay.files.commit", lambda: None)
    monkeypatch.setattr("vllm_sim.sweep.runner.commit", lambda: None)
    parser = build_parser()
    monkeypatch.setattr(sys.modules[main.__module__], "build_parser", lambda: parser)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(lines=LINES, foreign=FOREIGN_LINES)
    def fuzz(lines: list[bytes], foreign: list[tuple[str, bytes]]) -> None:
        check(tmp_path, capsys, lines, foreign)

    fuzz()
