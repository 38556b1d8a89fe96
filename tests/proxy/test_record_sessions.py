"""Sessions are those that the client names, or those that the texts show."""

from pathlib import Path
from typing import Any

import pytest
from scripted_upstream import RecorderUnderTest, Upstream, chat_answer, completion, json_reply, recording

from vllm_sim.proxy.sessions import Place, Sessions
from vllm_sim.trace.record import Record


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def places(recorder: RecorderUnderTest) -> list[tuple[Any, Any]]:
    return [(r.session_id, r.turn) for r in recorder.records()]


def test_chat_that_continues_keeps_its_session(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    answers = iter([{"content": " one\n"}, {"content": None, "tool_calls": calls}, {"content": "three"}])
    upstream.script = lambda seen: json_reply(chat_answer(next(answers, {"content": "other"})))
    history: list[dict[str, Any]] = [user("1")]
    for text in ("2", None, "4"):
        answer = recorder.client.chat.completions.create(model="m", messages=history).choices[0].message
        history.append(answer.model_dump())
        history.append(user(text) if text else {"role": "tool", "tool_call_id": "c", "content": "r"})
    recorder.client.chat.completions.create(model="m", messages=[user("1")])
    assert places(recorder) == [("session-1", 0), ("session-1", 1), ("session-1", 2), ("session-4", 0)]


def test_content_parts_and_other_blanks_in_arguments_continue_too(
    upstream: Upstream, recorder: RecorderUnderTest
) -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"b":2,"a": 1}'}}]
    upstream.script = lambda seen: json_reply(chat_answer({"content": "hm", "tool_calls": calls}))
    recorder.client.chat.completions.create(model="m", messages=[user("1")])
    sent_back = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1,"b":2}'}}]
    parts = {"role": "assistant", "content": [{"type": "text", "text": "hm"}], "tool_calls": sent_back}
    recorder.client.chat.completions.create(model="m", messages=[user("1"), parts, user("2")])
    assert places(recorder)[1] == ("session-1", 1)


def test_completion_that_continues_keeps_its_session(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    for prompt in ("Q: é", "Q: é yes. Q: b", "Q: é yes. Q: b yes. Q: c", "Q: é no"):
        upstream.script = lambda seen: json_reply(completion(" yes."))
        recorder.client.completions.create(model="m", prompt=prompt)
    assert places(recorder) == [("session-1", 0), ("session-1", 1), ("session-1", 2), ("session-4", 0)]


def test_each_choice_can_be_continued(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(completion(*("abc" if seen.json().get("n") else "d")))
    recorder.client.completions.create(model="m", prompt="x", n=3)
    recorder.client.completions.create(model="m", prompt="xb more")
    assert places(recorder) == [("session-1", 0)] * 3 + [("session-1", 1)]


@pytest.mark.parametrize(
    "options",
    [
        {"extra_headers": {"x-session-id": "mine"}},
        {"extra_body": {"session_id": "mine"}},
        {"extra_body": {"metadata": {"session_id": "mine"}}},
    ],
)
def test_session_of_the_client_is_kept(
    upstream: Upstream, recorder: RecorderUnderTest, options: dict[str, Any]
) -> None:
    for _ in range(2):
        recorder.client.completions.create(model="m", prompt="unrelated", **options)
    assert places(recorder) == [("mine", 0), ("mine", 1)]


def test_user_is_a_tenant_and_no_session(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    for tenant in ("ann", "bob"):
        recorder.client.completions.create(model="m", prompt="a", user=tenant)
    recorder.client.completions.create(model="m", prompt="ahi", user="bob")
    assert [(r.tenant, r.session_id) for r in recorder.records()] == [
        ("ann", "session-1"),
        ("bob", "session-2"),
        ("bob", "session-2"),
    ]


def test_recording_goes_on_in_a_file_that_is_there(upstream: Upstream, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    upstream.owner = "vllm"
    upstream.script = lambda seen: json_reply(chat_answer({"content": "a"}, token_ids=[5, 6]))
    for messages in ([user("1")], [user("1"), {"role": "assistant", "content": "a"}, user("2")], [user("3")]):
        with recording(upstream.url, out) as running:
            running.client.chat.completions.create(model="m", messages=messages)
    assert places(running) == [("session-1", 0), ("session-1", 1), ("session-3", 0)]
    times = [r.timestamp for r in running.records()]
    assert times == sorted(set(times))


def exchange(prompt: str, response: str, session: str, turn: int = 0) -> Record:
    return Record(prompt=prompt, response=response, session_id=session, turn=turn)


def continue_one(sessions: Sessions, prompt: str, response: str) -> Place | None:
    """What a request is said to continue, which is remembered then."""
    record = Record(prompt=prompt, response=response)
    place = sessions.continued(record)
    if place is not None:
        sessions.remember(exchange(prompt, response, str(place.session_id), place.turn + 1))
    return place


def test_sessions_that_began_alike_are_not_thrown_together() -> None:
    sessions = Sessions()
    for name in ("a", "b", "c"):
        sessions.remember(exchange("same", " answer", name))
    found = [continue_one(sessions, f"same answer {i}", "") for i in range(5)]
    assert found == [Place("c", 0), Place("b", 0), Place("a", 0), Place("c", 0), Place("b", 0)]


def test_a_chat_that_is_repeated_is_as_many_sessions_also_after_a_restart(upstream: Upstream, tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    upstream.script = lambda seen: json_reply(chat_answer({"content": "the same"}))
    history: list[dict[str, Any]] = []
    for text in ("1", "2", "3"):
        history += [user(text), {"role": "assistant", "content": "the same"}]
    for _ in range(2):
        with recording(upstream.url, out) as running:
            for _ in range(2):
                for turn in range(3):
                    running.client.chat.completions.create(model="m", messages=history[: 2 * turn + 1])
    assert places(running) == [(f"session-{first}", turn) for first in (1, 4, 7, 10) for turn in range(3)]


def test_an_exchange_that_nobody_continued_is_not_preferred_to_a_later_one() -> None:
    sessions = Sessions()
    sessions.remember(exchange("same", " answer", "abandoned"))
    for name in ("a", "b"):
        sessions.remember(exchange("same", " answer", name))
        assert continue_one(sessions, "same answer more", " yes") == Place(name, 0)
        assert continue_one(sessions, "same answer more yes and", " no") == Place(name, 1)


def test_longest_history_wins() -> None:
    sessions = Sessions()
    sessions.remember(exchange("p", "q" * 40, "long", 4))
    sessions.remember(exchange("p", "q", "short"))
    assert sessions.continued(Record(prompt="p" + "q" * 41, response="")) == Place("long", 4)
    assert sessions.continued(Record(prompt="pqr", response="")) == Place("short", 0)


def test_token_ids_continue_with_or_without_the_end_token() -> None:
    sessions = Sessions()
    first = Record(prompt_token_ids=[1, 2], response_token_ids=[3, 99], finish_reason="stop", session_id="s", turn=0)
    sessions.remember(first)
    for ids in ([1, 2, 3, 99, 4], [1, 2, 3, 4]):
        assert sessions.continued(Record(prompt_token_ids=ids, response="")) == Place("s", 0)
    assert sessions.continued(Record(prompt_token_ids=[1, 2, 4], response="")) is None


def test_index_is_bounded_and_forgets_the_oldest() -> None:
    sessions = Sessions(capacity=10)
    for i in range(100):
        sessions.remember(exchange(f"prompt {i} " + "x" * i, "yes", f"s{i}"))
    prompts = [Record(prompt=f"prompt {i} " + "x" * i + "yes!", response="") for i in range(100)]
    found = [sessions.continued(p) for p in prompts]
    assert found == [None] * 90 + [Place(f"s{i}", 0) for i in range(90, 100)]
    assert sum(map(len, sessions._tails.values())) == len(sessions._places) == len(sessions._turns) == 10
