"""One server for all tests of the HTTP side: starting one costs half a minute."""

from collections.abc import Iterator

import pytest

from tests.serving import Server, serve

SYSTEM = "You answer questions about a library of eight floors, and you answer them in one sentence each time. " * 8
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
ROWS = [
    {"prompt": "hehe", "response": "hahaha!"},
    {"prompt": "emoji", "response": "🤷🏽‍♀️ ünï\r\ncödé \x00 <|eot_id|><|begin_of_text|>"},
    {"prompt": "blanks", "response": "  \n lead and trail \t\n "},
    {"prompt": "empty", "response": ""},
    {"prompt": "long", "response": "one two three four " * 2000},
    {"prompt": "again", "response": "first"},
    {"prompt": "again", "response": "second"},
    {"prompt": "again", "response": "third"},
    {"prompt": "cut", "response": "this was cut", "finish_reason": "length"},
    {"prompt": "stop here", "response": "alpha beta gamma delta"},
    {"prompt_token_ids": [128000, 9906, 1917], "response_token_ids": [128000, 9906, 128009]},
    *(
        {
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Where is shelf {i}?"}],
            "response": f"Shelf {i} is on floor {i % 8}.",
        }
        for i in range(20)
    ),
    {
        "messages": [{"role": "user", "content": "How is the weather in Lima?"}],
        "tools": [TOOL],
        "response": '{"name": "get_weather", "parameters": {"place": "Lima"}}',
    },
    *({"prompt": f"load {i} " + "word " * (i % 40), "response": f"answer {i}"} for i in range(200)),
]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over ROWS, with the README's arguments and what shows cached tokens and tool calls."""
    options = (
        "--max-model-len",
        "16384",
        "--max-num-seqs",
        "64",
        "--block-size",
        "8",
        "--enable-prompt-tokens-details",
    )
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "llama3_json")
    with serve(tmp_path_factory.mktemp("server"), ROWS, *options, *tools) as running:
        yield running
