"""Reading and writing: what is written is read back, and nothing broken passes."""

import gzip
import json
import re

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import MODEL
from vllm_sim.trace.files import iter_lines, iter_records, write_records
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import load_tokenised
from vllm_sim.trace.validate import find_faults
from vllm_sim.trace.vocabulary import Vocabulary

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
RECORDS = st.builds(
    Record,
    prompt=TEXT,
    response=TEXT,
    id=st.none() | TEXT | st.integers(-(2**63) + 1, 2**63 - 1),
    timestamp=st.none() | st.floats(0, 1e9),
    session_id=st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
    turn=st.none() | st.integers(0, 9),
    extra=st.dictionaries(st.just("x-key"), st.none() | TEXT | st.booleans()),
)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@given(records=st.lists(RECORDS, min_size=1, max_size=5))
def test_records_come_back_equal(tmp_path_factory, records, suffix):
    path = tmp_path_factory.getbasetemp() / f"trace.jsonl{suffix}"
    write_records(path, records)
    assert [record for _, record in iter_records(path)] == records


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_packed_files_of_several_frames_are_read_whole_and_cut_ones_are_refused(tmp_path, suffix, pack):
    path = tmp_path / f"trace.jsonl{suffix}"
    lines = [json.dumps({"prompt": f"{i * 7919 % 1000003}", "response": "b"}) + "\n" for i in range(3000)]
    packed = pack("".join(lines).encode())
    path.write_bytes(packed + packed)
    assert sum(1 for _ in iter_lines(path)) == 6000
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match=r"cannot be read: .*(ended before|cut off)"):
        list(iter_records(path))


def test_every_bad_line_is_found_and_the_file_is_left_as_it_was(tmp_path):
    path = tmp_path / "trace.jsonl"
    content = b"\n".join(
        [
            b'{"prompt": "a", "response": "b"}',
            b"",
            b'{"prompt": "\xff", "response": "b"}',
            b"{",
            b'{"prompt": "a", "response": "b"}',
            b'{"prompt": "a", "hash_ids": [], "response": "b"}',
            b'{"messages": [{"role": "user", "content": "\\ud83d"}], "response": "b"}',
            b'{"prompt": "a", "output_length": -1}',
            b"[]",
            b'{"prompt": "a", "resp',
        ]
    )
    path.write_bytes(content)
    faults = [fault for fault in find_faults(path) if fault]
    assert [fault.line for fault in faults] == [3, 4, 6, 7, 8, 9, 10]
    reasons = ("not UTF-8", "not JSON", "one prompt field", "half a character", "output_length is -1", "[]", "cut off")
    for fault, reason in zip(faults, reasons, strict=True):
        assert reason in str(fault)
    assert path.read_bytes() == content


def test_a_file_that_is_not_there_or_empty_is_a_fault(tmp_path):
    (tmp_path / "empty").write_text("\n")
    assert [str(f) for f in find_faults(tmp_path / "empty")] == [f"{tmp_path / 'empty'}: the file holds no record"]
    assert "no such file" in str(next(find_faults(tmp_path / "none")))


def test_a_line_without_end_is_refused_and_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("vllm_sim.trace.files.MAX_LINE_BYTES", 1000)
    (tmp_path / "long").write_text(json.dumps({"prompt": "a" * 2000, "response": ""}))
    with pytest.raises(TraceError, match="line 1: the line is longer than 1000 bytes"):
        list(iter_records(tmp_path / "long"))


CHAT = {"messages": [{"role": "user", "content": "a"}], "response": "b"}


def chat(**message):
    return {**CHAT, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **message}]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(tool_calls=5), "tool_calls is 5; allowed: a list of calls"),
        (chat(tool_calls=[5]), "tool_calls holds an entry that is not of type 'function'"),
        (chat(content=[{"type": []}]), "a part of type"),
        (
            {**CHAT, "chat_template_kwargs": {"messages": []}},
            "has 'messages'; allowed: any name but messages",
        ),
        ({**CHAT, "chat_template_kwargs": {"tools": []}}, "has 'tools'"),
        ({**CHAT, "chat_template_kwargs": {"self": 1}}, "has 'self'"),
        ({"prompt": "a", "output_length": 10**12}, "output_length is 1000000000000; allowed: .*0 to 16777216"),
        ({"prompt": "a", "output_length": 2**200}, r"output_length is 1606.*; allowed: .*0 to 16777216"),
        ({"hash_ids": [1], "input_length": 4, "hash_block_size": 10**12, "response": ""}, "hash_block_size is 10"),
        ({"hash_ids": [], "input_length": 10**12, "response": ""}, "input_length is 10"),
        ({"prompt": "a", "response": "b", "timestamp": 10**400}, "timestamp is 10.*allowed: milliseconds"),
        ({"prompt": "a", "response": "b", "turn": 2**64}, "turn is 1844.*of 64 bits"),
        ({"prompt": "a", "response": "b", "session_id": -(2**64)}, "session_id is -1844.*of 64 bits"),
    ],
)
def test_what_no_command_could_replay_is_a_fault_for_all_of_them(tmp_path, row, reason):
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b"}) + "\n" + json.dumps(row) + "\n")
    _, fault = find_faults(path)
    assert re.search(rf"trace\.jsonl, line 2: .*{reason}", str(fault))
    with pytest.raises(TraceError, match=re.escape(str(fault))):
        load_tokenised(path, MODEL)


@pytest.mark.parametrize(
    "row",
    [
        {**CHAT, "tools": [{"function": {}}]},
        chat(tool_calls=[{"function": {"arguments": "{}"}}]),
        {"prompt": "a", "response_token_ids": [5, 128009, 5]},
    ],
)
def test_with_a_model_validate_finds_what_its_template_and_its_end_tokens_refuse(tmp_path, row):
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert list(find_faults(path)) == [None]
    (fault,) = find_faults(path, vocabulary=Vocabulary(MODEL))
    with pytest.raises(TraceError, match=re.escape(str(fault))):
        load_tokenised(path, MODEL)
