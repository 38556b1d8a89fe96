"""How long 100,000 records of 220 + 200 tokens take to load, at first and from the cache, over what the tokenizer alone
takes for their texts in the same run; and the memory they need.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

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
SAMPLE = 20


def load(trace: Path, cache: Path) -> list[float]:
    environment = os.environ | {"VLLM_SIM_TRACE_PATH": str(trace), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", LOAD.format(model=str(MODEL))]
    output = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [float(word) for word in output.splitlines()[-1].split()]


def tokenizer_seconds(trace: Path) -> float:
    """The tokenizer alone over all texts, by a sample of them."""
    with trace.open() as file:
        rows = [json.loads(line) for line in itertools.islice(file, 0, None, SAMPLE)]
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    start = time.perf_counter()
    for field in ("prompt", "response"):
        tokenizer.encode_batch([row[field] for row in rows])
    return (time.perf_counter() - start) * SAMPLE


@pytest.mark.timeout(900)
def test_a_hundred_thousand_records_load_as_fast_as_they_are_tokenised(tmp_path: Path) -> None:
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
    alone = tokenizer_seconds(trace)
    for name, (seconds, memory, records, prompt, response) in (("first", first), ("again", again)):
        print(f"\n{name}: {records:,.0f} records of {prompt:.0f} + {response:.0f} tokens", end="")
        print(f" in {seconds:.1f} s ({seconds / alone:.2f} x tokenizer), {memory:,.0f} MiB of its own", end="")
    assert first[3] >= PROMPT_TOKENS * 0.9
    assert first[4] >= RESPONSE_TOKENS * 0.9
    assert first[0] < min(60, 2 * alone)
    assert again[0] < min(10, 0.2 * alone)
