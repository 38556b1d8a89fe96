"""ShareGPT dumps: what is whole is kept, split conversations are joined, and every loss has a reason."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sim.trace.formats import Options, Report, sharegpt

ROLE = {"h": "human", "g": "gpt", "s": "system"}


def entry(name: str, *turns: str) -> dict:
    """Turns are written as "h:text"."""
    messages = [{"from": ROLE.get(turn[0], turn[0]), "value": turn[2:]} for turn in turns]
    return {"id": name, "conversations": messages}


def conversations(folder: Path, *entries: object) -> tuple[dict[str, list[str]], Report]:
    path = folder / "dump.json"
    path.write_text(json.dumps(entries))
    report = Report()
    found = sharegpt.iter_conversations(path, Options(), report)
    return {c.id: [f"{m['role'][0]}:{m['content']}" for m in c.messages] for c in found}, report


def test_parts_numbered_by_message_are_joined_without_the_repeated_one(tmp_path):
    parts = entry("a_0", "h:1", "g:2"), entry("a_1", "g:2", "h:3", "g:4"), entry("a_4", "h:5", "g:6")
    found, report = conversations(tmp_path, *parts)
    assert found == {"a": ["u:1", "a:2", "u:3", "a:4", "u:5", "a:6"]}
    assert report.repaired == {"a part was joined to the one before it": 2}


def test_parts_that_are_counted_are_joined(tmp_path):
    found, _ = conversations(tmp_path, entry("a_0", "h:1", "g:2", "h:3", "g:4"), entry("a_1", "h:5", "g:6"))
    assert found == {"a": ["u:1", "a:2", "u:3", "a:4", "u:5", "a:6"]}


def test_a_part_after_a_gap_and_all_that_follows_is_dropped(tmp_path):
    parts = entry("a_0", "h:1", "g:2"), entry("a_9", "h:3", "g:4"), entry("a_11", "h:5", "g:6")
    found, report = conversations(tmp_path, *parts, entry("b_3", "h:1", "g:2"))
    assert found == {"a": ["u:1", "a:2"]}
    assert sum(report.dropped.values()) == 3


def test_a_conversation_that_comes_twice_is_kept_once(tmp_path):
    found, report = conversations(
        tmp_path, entry("a_0", "h:1", "g:2"), entry("b_0", "h:1", "g:2"), entry("a_0", "h:1", "g:2")
    )
    assert list(found) == ["a", "b"]
    assert report.dropped == {"conversation: its id was there before": 1}


@pytest.mark.parametrize(
    ("turns", "kept", "reason"),
    [
        (["h:1", "g:2", "h: ", "h:3", "g:4"], ["u:1", "a:2", "u:3", "a:4"], "turn: empty"),
        (["h:1", "h:2", "g:3"], ["u:1\n\n2", "a:3"], "two questions in a row were joined by a blank line"),
        (["s:0", "h:1", "g:2"], ["s:0", "u:1", "a:2"], None),
        (["h:1", "g:2", "s:3", "h:4", "g:5"], ["u:1", "a:2", "u:4", "a:5"], "turn: system, not at the beginning"),
        (["g:0", "h:1", "g:2"], ["u:1", "a:2"], "turn: an answer without a question"),
        (["h:1", "g:2", "g:3", "h:4", "g:5"], ["u:1", "a:2"], "turns: after two answers in a row"),
        (["h:1", "g:2", "h:3"], ["u:1", "a:2"], "turn: not answered"),
        (["h:1", "g:2", "h:\ud83d", "h:3", "g:4"], ["u:1", "a:2", "u:3", "a:4"], "turn: holds half a character"),
        (["h:1", "x:2", "g:3"], ["u:1", "a:3"], "turn: from 'x'"),
        (["h:1"], None, "conversation: without an exchange"),
        ([], None, None),
    ],
)
def test_repairs(tmp_path, turns, kept, reason):
    found, report = conversations(tmp_path, entry("a", *turns))
    assert found.get("a") == kept
    counted = set(report.dropped) | set(report.repaired)
    assert reason in counted if reason else not counted


def test_entries_that_are_none_are_counted(tmp_path):
    found, report = conversations(tmp_path, 1, {"id": "x"}, {"id": "y", "conversations": [1, {"from": "human"}]})
    assert found == {}
    assert report.dropped["entry: not an object"] == 1
    assert report.dropped["entry: no list of conversations"] == 1
    assert report.dropped["turn: without a text"] == 2


def test_a_file_cut_off_in_the_middle_gives_the_whole_entries(tmp_path):
    path = tmp_path / "dump.json"
    text = json.dumps([entry("a", "h:1", "g:2"), entry("b", "h:3", "g:4")])
    path.write_text(text[:-20])
    report = Report()
    assert [r.id for r in sharegpt.convert(path, Options(), report)] == ["a-0"]
    assert report.dropped == {"the file is cut off within an entry": 1}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(exchanges=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), data=st.data(), system=st.none() | TEXTS)
def test_every_way_of_splitting_gives_the_requests_of_the_whole(tmp_path_factory, exchanges, data, system):
    messages = [{"from": "system", "value": system}] if system else []
    for question, answer in exchanges:
        messages += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(messages) - 1), max_size=3)))
    parts = [(begin, end) for begin, end in zip([0, *cuts], [*cuts, len(messages)], strict=True)]
    path = tmp_path_factory.getbasetemp() / "split.json"
    path.write_text(json.dumps([{"id": f"x_{b}", "conversations": messages[b:e]} for b, e in parts]))
    records = list(sharegpt.convert(path, Options(), Report()))
    assert [r.response for r in records] == [answer for _, answer in exchanges]
    assert [r.turn for r in records] == list(range(len(exchanges)))
    assert {r.session_id for r in records} == {"x"}
    for record in records:
        sent = [m["content"] for m in record.messages or []]
        assert sent == [m["value"] for m in messages[: len(sent)]]
