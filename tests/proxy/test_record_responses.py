"""What the real client gets through the recorder, and what the trace holds then."""

import gzip
import json

import httpx
import pytest
from scripted_upstream import (
    RecorderUnderTest,
    Reply,
    Upstream,
    chat_answer,
    chat_chunk,
    completion,
    json_reply,
    sse,
    sse_reply,
)

from vllm_sim.trace.files import format_record

USER = {"role": "user", "content": "hello"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def test_completion_is_recorded(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(completion("hahaha!"))
    answer = recorder.client.completions.create(
        model="m", prompt="hehe", max_tokens=7, user="ann", extra_body={"cache_salt": "s", "priority": 3}
    )
    assert answer.choices[0].text == "hahaha!"
    record = recorder.records()[0].to_json()
    assert record.pop("timestamp") >= 0
    assert record == {
        "prompt": "hehe",
        "response": "hahaha!",
        "finish_reason": "stop",
        "max_tokens": 7,
        "id": "cmpl-1",
        "session_id": "session-1",
        "turn": 0,
        "cache_salt": "s",
        "priority": 3,
        "tenant": "ann",
        "model": "m",
    }


def test_chat_keeps_tools_and_template_arguments(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(chat_answer({"content": "hi"}, "length"))
    recorder.client.chat.completions.create(
        model="m",
        messages=[USER],
        tools=TOOLS,
        max_completion_tokens=1,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    record = recorder.records()[0]
    assert (record.messages, record.response, record.finish_reason, record.max_tokens) == ([USER], "hi", "length", 1)
    assert (record.tools, record.chat_template_kwargs) == (TOOLS, {"enable_thinking": False})


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_stream_cut_anywhere_reaches_client_and_trace(
    upstream: Upstream, recorder: RecorderUnderTest, line_end: bytes, size: int
) -> None:
    stream = b": ping" + line_end * 2
    stream += sse(
        chat_chunk({"role": "assistant", "content": ""}),
        chat_chunk({"content": "smile \U0001f600"}),
        chat_chunk({"content": " é"}, "stop"),
        {"id": "chat-1", "model": "m", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 4}},
        line_end=line_end,
    )
    upstream.script = lambda seen: sse_reply(*[stream[i : i + size] for i in range(0, len(stream), size)])
    with httpx.stream(
        "POST", f"{recorder.url}/v1/chat/completions", json={"messages": [USER], "stream": True}
    ) as response:
        assert b"".join(response.iter_raw()) == stream
    assert recorder.records()[0].response == "smile \U0001f600 é"
    chunks = recorder.client.chat.completions.create(model="m", messages=[USER], stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == recorder.records()[1].response == "smile \U0001f600 é"


def test_multi_line_data_and_halves_of_a_character_are_joined(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    first = json.dumps(chat_chunk({"content": "\ud83d"}), indent=1).encode()
    second = json.dumps(chat_chunk({"content": "\ude00"}, "stop")).encode()
    stream = b"".join(b"data: " + line + b"\n" for line in first.split(b"\n")) + b"\ndata: " + second + b"\n\n"
    upstream.script = lambda seen: sse_reply(stream)
    httpx.post(f"{recorder.url}/v1/chat/completions", json={"messages": [USER], "stream": True})
    assert recorder.records()[0].response == "\U0001f600"


def test_stream_arrives_before_it_ends(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: sse_reply(sse(chat_chunk({"content": "now"}), done=False), end="hang")
    stream = recorder.client.chat.completions.create(model="m", messages=[USER], stream=True)
    assert next(iter(stream)).choices[0].delta.content == "now"
    stream.close()
    assert upstream.client_left.wait(5)
    recorder.wait_for("aborted")
    assert recorder.records() == []


def test_interleaved_choices_of_several_prompts_become_a_record_each(
    upstream: Upstream, recorder: RecorderUnderTest
) -> None:
    def chunk(index: int, text: str, finish: str | None = None) -> dict[str, object]:
        choice = {"index": index, "text": text, "finish_reason": finish}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}

    order = [(3, "d"), (0, "a"), (2, "c"), (0, "A"), (1, "b")]
    events = [chunk(i, t) for i, t in order] + [chunk(i, "", "stop") for i in (2, 0, 3, 1)]
    upstream.script = lambda seen: sse_reply(sse(*events))
    list(recorder.client.completions.create(model="m", prompt=["x", "y"], n=2, stream=True))
    found = [(r.prompt, r.response, r.id, r.session_id) for r in recorder.records()]
    assert found == [
        ("x", "aA", "cmpl-1-0", "session-1"),
        ("x", "b", "cmpl-1-1", "session-1"),
        ("y", "c", "cmpl-1-2", "session-3"),
        ("y", "d", "cmpl-1-3", "session-3"),
    ]


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]]])
def test_prompts_of_token_ids_are_recorded(upstream: Upstream, recorder: RecorderUnderTest, prompt: list) -> None:
    recorder.client.completions.create(model="m", prompt=prompt)
    assert recorder.records()[0].prompt_token_ids == [1, 2]


def test_token_ids_are_asked_of_vllm_and_recorded(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.owner = "vllm"
    call = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}]
    rest = [{"index": 0, "function": {"arguments": ": 1}"}}]
    stream = sse(
        {**chat_chunk({"role": "assistant", "content": ""}), "prompt_token_ids": [9, 8]},
        chat_chunk({"reasoning": "hm"}, token_ids=[1]),
        chat_chunk({"tool_calls": call}, token_ids=[2, 3]),
        chat_chunk({"tool_calls": rest}, "tool_calls", token_ids=[4]),
    )
    upstream.script = lambda seen: sse_reply(stream)
    list(recorder.client.chat.completions.create(model="m", messages=[USER], stream=True, tools=TOOLS))
    assert upstream.seen[0].json()["return_token_ids"] is True
    record = recorder.records()[0]
    assert (record.response_token_ids, record.finish_reason) == ([1, 2, 3, 4], "tool_calls")
    called = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    assert record.extra["message"] == {"role": "assistant", "content": "", "reasoning": "hm", "tool_calls": called}
    assert "replayable" not in record.extra


def test_token_ids_are_not_asked_of_others(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    recorder.client.completions.create(model="m", prompt="a")
    assert "return_token_ids" not in upstream.seen[0].json()


@pytest.mark.parametrize("sent", [{"return_token_ids": False}, {"echo": True}])
def test_client_decides_about_token_ids(upstream: Upstream, recorder: RecorderUnderTest, sent: dict) -> None:
    upstream.owner = "vllm"
    recorder.client.completions.create(model="m", prompt="a", extra_body=sent)
    assert upstream.seen[0].json().get("return_token_ids") is sent.get("return_token_ids")


@pytest.mark.parametrize(
    ("message", "usage", "sent", "reason"),
    [
        ({"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, 5, {}, "tool"),
        ({"content": "a", "reasoning_content": "b"}, None, {}, "reasoning"),
        ({"content": "", "refusal": "no"}, 5, {}, "refusal"),
        ({"content": "a"}, None, {"reasoning_effort": "low"}, "reasoning_effort"),
        ({"content": "a"}, None, {"add_generation_prompt": False}, "add_generation_prompt"),
    ],
)
def test_what_text_cannot_replay_is_marked_and_counted(
    upstream: Upstream, recorder: RecorderUnderTest, message: dict, usage: int | None, sent: dict, reason: str
) -> None:
    value = chat_answer(message) | ({"usage": {"completion_tokens": usage}} if usage else {})
    upstream.script = lambda seen: json_reply(value)
    recorder.client.chat.completions.create(model="m", messages=[USER], extra_body=sent)
    record = recorder.records()[0]
    assert record.extra["replayable"] is False
    assert reason in record.extra["not_replayable_because"]
    assert record.output_length == usage
    assert (recorder.counts.recorded, recorder.counts.not_replayable) == (1, 1)


def test_prompt_that_the_format_cannot_tell_is_recorded_as_token_ids(
    upstream: Upstream, recorder: RecorderUnderTest
) -> None:
    upstream.owner = "vllm"
    value = chat_answer({"content": "a"}, token_ids=[7, 8]) | {"prompt_token_ids": [1, 2, 3]}
    upstream.script = lambda seen: json_reply(value)
    recorder.client.chat.completions.create(model="m", messages=[USER], reasoning_effort="low", tools=TOOLS)
    record = recorder.records()[0]
    assert (record.prompt_token_ids, record.response_token_ids, record.tools) == ([1, 2, 3], [7, 8], None)
    assert "replayable" not in record.extra


def test_echo_is_taken_off_the_response(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(completion("hehe hahaha!"))
    answer = recorder.client.completions.create(model="m", prompt="hehe ", echo=True)
    assert answer.choices[0].text == "hehe hahaha!"
    assert recorder.records()[0].response == "hahaha!"


def test_gzip_passes_unchanged_and_is_read(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    packed = gzip.compress(json.dumps(completion("packed")).encode())
    upstream.script = lambda seen: Reply([packed[:9], packed[9:]], headers=[(b"content-encoding", b"gzip")])
    with httpx.stream(
        "POST",
        f"{recorder.url}/v1/completions",
        json={"prompt": "a"},
        headers={"accept-encoding": "br, gzip"},
    ) as response:
        assert b"".join(response.iter_raw()) == packed
    assert upstream.seen[0].headers["accept-encoding"] == "gzip"
    assert recorder.records()[0].response == "packed"


def test_foreign_encoding_passes_and_is_counted(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(completion("a"), headers=[(b"content-encoding", b"x-own")])
    with httpx.stream("POST", f"{recorder.url}/v1/completions", json={"prompt": "a"}) as response:
        assert b"".join(response.iter_raw()) == json.dumps(completion("a")).encode()
    recorder.wait_for("not_recorded")


def test_every_record_is_one_that_the_trace_layer_reads_and_writes_alike(
    upstream: Upstream, recorder: RecorderUnderTest
) -> None:
    upstream.script = lambda seen: json_reply(completion("line\nend \u2028 \x00 \U0001f600"))
    for _ in range(3):
        recorder.client.completions.create(model="m", prompt="\ttab")
    assert recorder.out.read_text(encoding="utf-8").split("\n")[:-1] == [
        format_record(r)[:-1] for r in recorder.records()
    ]
    times = [r.timestamp for r in recorder.records()]
    assert times == sorted(times)
