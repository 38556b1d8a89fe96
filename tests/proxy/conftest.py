"""A scripted upstream, and a recorder in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_upstream import RecorderUnderTest, Upstream, recording, serving


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[Upstream]:
    app = Upstream()
    with serving(lambda stack: app) as port:
        app.url = f"http://127.0.0.1:{port}"
        yield app


@pytest.fixture
def upstream(upstream_server: Upstream) -> Upstream:
    upstream_server.reset()
    return upstream_server


@pytest.fixture
def recorder(upstream: Upstream, tmp_path: Path) -> Iterator[RecorderUnderTest]:
    with recording(upstream.url, tmp_path / "out.jsonl") as running:
        yield running
