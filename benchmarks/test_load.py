"""How long 100,000 records of 220 + 200 tokens take to load: at first, and from the cache; and the memory they need."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import MODEL, ROOT

pytestmark = pytest.mark.bench

RECORDS, PROMPT_TOKENS, RESPONSE_TOKENS = 100_000, 220, 200

LOAD = """
import psutil, time
import vllm
from vllm.config import ModelConfig
from vllm_sim.engine.answers import load_answers
from vllm_sim.engine.exactness import check_exact
config = ModelConfig(model={model!r})
memory = psutil.Process().memory_full_info
before = memory().uss
start = time.perf_counter()
answers = load_answers({model!r})
check_exact(answers, config, "error")
seconds = time.perf_counter() - start
grown = memory().uss - before
trace = answers.trace
rows = len(trace)
print(seconds, grown / 2**20, rows, len(trace.prompt_tokens) / rows, len(trace.response_tokens) / rows)
"""


def load(trace: Path, cache: Path) -> list[float]:
    environment = os.environ | {"VLLM_SIM_TRACE_PATH": str(trace), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", LOAD.format(model=str(MODEL))]
    output = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [float(word) for word in output.splitlines()[-1].split()]


@pytest.mark.timeout(900)
def test_hundred_thousand_records_load_in_60_s_and_again_in_10_s(tmp_path: Path) -> None:
    words = (ROOT / "README.md").read_text().split() + (ROOT / "LICENSE").read_text().split()
    source = random.Random(0)
    trace = tmp_path / "trace.jsonl"
    with trace.open("w") as file:
        for i in range(RECORDS):
            prompt = f"{i} " + " ".join(source.choices(words, k=172))
            response = " ".join(source.choices(words, k=157))
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    first = load(trace, tmp_path)
    again = load(trace, tmp_path)
    for name, (seconds, memory, records, prompt, response) in (("first", first), ("again", again)):
        print(f"\n{name}: {records:,.0f} records of {prompt:.0f} + {response:.0f} tokens", end="")
        print(f" in {seconds:.1f} s, {memory:,.0f} MiB of its own", end="")
    assert first[3] >= PROMPT_TOKENS * 0.9
    assert first[4] >= RESPONSE_TOKENS * 0.9
    assert first[0] < 60
    assert again[0] < 10
