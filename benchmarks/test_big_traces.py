"""What a further row costs the commands that read a trace whole, in time and in memory: the same in a long trace."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rows import Measured, Measurement

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

ROWS = (10_000, 30_000, 100_000)
COMMAND = str(Path(sys.executable).with_name("vllm-sim"))
LEAST_KIB = 0.1
"""A row: less is taken for this much, as the peak of a process varies by some hundred KiB."""


def write_conversations(path: Path, rows: int) -> Path:
    """Requests of hash ids: conversations of growing prompts, 24 blocks on average, with one of 50 system prompts."""
    chance = random.Random(0)
    alive: list[tuple[list[int], int, int]] = []
    fresh, ms = 150, 0.0
    with path.open("w") as file:
        for row in range(rows):
            if not alive or chance.random() < 0.6:
                prompt = chance.randrange(50)
                before, session, turn = [3 * prompt, 3 * prompt + 1, 3 * prompt + 2], row, 1
            else:
                before, session, turn = alive.pop(chance.randrange(max(0, len(alive) - 2000), len(alive)))
            new = min(200, 1 + int(chance.expovariate(1 / 16)))
            ids = before + list(range(fresh, fresh + new))
            fresh, ms = fresh + new, ms + chance.expovariate(1 / 300)
            if len(ids) < 500:
                alive.append((ids, session, turn + 1))
            file.write(
                f'{{"timestamp":{int(ms)},"session_id":"s{session}","turn":{turn},"hash_ids":{ids},'
                f'"input_length":{512 * len(ids) - 7},"output_length":{chance.randrange(1, 500)}}}\n'
            )
    return path


LAUNCHER = """
import os, sys
silent = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[silent])
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""Starts a command from a process of a few MiB: Linux counts the memory of the one that starts it as the command's."""


def command_cost(words: list[str]) -> tuple[float, float]:
    """CPU seconds and peak KiB of a command."""
    command = [sys.executable, "-S", "-c", LAUNCHER, COMMAND, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    code, seconds, kib = done.stdout.split()
    assert code == "0", words
    return float(seconds), float(kib)


def commands_of(trace: Path) -> dict[str, list[str]]:
    out, rows = trace.with_name("converted.jsonl"), trace.with_name("rows.jsonl")
    rows.unlink(missing_ok=True)
    sweep = ["sweep", str(trace), "--out", str(rows), "--raw-blocks", "--block-sizes", "512", "--capacities", "50000"]
    replay = ["replay", str(trace), "--out", str(trace.with_name("run")), "--backend", "fast", "--block-size", "512"]
    return {
        "validate": ["trace", "validate", str(trace)],
        "stats": ["trace", "stats", str(trace)],
        "convert": ["trace", "convert", "--from", "mooncake", str(trace), str(out)],
        "sweep": [*sweep, "--jobs", "1"],
        "replay": replay,
    }


def test_a_further_row_costs_the_same_in_a_long_trace(tmp_path: Path, measured: Measured) -> None:
    costs: dict[str, list[tuple[float, float]]] = {}
    for rows in ROWS:
        trace = write_conversations(tmp_path / f"{rows}.jsonl", rows)
        for name, words in commands_of(trace).items():
            if name in ("sweep", "replay"):
                command_cost(words)  # writes tokens and kernels
                (tmp_path / "rows.jsonl").unlink(missing_ok=True)
            costs.setdefault(name, []).append(command_cost(words))
    for place, what, unit, scale in ((0, "time", "us", 1e6), (1, "memory", "KiB", 1.0)):
        parts, ratios = {}, []
        for name, found in costs.items():
            first, second = (
                scale * (found[i + 1][place] - found[i][place]) / (ROWS[i + 1] - ROWS[i]) for i in range(2)
            )
            parts[f"`{name}`, {unit} a row"] = second
            least = LEAST_KIB if place else 0.0
            ratios.append(max(second, least) / max(first, least))
        measured(
            Measurement(
                name=f"big_{what}",
                what=f"{what} of a further row from {ROWS[1]:,} to {ROWS[2]:,} rows over that from {ROWS[0]:,} to "
                f"{ROWS[1]:,}, the largest of five commands: requests of 24 hash ids on average",
                value=max(ratios),
                unit="times",
                at_most=1.5,
                parts=parts,
            )
        )
