"""The canary of hybrid models: rows of eight models that must come again. A vLLM that changes a hit is noticed.

The trace is drawn by a seed, in token ids: sessions over two long prompts that share their beginnings, some sent twice.
Each model serves it by vLLM's engine, four requests at a time, in a cache of two and a half of the longest requests.

usage: python -m parity.canary [--write] [MODEL...]      --write: the rows of this vLLM become the expected ones
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from vllm_sim.models.known import write_config
from vllm_sim.replay.config import RunConfig

ROOT = Path(__file__).parents[1]
ROWS = Path(__file__).parent / "canary"
CAPACITIES = {
    "gpt-oss-20b": 1_200,
    "gemma-3-27b": 4_300,
    "gemma-4-31b": 3_300,
    "llama-4-scout": 1_900,
    "qwen3.6-27b": 60,
    "qwen3.6-35b-a3b": 50,
    "granite-4-h-small": 110,
    "falcon-h1-7b": 24,
}
"""Usable blocks by model, all groups together."""
SESSIONS, TURNS = 8, 3


def make_trace(path: Path) -> Path:
    """Writes the trace."""
    draw = random.Random(15)

    def text(length_tokens: int) -> list[int]:
        return [draw.randrange(1000, 30_000) for _ in range(length_tokens)]

    common = text(1500)
    systems = [common + text(900), common + text(1700)]
    histories = [draw.choice(systems) + text(draw.randrange(100, 1500)) for _ in range(SESSIONS)]
    rows = []
    for _ in range(TURNS):
        for session, history in enumerate(histories):
            answer = text(draw.randrange(5, 60))
            rows.append({"prompt_token_ids": history, "response_token_ids": answer, "finish_reason": "length"})
            histories[session] = history if draw.random() < 0.2 else history + answer + text(draw.randrange(20, 600))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def options(model: str, folder: Path) -> RunConfig:
    """How a model serves the trace; its config.json is written into a folder of its name in `folder`."""
    write_config(model, folder / model)
    return RunConfig(model=str(folder / model), capacity_blocks=CAPACITIES[model], concurrency=4, latency_model="zero")


def check(python: Path, folder: Path, models: Iterable[str] = CAPACITIES) -> Iterator[tuple[str, list[str]]]:
    """What does not come again of each model's row, by `vllm-sim replay --expect`.

    Args:
        python: the interpreter of an environment with this package and a vLLM.
        folder: for the trace, configurations and rows.
        models: of CAPACITIES.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trace = make_trace(folder / "canary.jsonl")
    for model in models:
        config = options(model, folder)
        command = [str(python), "-c", "from vllm_sim.cli import main; raise SystemExit(main())", "replay", str(trace)]
        command += ["--model", str(config.model), "--capacity-blocks", str(config.capacity_blocks)]
        command += ["--concurrency", str(config.concurrency), "--latency-model", config.latency_model]
        command += ["--out", str(folder / f"{model}-run"), "--expect", str(ROWS / f"{model}.jsonl")]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        yield model, done.stderr.strip().splitlines()[-5:] if done.returncode else []


def write(folder: Path, models: Iterable[str]) -> None:
    """Makes the expected rows with the vLLM of this process."""
    from vllm_sim.replay.files import replay

    trace = make_trace(folder / "canary.jsonl")
    ROWS.mkdir(exist_ok=True)
    for model in models:
        replay(trace, folder / f"{model}-run", options(model, folder))
        (ROWS / f"{model}.jsonl").write_bytes((folder / f"{model}-run" / "summary.jsonl").read_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.canary", description="Hits of eight hybrid models.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CAPACITIES)} (default: all)")
    parser.add_argument("--write", action="store_true", help="the rows of this vLLM become the expected ones")
    arguments = parser.parse_args()
    for model in arguments.models:
        if model not in CAPACITIES:
            parser.error(f"no model {model!r}; allowed: {', '.join(CAPACITIES)}")
    models, wrong = arguments.models or [*CAPACITIES], 0
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.write:
            write(Path(temporary), models)
            return 0
        for model, lines in check(Path(sys.executable), Path(temporary), models):
            print(f"{model}: {'; '.join(lines) or 'as expected'}", flush=True)
            wrong += bool(lines)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
