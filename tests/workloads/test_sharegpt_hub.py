"""ShareGPT from a hub: the real client against a server of our own; resumed, checked, and never half there."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workloads.hub import COMMIT, Hub, serving
from vllm_sim.workloads.sharegpt_download import ABOUT, FILE, HUB_DATASET

SCRIPT = Path(__file__).parents[2] / "milestone2_code" / "download_sharegpt.py"
DATA = random.Random(0).randbytes(25_000_000)
# The client writes pieces of 10 MB.
WRITTEN = 10_000_000


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(f"/datasets/{HUB_DATASET}/resolve/{{revision}}/{FILE}", DATA) as running:
        yield running


def start(hub: Hub, out: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_OFFLINE": "0"}
    environment |= {"TQDM_POSITION": "-1", "HF_HOME": str(out / "home"), "NO_PROXY": "*", "no_proxy": "*"}
    command = [sys.executable, str(SCRIPT), "--source", "hub", "--out", str(out / "data")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(hub: Hub, out: Path) -> tuple[int | None, str, str]:
    process = start(hub, out)
    said, errors = process.communicate(timeout=60)
    return process.returncode, said, errors


def test_the_file_is_fetched_shown_described_and_not_fetched_twice(hub: Hub, tmp_path: Path) -> None:
    code, said, errors = run(hub, tmp_path)
    assert code == 0, errors
    assert "from hub (25 MB, whole)" in said
    assert "25.0M/25.0M" in errors
    assert (tmp_path / "data" / FILE).read_bytes() == DATA
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [FILE, ABOUT]
    assert json.loads((tmp_path / "data" / ABOUT).read_text()) == {
        "source": "hub",
        "dataset": HUB_DATASET,
        "revision": COMMIT,
        "bytes": len(DATA),
        "sha256": hub.sha256,
        "whole": True,
    }
    assert "there already, from hub" in run(hub, tmp_path)[1]
    assert hub.ranges == [None]


def test_a_killed_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = WRITTEN + 5_000_000
    hub.stalls.set()
    process = start(hub, tmp_path)
    part = tmp_path / "data" / f".{FILE}.{COMMIT}.part"
    end = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= WRITTEN) and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "data" / FILE).exists()
    begun = part.stat().st_size
    assert begun >= WRITTEN
    code, _, errors = run(hub, tmp_path)
    assert code == 0, errors
    assert hub.ranges == [None, f"bytes={begun}-"]
    assert (tmp_path / "data" / FILE).read_bytes() == DATA


def test_a_broken_connection_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = WRITTEN + 5_000_000
    code, _, errors = run(hub, tmp_path)
    assert code == 0, errors
    assert len(hub.ranges) == 2
    assert (tmp_path / "data" / FILE).read_bytes() == DATA


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.data = DATA[:-1] + bytes([DATA[-1] ^ 1])
    code, _, errors = run(hub, tmp_path)
    assert code == 1
    assert f"allowed: {hub.sha256} of 25000000 bytes" in errors
    assert list((tmp_path / "data").iterdir()) == []
    hub.data = DATA
    assert run(hub, tmp_path)[0] == 0


def test_a_part_that_is_longer_than_the_file_is_begun_anew(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f".{FILE}.{COMMIT}.part").write_bytes(b"x" * (len(DATA) + 1))
    code, _, errors = run(hub, tmp_path)
    assert code == 0, errors
    assert (tmp_path / "data" / FILE).read_bytes() == DATA


def test_a_hub_that_has_no_such_file_is_one_error(hub: Hub, tmp_path: Path) -> None:
    hub.path = "/elsewhere"
    code, _, errors = run(hub, tmp_path)
    assert code == 1
    assert errors.startswith("error: ")
    assert "404" in errors
