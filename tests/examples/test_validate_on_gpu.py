"""The script that holds a device's rows against the simulator's: it finds what differs, and says by how much."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "examples" / "validate_on_gpu.py"


def row(number: int, hits: int = 16) -> dict[str, Any]:
    return {"row": number, "prompt_tokens": 40, "output_tokens": 5, "hit_tokens": hits}


def compare(folder: Path, hits: int) -> subprocess.CompletedProcess[str]:
    real = [row(number) | {"ttft_ms": 20.0, "tpot_ms": 5.0} for number in range(2)]
    times = {"first_scheduled_ms": 100.0, "first_token_ms": 110.0, "end_ms": 130.0}
    simulated = [row(0) | times, row(1, hits) | times]
    for name, rows in (("real", real), ("simulated", simulated)):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
    command = [sys.executable, SCRIPT, "compare", folder / "real", folder / "simulated"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_equal_hits_pass_and_errors_of_times_are_printed(tmp_path: Path) -> None:
    done = compare(tmp_path, hits=16)
    assert done.returncode == 0, done.stderr
    assert "hit_tokens: 0 of 2 rows differ" in done.stdout
    assert "ttft: simulated / real 0.500 in the mean; relative error 50.0% in the median" in done.stdout
    assert "tpot: simulated / real 1.000 in the mean" in done.stdout
    # Twice 20 + 4 x 5 ms for 5 tokens, and twice 10 + 4 x 5 ms.
    assert (
        "throughput: 125.00 tokens/s real, 166.67 simulated, a request at a time: simulated / real 1.333" in done.stdout
    )


def test_a_differing_hit_fails_and_is_named(tmp_path: Path) -> None:
    done = compare(tmp_path, hits=0)
    assert done.returncode == 1
    assert "hit_tokens: 1 of 2 rows differ (real and simulated: row 1: 16 and 0)" in done.stdout
