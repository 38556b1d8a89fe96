"""Clients as they are installed, each in an environment of its own, against one server; part of `make test-all`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.environments import python_of
from tests.conftest import SYSTEM
from tests.serving import MODEL, NAME, Server, free_port, serve

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}]
TOKENS = [128000, *range(500, 539)]
ROWS = [
    {"prompt": "hehe", "response": "hahaha!"},
    {"messages": [{"role": "user", "content": "Name a metal."}], "response": "Iron."},
    {
        "messages": [{"role": "user", "content": "The weather in Lima?"}],
        "tools": TOOLS,
        "response": '{"name": "weather", "parameters": {"place": "Lima"}}',
    },
    {"prompt_token_ids": TOKENS, "output_length": 3},
    {"prompt_token_ids": [128000, 7, *TOKENS[2:]], "output_length": 3},
]
COMMON = ("--max-model-len", "4096", "--block-size", "8")


@pytest.fixture(scope="module")
def events() -> int:
    """The port at which the server publishes KV events."""
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, events: int) -> Iterator[Server]:
    # With an address in place of the star vLLM connects, and does not listen.
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://*:{events}", "topic": "kv"}
    options = (
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "llama3_json",
        "--kv-events-config",
        json.dumps(config),
    )
    with serve(tmp_path_factory.mktemp("clients"), ROWS, *COMMON, *options) as running:
        yield running


@pytest.mark.parametrize("client", ["openai", "litellm", "prometheus", "subscriber"])
def test_a_client_gets_what_it_expects(server: Server, events: int, client: str) -> None:
    command = [str(python_of(client)), str(FOLDER / f"with_{client}.py"), server.url, NAME]
    command += [f"tcp://127.0.0.1:{events}"] if client == "subscriber" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def synthesizing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    option = ("--additional-config", '{"vllm_sim": {"on_miss": "synthesize"}}')
    with serve(tmp_path_factory.mktemp("bench"), ROWS, *COMMON, *option) as running:
        yield running


@pytest.mark.parametrize("dataset", ["random", "prefix_repetition", "custom", "sharegpt"])
def test_vllms_own_benchmark_runs_and_counts_the_tokens_that_it_asked_for(
    synthesizing: Server, tmp_path: Path, dataset: str
) -> None:
    path = tmp_path / "data"
    if dataset == "custom":
        path.write_text("".join(json.dumps({"prompt": f"{SYSTEM} {i}", "output_tokens": 20}) + "\n" for i in range(20)))
    else:
        turns = [{"from": "human", "value": SYSTEM}, {"from": "gpt", "value": "a " * 20}]
        path.write_text(json.dumps([{"id": str(i), "conversations": turns} for i in range(20)]))
    options = {
        "random": ("--random-input-len", "64", "--random-output-len", "20"),
        "prefix_repetition": (
            *("--prefix-repetition-prefix-len", "64", "--prefix-repetition-suffix-len", "16"),
            *("--prefix-repetition-num-prefixes", "2", "--prefix-repetition-output-len", "20"),
        ),
        "custom": ("--dataset-path", str(path), "--custom-output-len", "20"),
        "sharegpt": ("--dataset-path", str(path), "--sharegpt-output-len", "20"),
    }[dataset]
    command = [str(Path(sys.executable).with_name("vllm")), "bench", "serve", "--base-url", synthesizing.url]
    command += ["--model", NAME, "--tokenizer", str(MODEL), "--dataset-name", dataset, "--num-prompts", "20", *options]
    command += ["--ignore-eos", "--save-result", "--result-dir", str(tmp_path), "--result-filename", "result.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["total_output_tokens"]) == (20, 20 * 20)
