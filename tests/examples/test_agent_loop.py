"""The agent loop against a server: what its client says of the session reaches the policy."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import NAME, serve

SCRIPT = Path(__file__).parents[2] / "examples" / "agent_loop.py"
TASK, ANSWER = "How is the weather in Lima?", "It rains in Lima."

pytestmark = pytest.mark.slow


def rows() -> list[dict]:
    """A session of three requests, and calls of others."""
    spec = importlib.util.spec_from_file_location("agent_loop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    arguments = {"place": "Lima"}
    function = {"name": "get_weather", "arguments": json.dumps(arguments)}
    messages: list[dict] = [{"role": "user", "content": TASK}]
    found = [{"messages": [*messages], "response": json.dumps({"name": "get_weather", "parameters": arguments})}]
    messages.append({"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": function}]})
    messages.append({"role": "tool", "tool_call_id": "a", "content": "Rain in Lima."})
    found.append({"messages": [*messages], "response": ANSWER})
    found.append({"messages": [*messages, {"role": "assistant", "content": ANSWER}], "response": "Yes."})
    others = [{"prompt": f"{i} " + "word " * 200, "response": "no"} for i in range(8)]
    return [row | {"tools": example.TOOLS} for row in found] + others


def test_its_hints_reach_the_policy_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "facts.jsonl"
    monkeypatch.setenv("LISTENER", str(log))
    sim = {"vllm_sim": {"eviction": "tests.examples.listener:Listener"}}
    options = ("--max-model-len", "512", "--block-size", "16", "--num-gpu-blocks-override", "40")
    options += ("--enable-auto-tool-choice", "--tool-call-parser", "llama3_json")
    with serve(tmp_path, rows(), *options, "--additional-config", json.dumps(sim)) as server:
        command = [sys.executable, str(SCRIPT), TASK, "--base-url", f"{server.url}/v1", "--model", NAME]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n"), done.stderr
        for row in server.rows[3:]:  # a policy hears of requests when a block is to go
            server.client().completions.create(model=NAME, prompt=row["prompt"])
    facts = [json.loads(line) for line in log.read_text().splitlines()]
    said: dict[float, dict] = {}  # a policy hears of a request at each of its steps
    for fact in facts:
        if not math.isnan(fact["session_end"]):
            said.setdefault(fact["arrival_ms"], fact)
    first, second, last = said.values()
    assert [fact["session_end"] for fact in (first, second, last)] == [0, 0, 1]
    assert first["next_turn_ms"] == 1000
    assert 200 <= second["next_turn_ms"] < 1000
    assert math.isnan(last["next_turn_ms"])
    assert last["matched"] >= second["prompt_blocks"] > second["matched"] > 0
