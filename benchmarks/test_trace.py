"""Records a second: reading a native trace, and converting ShareGPT with tokenisation, as a ratio to what cannot be
avoided: json.loads, and json.loads with the tokenizer alone, over the same text in the same run.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.rows import Measured, Measurement
from vllm_sim.trace.convert import convert
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.tokens import load_tokenised

pytestmark = pytest.mark.bench
TURNS = 7
MODEL = Path(__file__).parents[1] / "exported_models" / "Llama-3.2-1B-Instruct"


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begin = clock()
    action()
    return clock() - begin


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 conversations of 3 exchanges of made-up words."""
    chance = random.Random(0)
    words = [bytes(chance.choices(range(97, 123), k=chance.randint(2, 9))).decode() for _ in range(5000)]

    def text() -> str:
        return " ".join(chance.choices(words, k=120))

    turns = [("human", "gpt")[i % 2] for i in range(6)]
    entries = [
        {"id": f"c{i}_0", "conversations": [{"from": role, "value": text()} for role in turns]} for i in range(1500)
    ]
    path = tmp_path_factory.mktemp("bench") / "dump.json"
    path.write_text(json.dumps(entries, indent=2))
    return path


def test_reading_and_converting(dump: Path, monkeypatch: pytest.MonkeyPatch, measured: Measured) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(dump.parent / "cache"))
    out = dump.with_suffix(".jsonl")
    converting = seconds(lambda: convert(dump, out, "sharegpt"))
    tokenising = seconds(lambda: load_tokenised(out, MODEL))

    lines = out.read_text().splitlines()
    reading = loading = float("inf")
    for _ in range(TURNS):  # both have one thread: the process's own time, as in test_replay.py
        reading = min(reading, seconds(lambda: sum(1 for _ in iter_records(out)), time.process_time))
        loading = min(loading, seconds(lambda: [json.loads(line) for line in lines], time.process_time))
    texts = [[m["content"] for m in row["messages"]] + [row["response"]] for row in map(json.loads, lines)]
    joined = ["\n".join(parts) for parts in texts]
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    encoding = seconds(lambda: tokenizer.encode_batch_fast(joined))
    count = len(lines)
    measured(
        Measurement(
            name="read",
            what="reading a native trace over json.loads",
            value=reading / loading,
            unit="times",
            at_most=4,
            parts={"records/s": count / reading},
        )
    )
    measured(
        Measurement(
            name="convert",
            what="ShareGPT to a native trace and to tokens, over json.loads and the tokenizer",
            value=(converting + tokenising) / (loading + encoding),
            unit="times",
            at_most=4,
            parts={"records/s": count / (converting + tokenising), "without tokens, records/s": count / converting},
        )
    )
