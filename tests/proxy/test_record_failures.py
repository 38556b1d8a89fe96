"""Errors, hangs and disconnects pass through in both directions, and nothing half is recorded."""

import contextlib
import json
import socket
from pathlib import Path

import httpx
import openai
import pytest
from scripted_upstream import (
    RecorderUnderTest,
    Reply,
    Upstream,
    chat_answer,
    chat_chunk,
    completion,
    json_reply,
    recording,
    sse,
    sse_reply,
)

USER = {"role": "user", "content": "hello"}
ERROR = {"error": {"message": "no such model", "type": "NotFoundError", "param": "model", "code": 404}}


def test_error_of_upstream_reaches_the_client(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(ERROR, status=404, headers=[(b"retry-after", b"7")])
    with pytest.raises(openai.NotFoundError) as raised:
        recorder.client.completions.create(model="m", prompt="a")
    assert raised.value.body == ERROR["error"]
    assert raised.value.response.headers["retry-after"] == "7"
    recorder.wait_for("failed")
    assert recorder.records() == []


def test_error_that_is_no_json_reaches_the_client(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: Reply([b"<html>busy\xff"], status=503, content_type="text/html")
    response = httpx.post(f"{recorder.url}/v1/completions", json={"prompt": "a"})
    assert (response.status_code, response.content) == (503, b"<html>busy\xff")
    recorder.wait_for("failed")


def test_error_event_in_a_stream_is_no_record(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: sse_reply(sse(chat_chunk({"content": "a"}), ERROR))
    with pytest.raises(openai.APIError, match="no such model"):
        list(recorder.client.chat.completions.create(model="m", messages=[USER], stream=True))
    recorder.wait_for("failed")
    assert recorder.records() == []


@pytest.mark.parametrize("body", [b"", b"not json", b"[1]", b'{"prompt": ', b'{"prompt": null}', b'\xff{"prompt":"a"}'])
def test_body_that_is_no_request_passes_unchanged(upstream: Upstream, recorder: RecorderUnderTest, body: bytes) -> None:
    upstream.script = lambda seen: json_reply(ERROR, status=400)
    response = httpx.post(f"{recorder.url}/v1/completions", content=body)
    assert response.status_code == 400
    assert upstream.seen[0].body == body
    recorder.wait_for("not_recorded")


def test_upstream_that_breaks_off_breaks_off_for_the_client(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: sse_reply(sse(chat_chunk({"content": "half"}), done=False), end="break")
    stream = iter(recorder.client.chat.completions.create(model="m", messages=[USER], stream=True))
    assert next(stream).choices[0].delta.content == "half"
    with pytest.raises((httpx.RemoteProtocolError, openai.APIError)):
        next(stream)
    recorder.wait_for("aborted")
    assert recorder.records() == []


def test_stream_that_ends_without_a_finish_reason_is_no_record(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: sse_reply(sse(chat_chunk({"content": "half"})))
    list(recorder.client.chat.completions.create(model="m", messages=[USER], stream=True))
    recorder.wait_for("aborted")


def test_stream_without_done_is_whole_when_its_choices_have_ended(
    upstream: Upstream, recorder: RecorderUnderTest
) -> None:
    upstream.script = lambda seen: sse_reply(sse(chat_chunk({"content": "all"}, "stop"), done=False), end="hang")
    stream = recorder.client.chat.completions.create(model="m", messages=[USER], stream=True)
    assert next(iter(stream)).choices[0].finish_reason == "stop"
    stream.close()
    recorder.wait_for("recorded")
    assert recorder.records()[0].response == "all"


def test_client_that_leaves_before_the_head_closes_the_request(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(completion("late"), wait_s=1.5)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{recorder.url}/v1/completions", json={"prompt": "a"}, timeout=0.2)
    recorder.wait_for("aborted")
    assert upstream.client_left.wait(5)
    assert recorder.records() == []


def test_client_that_leaves_in_an_unrecorded_path_closes_the_request(
    upstream: Upstream, recorder: RecorderUnderTest
) -> None:
    upstream.script = lambda seen: Reply([b"x"], end="hang")
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.get(f"{recorder.url}/other", timeout=0.3)
    assert upstream.client_left.wait(5)


def test_client_that_leaves_with_the_last_byte_is_recorded(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(completion("whole"))
    host, port = recorder.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "a"}).encode()
    for _ in range(20):
        with socket.create_connection((host, int(port))) as client:
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            client.sendall(head + body)
            got = b""
            while b"}]}" not in got:
                got += client.recv(65536)
    recorder.wait_for("recorded", 20)


def test_upstream_that_hangs_is_given_up_after_the_timeout(upstream: Upstream, tmp_path: Path) -> None:
    upstream.script = lambda seen: json_reply(completion("late"), wait_s=1.5)
    with recording(upstream.url, tmp_path / "o.jsonl", read=0.2) as running:
        with pytest.raises(openai.InternalServerError) as raised:
            running.client.completions.create(model="m", prompt="a")
        assert raised.value.status_code == 504
        upstream.script = lambda seen: sse_reply(sse(chat_chunk({"content": "a"}), done=False), end="hang")
        with pytest.raises((httpx.RemoteProtocolError, openai.APIError)):
            list(running.client.chat.completions.create(model="m", messages=[USER], stream=True))
        assert upstream.client_left.wait(5)
        running.wait_for("aborted")
        assert (running.counts.failed, running.counts.recorded) == (1, 0)


def test_upstream_that_is_not_there_is_a_502(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with recording(f"http://127.0.0.1:{port}", tmp_path / "o.jsonl") as running:
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            running.client.chat.completions.create(model="m", messages=[USER])
        running.wait_for("failed")


def test_other_paths_pass_unrecorded(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    upstream.script = lambda seen: json_reply(
        {"data": "é"}, status=201, headers=[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    )
    with httpx.Client() as client:
        response = client.put(f"{recorder.url}/v1/em%2Fbed?x=a%20b", content=b"\x00\xff", headers={"x-own": "1"})
    assert (response.status_code, response.json()) == (201, {"data": "é"})
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    httpx.get(f"{recorder.url}/second")
    first, second = upstream.seen
    assert (first.method, first.path, first.query, first.body) == ("PUT", "/v1/em/bed", b"x=a%20b", b"\x00\xff")
    assert first.headers["x-own"] == "1"
    assert "cookie" not in second.headers
    assert recorder.out.read_bytes() == b""
    assert str(recorder.counts) == "0 recorded, 0 not replayable, 0 failed, 0 aborted, 0 not recorded"


def test_requests_reach_upstream_as_they_were(upstream: Upstream, recorder: RecorderUnderTest) -> None:
    body = b'{"prompt" : "a",  "temperature":0.10}'
    sent = {"authorization": "Bearer k", "user-agent": "own/1", "accept": "a/b", "connection": "x-hop", "x-hop": "1"}
    httpx.post(f"{recorder.url}/v1/completions?api=1", content=body, headers=sent)
    seen = upstream.seen[0]
    assert (seen.body, seen.query) == (body, b"api=1")
    assert {name: seen.headers.get(name) for name in ("authorization", "user-agent", "accept", "x-hop")} == {
        "authorization": "Bearer k",
        "user-agent": "own/1",
        "accept": "a/b",
        "x-hop": None,
    }


def test_upstream_with_v1_in_its_url_is_the_same(upstream: Upstream, tmp_path: Path) -> None:
    upstream.script = lambda seen: json_reply(chat_answer({"content": "a"}))
    with recording(f"{upstream.url}/v1/", tmp_path / "o.jsonl") as running:
        running.client.chat.completions.create(model="m", messages=[USER])
    assert upstream.seen[0].path == "/v1/chat/completions"
