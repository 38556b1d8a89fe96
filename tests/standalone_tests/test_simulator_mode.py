"""The simulator's acceptance test: the real server replays what was stored, and shared prefixes are hit."""

import httpx

from tests.conftest import ROWS
from tests.serving import NAME, Server


def test_readme_curl_gets_the_stored_answer(server: Server) -> None:
    body = {"model": NAME, "prompt": "hehe", "max_tokens": 16}
    reply = httpx.post(f"{server.url}/v1/completions", json=body).json()
    assert reply["choices"][0]["text"] == "hahaha!"
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = reply["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 4, 7)


def test_completions_come_back_exactly_as_stored(server: Server) -> None:
    client = server.client()
    for row in ROWS:
        if "prompt" not in row or row["prompt"] == "again":
            continue
        choice = client.completions.create(model=NAME, prompt=row["prompt"], max_tokens=9000).choices[0]
        assert choice.text == row["response"]
        assert choice.finish_reason == row.get("finish_reason", "stop")


def test_chats_come_back_exactly_as_stored(server: Server) -> None:
    client = server.client()
    for row in ROWS:
        if "messages" in row and "tools" not in row:
            choice = client.chat.completions.create(model=NAME, messages=row["messages"]).choices[0]
            assert choice.message.content == row["response"]
            assert choice.finish_reason == "stop"


def test_streams_come_back_exactly_as_stored(server: Server) -> None:
    client = server.client()
    for row in ROWS[:6]:
        stream = client.completions.create(model=NAME, prompt=row["prompt"], max_tokens=9000, stream=True)
        text = "".join(chunk.choices[0].text for chunk in stream)
        assert text == row["response"] or row["prompt"] == "again"
    chat = next(row for row in ROWS if "messages" in row)
    stream = client.chat.completions.create(model=NAME, messages=chat["messages"], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == chat["response"]


def test_shared_prefixes_are_hit_and_the_metrics_agree_with_usage(server: Server) -> None:
    client = server.client()
    hits, queries = "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"
    hits_before, queries_before = server.metric(hits), server.metric(queries)
    prompt_tokens = cached_tokens = 0
    for row in ROWS:
        if "messages" in row and "tools" not in row:
            usage = client.chat.completions.create(model=NAME, messages=row["messages"]).usage
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            prompt_tokens += usage.prompt_tokens
            cached_tokens += usage.prompt_tokens_details.cached_tokens or 0
    assert cached_tokens > prompt_tokens / 2
    assert server.metric(hits) - hits_before == cached_tokens
    assert server.metric(queries) - queries_before == prompt_tokens
