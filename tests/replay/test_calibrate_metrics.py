"""The latency model `table`, from the metrics of a server: one that counts steps of a known table, at every reading."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tests.commands import vllm_sim
from vllm_sim.replay.calibrate import calibrate_by_metrics
from vllm_sim.replay.latency import LatencyTable
from vllm_sim.replay.metrics_steps import SAMPLES, Counters, counters, window

TRUE = LatencyTable(base_ms=2.0, prefill_request_ms=0.5, prefill_token_ms=0.01, decode_request_ms=0.25)
READINGS = 100


class Counted:
    """vLLM's metrics of an engine whose steps take what TRUE says; each reading shows thirty steps more."""

    def __init__(self) -> None:
        self.registry, self.draw = CollectorRegistry(), random.Random(1)
        counter = {name: Counter(name, "-", ["engine"], registry=self.registry) for name in self._names("_total")}
        histogram = {name: Histogram(name, "-", ["engine"], registry=self.registry) for name in self._names("_count")}
        self.of = {name: metric.labels("0") for name, metric in (counter | histogram).items()}

    @staticmethod
    def _names(end: str) -> list[str]:
        """Of the metrics whose sample has an end; the histogram of steps ends in _total itself."""
        return [name.removesuffix(end) for name in SAMPLES if name.endswith(end)]

    def text(self) -> bytes:
        decodes, prefills = self.draw.randint(1, 20), self.draw.randint(0, 3)
        for _ in range(30):
            tokens = sum(self.draw.randint(10, 400) for _ in range(prefills))
            ms = TRUE.base_ms + 0.5 * prefills + 0.01 * tokens + 0.25 * decodes
            self.of["vllm:iteration_tokens_total"].observe(tokens + decodes)
            self.of["vllm:prompt_tokens"].inc(tokens + 64 * prefills)
            self.of["vllm:prompt_tokens_cached"].inc(64 * prefills)
            self.of["vllm:generation_tokens"].inc(prefills + decodes)
            for _ in range(prefills):
                self.of["vllm:time_to_first_token_seconds"].observe(1.0)
            for _ in range(decodes):
                self.of["vllm:inter_token_latency_seconds"].observe(ms / 1000)
        return generate_latest(self.registry)


@contextmanager
def serving(text: "Counted | bytes") -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text if isinstance(text, bytes) else text.text()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()


def test_terms_are_found_again_in_the_metrics_of_a_server(tmp_path: Path) -> None:
    seen = []
    with serving(Counted()) as url:
        result = calibrate_by_metrics(
            url, tmp_path / "table.json", READINGS * 0.001, 0.001, lambda done, total: seen.append((done, total))
        )
    assert result["steps"] == READINGS
    assert seen[-1] == (READINGS + 1, READINGS + 1)
    for name in ("base_ms", "prefill_request_ms", "prefill_token_ms", "decode_request_ms"):
        assert result[name] == pytest.approx(getattr(TRUE, name), rel=0.02)
    assert result["held_out"]["predicted_over_measured"] == pytest.approx(1, abs=0.01)


def test_a_window_with_few_steps_or_without_a_decoding_request_has_no_time() -> None:
    zero = Counters(*[0.0] * len(SAMPLES))
    busy = Counters(steps=10, firsts=2, generated=42, prompt=320, cached=120, gaps=40, gap_s=0.2)
    assert window(zero, busy) == (0.2, 20, 4, pytest.approx(5))
    assert window(zero, busy._replace(steps=4)) is None
    assert window(zero, busy._replace(gaps=0, gap_s=0)) is None


def test_counters_of_all_engines_are_added() -> None:
    lines = [f'{name}{{engine="{engine}"}} {1 + engine}' for name in SAMPLES for engine in range(2)]
    assert counters("\n".join(lines) + "\n", "here") == (3,) * len(SAMPLES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"<html>", "is not in Prometheus's text format"), (b"up 1\n", "has no vllm:iteration_tokens_total_count, ")],
)
def test_an_address_without_vllms_metrics_is_named(tmp_path: Path, text: bytes, reason: str) -> None:
    with serving(text) as url, pytest.raises(ValueError, match=reason) as error:
        calibrate_by_metrics(url, tmp_path / "table.json", 1.0)
    assert url in str(error.value)


def test_the_command_says_when_it_cannot_read_or_has_too_little(tmp_path: Path) -> None:
    done = vllm_sim("calibrate", "http://127.0.0.1:9/metrics", "--out", tmp_path / "t.json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "http://127.0.0.1:9/metrics cannot be read" in done.stderr
    done = vllm_sim("calibrate", "http://127.0.0.1:9/metrics", "--seconds", "0", "--out", tmp_path / "t.json")
    assert "--seconds is 0; allowed: above 0, up to 86400" in done.stderr
    with serving(Counted()) as url:
        done = vllm_sim("calibrate", url, "--seconds", "2", "--out", tmp_path / "t.json")
    assert "2 windows of 1 s have steps that decode; allowed: 20 or more" in done.stderr
    assert not (tmp_path / "t.json").exists()
