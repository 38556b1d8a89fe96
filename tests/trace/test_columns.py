"""Columns that were kept are those of the records, and no line is decoded for them again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import write_trace
from vllm_sim.provenance import file_sha256
from vllm_sim.trace import columns
from vllm_sim.trace.columns import LABELS, FileRecords, column, label_values, load_records
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import TraceError

NAMES = st.sampled_from(["a", "b", 1, 2])
RECORDS = st.fixed_dictionaries(
    {"output_length": st.just(1)},
    optional={
        "workload": st.sampled_from(["chat", "code"]),
        "turn": st.integers(0, 3),
        "tenant": NAMES,
        "session_id": NAMES,
        "timestamp": st.integers(0, 9) | st.floats(0, 9),
        "cache_salt": st.sampled_from(["x", "y"]),
        "session_end": st.booleans(),
        "retention_priority": st.integers(0, 100),
        "kv_hints": st.just({"actions": [{"action_type": "session", "payload": {"next_turn_ms": 5}}]}),
        "id": NAMES,
        "later": st.just([1]),
    },
)
PROMPTS = st.sampled_from([{"prompt_token_ids": [1]}, {"hash_ids": [7], "input_length": 3, "hash_block_size": 4}])
ROWS = st.lists(st.tuples(PROMPTS, RECORDS).map(lambda parts: parts[0] | parts[1]), min_size=1, max_size=8)


def load(folder: Path, rows: list[dict[str, Any]]) -> Any:
    path = write_trace(folder / "trace.jsonl", rows)
    return load_records(path, file_sha256(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_columns_of_a_file_are_those_of_its_records(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    records = [record.drop_contents() for _, record in iter_records(write_trace(tmp_path / "trace.jsonl", rows))]
    found = load(tmp_path, rows)
    assert isinstance(found, FileRecords)
    for name in columns._COLUMNS:
        assert np.array_equal(column(found, name), column(records, name), equal_nan=name in ("arrival_ms", "hints"))
    for name in LABELS:
        values, codes = label_values(found, name), column(found, name)
        assert values == label_values(records, name)
        assert [values[code] if code >= 0 else None for code in codes] == [getattr(one, name) for one in records]
    assert list(found) == records
    assert found[-1] == records[-1]
    assert len(found) == len(records)


def test_kept_columns_need_no_line_of_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt_token_ids": [1], "output_length": 2, "session_id": f"s{i}"} for i in range(3)]
    load(tmp_path, rows)
    monkeypatch.setattr(columns, "iter_records", None)
    found = load(tmp_path, rows)
    assert label_values(found, "session_id") == ["s0", "s1", "s2"]
    with pytest.raises(TypeError):
        found[0]


def test_a_hint_out_of_range_is_named_where_hints_are_needed(tmp_path: Path) -> None:
    bad = {"actions": [{"action_type": "session", "payload": {"retention_priority": 101}}]}
    found = load(tmp_path, [{"prompt_token_ids": [1], "output_length": 2, "kv_hints": bad}])
    assert column(found, "session_id").tolist() == [-1]
    with pytest.raises(ValueError, match="row 0: "):
        column(found, "hints")


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="line 1: "):
        load(tmp_path, [{"output_length": 2}])
