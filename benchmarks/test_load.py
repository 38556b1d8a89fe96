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

from benchmarks.rows import Measured, Measurement
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
def test_a_hundred_thousand_records_load_as_fast_as_they_are_tokenised(tmp_path: Path, measured: Measured) -> None:
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
    assert first[3] >= PROMPT_TOKENS * 0.9
    assert first[4] >= RESPONSE_TOKENS * 0.9
    sizes = f"{RECORDS:,} records of {first[3]:.0f} + {first[4]:.0f} tokens"
    for name, what, found, bar in (
        ("load", f"first load of {sizes} over the tokenizer alone", first, 1.3),
        ("load_again", "the same from the cache", again, 0.2),
    ):
        measured(
            Measurement(
                name=name,
                what=what,
                value=found[0] / alone,
                unit="times",
                at_most=bar,
                parts={"load, s": found[0], "tokenizer, s": alone, "memory of the process, MiB": found[1]},
            )
        )
    assert first[0] < 60
    assert again[0] < 10
