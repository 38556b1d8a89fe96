"""What the real server does with everything a client may send."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import ROWS, TOOL
from tests.serving import MODEL, NAME, Server

SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return server.client()


def complete(client: OpenAI, prompt: object, **options: object) -> object:
    return client.completions.create(model=NAME, prompt=prompt, **options)  # type: ignore[call-overload]


def test_prompt_as_token_ids_gives_the_same_answer(client: OpenAI) -> None:
    assert complete(client, [128000, 383, 383]).choices[0].text == "hahaha!"


def test_list_of_prompts_is_answered_in_order(client: OpenAI) -> None:
    choices = complete(client, ["hehe", "blanks", "empty"], max_tokens=50).choices
    assert [choice.text for choice in choices] == ["hahaha!", ROWS[2]["response"], ""]


def test_recorded_token_ids_are_exact(server: Server) -> None:
    body = {"model": NAME, "prompt": [128000, 9906, 1917], "return_token_ids": True}
    choice = httpx.post(f"{server.url}/v1/completions", json=body).json()["choices"][0]
    assert choice["token_ids"] == [128000, 9906, 128009]


def test_repeated_prompt_gives_its_responses_in_turn_and_starts_over(client: OpenAI) -> None:
    texts = [complete(client, "again").choices[0].text for _ in range(6)]
    start = ["first", "second", "third"].index(texts[0])
    assert texts == [["first", "second", "third"][(start + i) % 3] for i in range(6)]


def test_n_gives_successive_responses(client: OpenAI) -> None:
    recorded = ["first", "second", "third"]
    texts = [choice.text for choice in complete(client, "again", n=3).choices]
    start = recorded.index(texts[0])
    assert texts == [recorded[(start + i) % 3] for i in range(3)]


def test_max_tokens_cuts_with_length(client: OpenAI) -> None:
    reply = complete(client, "hehe", max_tokens=2)
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("hahaha", "length")
    assert reply.usage.completion_tokens == 2


def test_recorded_length_ends_with_length(client: OpenAI) -> None:
    reply = complete(client, "cut", max_tokens=100)
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("this was cut", "length")


def test_stop_string_ends_the_text_before_it(client: OpenAI) -> None:
    choice = complete(client, "stop here", stop=[" gamma"], max_tokens=50).choices[0]
    assert (choice.text, choice.finish_reason) == ("alpha beta", "stop")


def test_echo_puts_the_prompt_in_front(client: OpenAI) -> None:
    assert complete(client, "hehe", echo=True).choices[0].text == "hehehahaha!"


def test_ignore_eos_goes_on_to_max_tokens_and_is_deterministic(client: OpenAI) -> None:
    replies = [complete(client, "hehe", max_tokens=30, extra_body={"ignore_eos": True}) for _ in range(2)]
    assert replies[0].choices[0].text.startswith("hahaha!")
    assert replies[0].choices[0].finish_reason == "length"
    assert replies[0].usage.completion_tokens == 30
    assert replies[0].choices[0].text == replies[1].choices[0].text


def test_min_tokens_goes_on_after_the_recorded_end(client: OpenAI) -> None:
    reply = complete(client, "hehe", max_tokens=30, extra_body={"min_tokens": 12})
    assert reply.choices[0].text.startswith("hahaha!")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == 13


def test_sampling_options_have_no_effect(client: OpenAI) -> None:
    options = {"temperature": 1.7, "top_p": 0.1, "seed": 5, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    more = {"top_k": 3, "min_p": 0.2, "repetition_penalty": 1.5}
    assert complete(client, "hehe", **options, extra_body=more).choices[0].text == "hahaha!"


def test_recorded_tool_call_comes_back_as_a_tool_call(client: OpenAI) -> None:
    row = next(row for row in ROWS if "tools" in row)
    choice = client.chat.completions.create(model=NAME, messages=row["messages"], tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0].function
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"place": "Lima"})


def test_miss_is_a_404_that_says_what_to_do_and_the_engine_lives_on(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        complete(client, "nobody ever asked this")
    message = str(error.value)
    assert "'<|begin_of_text|>nobody ever asked this'" in message
    assert "on_miss" in message
    assert complete(client, "hehe").choices[0].text == "hahaha!"


def test_streamed_miss_is_an_error_event(client: OpenAI) -> None:
    with pytest.raises(openai.APIError) as error:
        list(complete(client, "nobody ever asked this", stream=True))
    assert "is not in the trace" in str(error.value)
    assert complete(client, "hehe").choices[0].text == "hahaha!"


def test_streamed_misses_are_a_line_each_in_the_log_and_no_traceback(client: OpenAI, server: Server) -> None:
    messages = [{"role": "user", "content": "nobody ever said this"}]
    for call in (
        lambda: complete(client, "nor was this ever asked", stream=True),
        lambda: client.chat.completions.create(model=NAME, messages=messages, stream=True),
    ):
        before = server.log.stat().st_size
        with pytest.raises(openai.APIError):
            list(call())
        log = server.log.read_text()[before:]
        assert log.count("is not in the trace") == 1
        assert "Traceback" not in log


def test_list_with_one_miss_fails_whole(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        complete(client, ["hehe", "nobody ever asked this"])


@pytest.mark.parametrize(
    "prompt", [[128256], [128000, 200000], [2**31], [128000, 2**40], [[]], [[], [128000, 383, 383]]]
)
def test_tokens_that_no_trace_can_hold_are_a_400_as_with_a_model(client: OpenAI, prompt: list) -> None:
    with pytest.raises(openai.BadRequestError):
        complete(client, prompt)


@pytest.mark.parametrize(
    ("parameter", "options"),
    [
        ("logprobs", {"logprobs": 2}),
        ("prompt_logprobs", {"extra_body": {"prompt_logprobs": 1}}),
        ("use_beam_search", {"n": 2, "max_tokens": 4, "extra_body": {"use_beam_search": True}}),
        ("structured_outputs", {"extra_body": {"structured_outputs": {"regex": "a+"}}}),
        ("response_format", {"extra_body": {"response_format": {"type": "json_object"}}}),
        (
            "response_format, tool_choice or structured_outputs",
            {
                "extra_body": {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "a", "schema": {"type": "object"}},
                    }
                }
            },
        ),
        ("bad_words", {"extra_body": {"bad_words": ["x"]}}),
        ("allowed_token_ids", {"extra_body": {"allowed_token_ids": [1, 2]}}),
        ("logit_bias", {"logit_bias": {"5": 1.0}}),
    ],
)
def test_what_needs_logits_is_a_400_with_its_name(client: OpenAI, parameter: str, options: dict) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, "hehe", **options)
    assert error.value.param == parameter


def test_forced_tool_choice_and_chat_logprobs_are_refused(client: OpenAI) -> None:
    row = next(row for row in ROWS if "tools" in row)
    forced = {"type": "function", "function": {"name": "get_weather"}}
    for options in ({"tools": [TOOL], "tool_choice": forced}, {"logprobs": True, "top_logprobs": 2}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=NAME, messages=row["messages"], **options)


def test_what_the_manual_says_about_tools_is_how_this_server_was_started() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "server.md").read_text()
    assert "--enable-auto-tool-choice --tool-call-parser llama3_json" in manual


def test_media_are_refused_and_the_server_lives_on(client: OpenAI) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": [picture]}])
    assert complete(client, "hehe").choices[0].text == "hahaha!"


def test_hundreds_of_requests_at_once_get_their_own_answers(server: Server) -> None:
    rows = [row for row in ROWS if str(row.get("prompt", "")).startswith("load ")]

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            calls = [client.completions.create(model=NAME, prompt=row["prompt"], max_tokens=50) for row in rows]
            return [reply.choices[0].text for reply in await asyncio.gather(*calls)]

    assert asyncio.run(ask_all()) == [row["response"] for row in rows]


def test_client_that_goes_away_leaves_nothing_running(server: Server, client: OpenAI) -> None:
    before = server.metric("vllm:generation_tokens_total")
    for _ in range(5):
        stream = complete(client, "long", max_tokens=15000, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    ends = time.monotonic() + 60  # a loaded machine tells the engine later
    while complete(client, "hehe").choices[0].text == "hahaha!" and server.metric("vllm:num_requests_running"):
        assert time.monotonic() < ends
    assert complete(client, "hehe").choices[0].text == "hahaha!"
    assert server.metric("vllm:generation_tokens_total") - before < 5 * 15000 / 2


@pytest.mark.slow
def test_bench_serve_has_no_failed_request(server: Server, tmp_path: Path) -> None:
    data = tmp_path / "custom.jsonl"
    prompts = [row for row in ROWS if str(row.get("prompt", "")).startswith("load ")][:50]
    data.write_text("".join(json.dumps({"prompt": row["prompt"], "output_tokens": 8}) + "\n" for row in prompts))
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--base-url", server.url),
        *("--model", NAME, "--tokenizer", str(MODEL), "--dataset-name", "custom", "--dataset-path", str(data)),
        *("--num-prompts", "50", "--skip-chat-template", "--save-result", "--result-dir", str(tmp_path)),
        *("--result-filename", "bench.json", "--disable-tqdm", "--custom-output-len", "-1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "bench.json").read_text())
    assert (result["completed"], result["failed"]) == (50, 0)


def test_start_logs_blocks_and_warns_of_no_unknown_variable(server: Server) -> None:
    log = server.log.read_text()
    assert "blocks of 8 tokens" in log
    assert "Unknown vLLM environment variable" not in log
    assert "incorrect regex" not in log


def test_recorded_long_answer_of_8000_tokens_is_whole(client: OpenAI) -> None:
    reply = complete(client, "long", max_tokens=9000)
    assert reply.usage.completion_tokens > 8000
    assert reply.choices[0].text == "one two three four " * 2000
