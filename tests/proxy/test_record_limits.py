"""What a client may take up of the recorder, and what it says to whom it should not answer."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from scripted_upstream import Upstream
from test_record_command import start

from vllm_sim.cli import main


@pytest.fixture
def running(upstream: Upstream, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    options = ("--host", "0.0.0.0", "--max-body", "1", "--idle-timeout", "1")
    process, url = start(upstream.url, tmp_path / "o.jsonl", *options)
    yield process, url.replace("0.0.0.0", "127.0.0.1")
    process.kill()
    process.wait()


def talk(url: str, sent: bytes) -> bytes:
    """All that comes back until the recorder closes the connection."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_clients_that_are_slow_too_long_or_ask_for_no_path_are_refused_and_others_served(
    upstream: Upstream, running: tuple[subprocess.Popen[str], str]
) -> None:
    process, url = running
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n"
    begun = time.monotonic()
    assert talk(url, b"") == talk(url, b"POST /v1/comp") == b""
    assert b" 408 " in talk(url, head + b"{").splitlines()[0]
    assert 2.5 < time.monotonic() - begun < 30
    assert b" 4" in talk(url, b"OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").splitlines()[0]
    refused = httpx.post(f"{url}/completions", content=b"x" * (2**20 + 1))
    assert refused.status_code == 413
    assert "longer than 1048576 bytes (--max-body)" in refused.json()["error"]["message"]
    assert not upstream.seen
    assert httpx.post(f"{url}/completions", json={"prompt": "a" * (2**20 - 100)}).status_code == 200
    process.terminate()
    output, log = process.communicate(timeout=20)
    assert "1 recorded" in output
    assert "whoever reaches 0.0.0.0 can use" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("option", [["--max-body", "-1"], ["--max-body", "x"], ["--idle-timeout", "-1"]])
def test_limits_that_are_none_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["record", "--upstream", "http://localhost:1", "--out", "o.jsonl", *option])
    assert "allowed: " in capsys.readouterr().err
