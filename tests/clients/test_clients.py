"""Clients as they are installed, each in an environment of its own, against one server; part of `make test-all`."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.clients.environments import python_of
from tests.conftest import SYSTEM
from tests.serving import MODEL, NAME, ROOT, Server, free_port, serve

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


@pytest.mark.parametrize("client", ["openai", "litellm", "langchain", "prometheus", "subscriber"])
def test_a_client_gets_what_it_expects(server: Server, events: int, client: str) -> None:
    command = [str(python_of(client)), str(FOLDER / f"with_{client}.py"), server.url, NAME]
    command += [f"tcp://127.0.0.1:{events}"] if client == "subscriber" else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus that reads the metrics of a server each second."""
    scrape = {"job_name": "vllm", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape]}))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'tsdb'}"], stdout=log, stderr=log)
    try:
        yield f"http://{address}/api/v1/query"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus is installed")
def test_every_panel_of_the_dashboard_shows_what_a_real_prometheus_has_scraped(server: Server, tmp_path: Path) -> None:
    panels = json.loads((ROOT / "examples" / "grafana.json").read_text(encoding="utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    wanted = [expr.replace("$__rate_interval", "30s").replace("$model", ".*") for expr in asked]
    chat = {"model": NAME, "messages": ROWS[1]["messages"]}
    until, empty = time.monotonic() + 60, list(wanted)
    with scraping(tmp_path, server.url.removeprefix("http://")) as query:
        while empty and time.monotonic() < until:
            httpx.post(f"{server.url}/v1/chat/completions", json=chat).raise_for_status()
            with suppress(httpx.TransportError):  # it starts
                answers = {expr: httpx.get(query, params={"query": expr}).json() for expr in wanted}
                assert all(answer["status"] == "success" for answer in answers.values())
                values = {expr: [float(one["value"][1]) for one in answers[expr]["data"]["result"]] for expr in wanted}
                empty = [expr for expr in wanted if not values[expr] or any(map(math.isnan, values[expr]))]
            time.sleep(0.5)
    assert empty == []
    (hit_rate,) = values[wanted[0]]
    assert 0 < hit_rate < 1


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


def test_guidellm_measures_what_it_asked_for(synthesizing: Server, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [str(python_of("guidellm").with_name("guidellm")), "run", "--disable-progress"]
    command += ["--backend", f"kind=openai_http,target={synthesizing.url},model={NAME}"]
    command += ["--profile", "kind=concurrent,streams=4", "--constraint", "kind=max_requests,count=20"]
    command += ["--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=20"]
    command += ["--tokenizer", f"kind=hf_auto,model={MODEL}", "--output", f"kind=json,path={out}"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads(out.read_text())["benchmarks"][0]["metrics"]
    assert metrics["request_totals"] == {"successful": 20, "errored": 0, "incomplete": 0, "total": 20}
    assert metrics["output_token_count"]["successful"]["total_sum"] == 20 * 20


def test_aiperf_measures_what_it_asked_for(synthesizing: Server, tmp_path: Path) -> None:
    # It takes a tokenizer by a name of the hub alone: the hub's cache has ours.
    snapshot = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}" / "snapshots" / "0"
    shutil.copytree(MODEL, snapshot)
    (refs := snapshot.parents[1] / "refs").mkdir()
    (refs / "main").write_text("0")
    command = [str(python_of("aiperf").with_name("aiperf")), "profile", "-m", NAME, "--url", synthesizing.url]
    command += ["--endpoint-type", "chat", "--streaming", "--request-count", "20", "--concurrency", "4", "--isl", "64"]
    command += ["--osl", "20", "--extra-inputs", "ignore_eos:true", "--use-server-token-count", "--ui", "none"]
    command += ["--artifact-dir", str(tmp_path / "out")]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    result = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert (result["request_count"]["avg"], result["total_output_tokens"]["avg"]) == (20, 20 * 20)
