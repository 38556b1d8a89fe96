"""The formats with one JSON object a line: what comes in comes out; a broken row is refused with line and reason."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sim.cli import main
from vllm_sim.trace.convert import convert
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.formats import CONVERTERS, Options, Report
from vllm_sim.trace.formats.conversations import answer_text
from vllm_sim.trace.record import Record, TraceError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def convert_rows(folder: Path, name: str, *rows: object, **options: object) -> list[Record]:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(CONVERTERS[name](path, Options(**options), Report(strict=True)))  # type: ignore[arg-type]


MOONCAKE = {"timestamp": 0, "input_length": 513, "output_length": 5, "hash_ids": [1, 2]}
BAILIAN = {
    "chat_id": 1,
    "parent_chat_id": -1,
    "timestamp": 1.5,
    "input_length": 17,
    "output_length": 5,
    "type": "text",
    "turn": 1,
    "hash_ids": [7, 8],
}
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a":1,"b":"ü"}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


@given(
    blocks=st.lists(st.lists(st.integers(0, 2**53), min_size=1, max_size=4), min_size=1, max_size=4),
    output=st.integers(0, 9),
)
def test_mooncake_rows_keep_ids_lengths_and_times(tmp_path_factory, blocks, output):
    rows = [
        {"timestamp": 10 * i, "input_length": 512 * len(ids) - i, "output_length": output, "hash_ids": ids}
        for i, ids in enumerate(blocks)
    ]
    found = convert_rows(tmp_path_factory.getbasetemp(), "mooncake", *rows)
    assert [{k: r.to_json()[k] for k in rows[0]} for r in found] == rows
    assert {r.hash_block_size for r in found} == {512}


@given(parents=st.lists(st.integers(0, 8), min_size=1, max_size=9), order=st.randoms())
def test_bailian_children_follow_their_parents_in_any_order_of_the_file(tmp_path_factory, parents, order):
    rows = [
        BAILIAN | {"chat_id": i, "parent_chat_id": parent % i if i and parent else -1, "timestamp": float(i)}
        for i, parent in enumerate(parents)
    ]
    mixed = list(rows)
    order.shuffle(mixed)
    found = convert_rows(tmp_path_factory.getbasetemp(), "bailian", *mixed)
    place = {record.id: at for at, record in enumerate(found)}
    assert set(place) == set(range(len(rows)))
    for row in rows:
        record, parent = found[place[row["chat_id"]]], row["parent_chat_id"]
        if parent == -1:
            assert (record.session_id, record.turn) == (row["chat_id"], 0)
        else:
            before = found[place[parent]]
            assert place[parent] < place[row["chat_id"]]
            assert (record.session_id, record.turn) == (before.session_id, before.turn + 1)
            assert record.timestamp >= before.timestamp
    assert found[0].hash_block_size == 16
    assert found[0].workload == "text"


def test_bailian_times_are_seconds_and_other_keys_are_kept(tmp_path):
    (record,) = convert_rows(tmp_path, "bailian", BAILIAN | {"parent_chat_id": 55, "x": 1})
    assert record.timestamp == 1500
    assert record.extra == {"parent_chat_id": 55, "recorded_turn": 1, "x": 1}


def test_the_row_that_the_publisher_of_bailian_describes_is_read(tmp_path):
    """The field values of the data set's README; a chat_id of 0, text/search/image/file and both numbers of ids."""
    ids = list(range(1089, 1089 + 33))
    published = {"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 521}
    published |= {"output_length": 132, "type": "text", "turn": 2, "hash_ids": ids}
    root = BAILIAN | {"chat_id": 55, "timestamp": 0.0, "type": "search"}
    first = BAILIAN | {"chat_id": 0, "timestamp": 0, "type": "image", "input_length": 47, "hash_ids": [1, 2]}
    zero, parent, child = convert_rows(tmp_path, "bailian", first, root, published)
    assert (zero.session_id, zero.turn, zero.hash_ids) == (0, 0, [1, 2])
    assert (parent.session_id, parent.turn, parent.timestamp, parent.workload) == (55, 0, 0, "search")
    assert (child.id, child.session_id, child.turn, child.timestamp) == (159, 55, 1, 61114)
    assert (child.input_length, child.output_length, child.hash_ids, child.hash_block_size) == (521, 132, ids, 16)


def test_custom_rows_are_chats_unless_the_template_is_skipped(tmp_path):
    row = {"prompt": "hello", "output_tokens": 3.0, "source": "x"}
    (chat,) = convert_rows(tmp_path, "vllm-custom", row)
    (text,) = convert_rows(tmp_path, "vllm-custom", row, chat_template=False)
    assert chat.messages == [{"role": "user", "content": "hello"}]
    assert (text.prompt, text.output_length, text.extra) == ("hello", 3, {"source": "x"})
    (given_length,) = convert_rows(tmp_path, "vllm-custom", {"prompt": "a"}, output_tokens=9)
    assert given_length.output_length == 9


@given(exchanges=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_openai_conversations_give_every_assistant_turn_its_history(tmp_path_factory, exchanges):
    messages = []
    for question, answer in exchanges:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = {"messages": messages, "tools": [TOOL]}
    folder = tmp_path_factory.getbasetemp()
    found = convert_rows(folder, "openai", row)
    assert [r.response for r in found] == [answer for _, answer in exchanges]
    assert [r.messages for r in found] == [messages[: 2 * i + 1] for i in range(len(exchanges))]
    assert all(r.tools == [TOOL] for r in found)
    assert convert_rows(folder, "openai", row, turns="last") == found[-1:]
    assert convert_rows(folder, "openai", row, turns="first") == found[:1]


def test_openai_logged_requests_have_their_answer_beside_them(tmp_path):
    question = {"messages": [{"role": "user", "content": "hi"}]}
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    completion = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": {}}
    batch = {"custom_id": "b", "body": question | {"max_tokens": 7}, "response": {"body": completion}}
    plain, logged, batched = convert_rows(
        tmp_path, "openai", question | {"response": "yes"}, question | {"response": completion}, batch
    )
    assert plain.response == "yes"
    assert logged.response == batched.response == answer_text(message)
    assert (logged.finish_reason, batched.id, batched.max_tokens) == ("tool_calls", "b", 7)


def test_tool_calls_are_written_as_the_exported_template_writes_them():
    environment = pytest.importorskip("vllm_sim.trace.vocabulary")
    model = Path(__file__).parents[3] / "exported_models" / "Llama-3.2-1B-Instruct"
    vocabulary = environment.Vocabulary(model)
    for message in (
        {"role": "assistant", "content": "let me see", "tool_calls": [CALL, CALL]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ):
        question = [{"role": "user", "content": "1 + 2"}]
        before = vocabulary.render_chat(question, [TOOL], None)
        after = vocabulary.render_chat([*question, message], [TOOL], {"add_generation_prompt": False})
        assert after == before + answer_text(message) + "<|eot_id|>"


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("mooncake", {"timestamp": 0}, "input_length and output_length and hash_ids missing"),
        ("mooncake", MOONCAKE | {"hash_ids": [1, 2, 3]}, "3 hash_ids do not fit input_length 513"),
        ("mooncake", MOONCAKE | {"output_length": -1}, "output_length is -1; allowed"),
        ("mooncake", [1], "allowed: a JSON object"),
        ("bailian", BAILIAN | {"chat_id": None}, "chat_id is null; allowed"),
        ("bailian", BAILIAN | {"timestamp": "x"}, 'timestamp is "x"; allowed'),
        ("bailian", BAILIAN | {"hash_ids": [1, 2, 3]}, "3 hash_ids do not fit"),
        ("bailian", BAILIAN | {"type": 3}, "type is 3; allowed"),
        ("bailian", BAILIAN | {"parent_chat_id": 1}, "descends from itself"),
        ("vllm-custom", {"prompt": 3, "output_tokens": 1}, "prompt is 3; allowed"),
        ("vllm-custom", {"prompt": "a"}, "output_tokens is missing; allowed"),
        ("vllm-custom", {"prompt": "a", "output_tokens": 1.5}, "output_tokens is 1.5; allowed"),
        ("openai", {"messages": []}, r"messages is \[\]; allowed"),
        ("openai", {"messages": [{"role": "x"}]}, r'messages\[0\].role is "x"; allowed'),
        ("openai", {"messages": [{"role": "user", "content": "a"}]}, "no answer; allowed"),
        ("openai", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ("openai", {"messages": [{"role": "user", "content": "a"}], "response": 3}, "response is 3; allowed"),
    ],
)
def test_a_broken_row_is_refused_with_file_line_value_and_what_is_allowed(tmp_path, name, row, reason):
    good = {"mooncake": MOONCAKE, "bailian": BAILIAN | {"chat_id": 9}}
    rows = [good[name], row] if name in good else [row]
    with pytest.raises(TraceError, match=reason) as caught:
        convert_rows(tmp_path, name, *rows)
    assert caught.value.line == len(rows)
    assert "in.jsonl" in str(caught.value)


GOOD_CHAT = {"messages": [{"role": "user", "content": "a"}], "response": "b"}
PICTURE = {"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "response": "b"}


@pytest.mark.parametrize(
    ("name", "good", "bad", "reason"),
    [
        ("openai", GOOD_CHAT, PICTURE, "line 2: messages[0]: a content part is 'image_url'; allowed: text"),
        ("vllm-custom", {"prompt": "a", "output_tokens": 1}, {"prompt": 3}, "line 2: prompt is 3; allowed: a text"),
        ("mooncake", MOONCAKE, {"timestamp": 0}, "line 2: input_length and output_length and hash_ids missing"),
    ],
)
def test_a_bad_record_is_left_out_counted_and_named_and_strict_stops_at_it(tmp_path, capsys, name, good, bad, reason):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [*map(json.dumps, (good, bad, good, bad, bad)), "{", "[1]", json.dumps(good)]
    path.write_bytes("\n".join(lines).encode() + b'\n{"a": "\xff"}\n')
    command = ["trace", "convert", "--from", name, str(path), str(out)]
    assert main(command) == 0
    output = capsys.readouterr()
    assert f"dropped 6: line: not of the format (e.g. {reason}" in output.err
    assert ", line 4: " in output.err
    assert ", line 6: " not in output.err
    assert "3 requests" in output.out
    assert len(list(iter_records(out))) == 3
    out.unlink()
    assert main([*command, "--strict"]) == 1
    assert f"{path}, {reason}" in capsys.readouterr().err
    assert not out.exists()


def test_strict_stops_at_the_first_turn_that_sharegpt_would_leave_out(tmp_path, capsys):
    path, out = tmp_path / "in.json", tmp_path / "out.jsonl"
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    path.write_text(json.dumps([{"id": "x", "conversations": turns}]))
    command = ["trace", "convert", "--from", "sharegpt", str(path), str(out)]
    assert main([*command, "--strict"]) == 1
    assert f"{path}: x, the last: turn: not answered; left out without --strict" in capsys.readouterr().err
    assert not out.exists()
    assert main(command) == 0


def test_a_bailian_chat_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(TraceError, match="line 2: chat_id 1 is that of line 1 too"):
        convert_rows(tmp_path, "bailian", BAILIAN, BAILIAN)


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_a_file_without_a_request_leaves_no_trace_behind(tmp_path, name):
    (tmp_path / "in").write_text("")
    with pytest.raises(ValueError, match=r"no request|no record"):
        convert(tmp_path / "in", tmp_path / "out.jsonl", name)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_converted_trace_is_native_and_tagged(tmp_path, suffix):
    (tmp_path / "in").write_text(json.dumps(MOONCAKE))
    out = tmp_path / f"out.jsonl{suffix}"
    convert(tmp_path / "in", out, "mooncake", workload="chat")
    ((_, record),) = iter_records(out)
    assert (record.workload, record.hash_ids) == ("chat", [1, 2])


def test_the_source_is_not_overwritten(tmp_path):
    path = tmp_path / "in"
    path.write_text(json.dumps(MOONCAKE))
    with pytest.raises(ValueError, match="is the file that is read"):
        convert(path, path, "mooncake")
