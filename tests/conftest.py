"""One server for all tests of the HTTP side, since a start costs half a minute; and what every worker process needs."""

import fcntl
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from numba.core.caching import IndexDataCacheFile

from tests.serving import Server, serve
from vllm_sim.engine.plugin import TRACE_VARIABLE

# A busy machine is no failure of a test; each has a limit of its own. `make test-all` draws more examples.
settings.register_profile("all", deadline=None, max_examples=100)
settings.register_profile("test", deadline=None, max_examples=30)
settings.load_profile("test")

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
SERVED = ("tests/server/test_requests.py", "tests/standalone_tests/test_simulator_mode.py")
"""The files whose tests share the server."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`: a worker is given whole files, whose fixtures it makes once, and the files of one server."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return SERVED[0] if file in SERVED else file

    return Files(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """vLLM chooses its platform once in a process: whatever is collected first, it is ours."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(TRACE_VARIABLE, "named, so that the platform is ours")
        return (yield)


def pytest_collection_finish() -> None:
    """What is imported stays to the end; a search for garbage among the 650,000 objects of it takes 0.5 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_writer_of_compiled_code() -> Iterator[None]:
    """Workers share numba's cache; two that save at once would give two kernels one file name (numba 0.65, read)."""
    save = IndexDataCacheFile.save

    def save_alone(self: Any, *arguments: Any) -> None:
        with Path(self._index_path).with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            save(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndexDataCacheFile, "save", save_alone)
        yield


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
