"""docs/metrics.md has every field of every row."""

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.making import settings, small_trace
from vllm_sim.replay.about import fields_of
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.replay.rows import RequestResult, RunSummary, SessionResult
from vllm_sim.sweep.grid import Grid, make_runs, sweep

PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (?:A row of )?([\w.]+)(?: [^\n]*)?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def named(section: str) -> set[str]:
    """The fields that a section names, in the first column of its tables or in its text."""
    return set(re.findall(r"`(\w+)`", SECTIONS[section]))


def fields(path: Path) -> set[str]:
    if path.suffix == ".json":
        return set(json.loads(path.read_text(encoding="utf-8")))
    return {name for line in path.read_text(encoding="utf-8").splitlines() for name in json.loads(line)}


@pytest.mark.parametrize(
    ("section", "kinds"),
    [
        ("summary.jsonl", (RunConfig, RunSummary)),
        ("requests.jsonl", (RequestResult,)),
        ("sessions.jsonl", (SessionResult,)),
    ],
)
def test_every_declared_field_is_on_the_page(section: str, kinds: tuple[type, ...]) -> None:
    declared = {field.name for kind in kinds for field in fields_of(kind)}
    assert declared - named(section) == set()


@pytest.mark.parametrize("backend", ["fast", pytest.param("engine", marks=pytest.mark.slow)])
def test_every_field_of_a_run_is_on_the_page(backend: str, tmp_path: Path) -> None:
    replay(small_trace(tmp_path), tmp_path / "run", settings(backend=backend))
    files = [path for path in (tmp_path / "run").iterdir() if path.name in SECTIONS]
    assert len(files) == (6 if backend == "engine" else 4)
    for path in files:
        assert fields(path) - named(path.name) == set(), path.name


def test_every_field_of_a_sweep_is_on_the_page(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    sweep(make_runs([small_trace(tmp_path)], settings(), Grid(["lru"], ["20", "all"], [4], [0])), out, 1)
    assert fields(out) - named("summary.jsonl") == set()


def test_a_field_that_the_page_lacks_is_found() -> None:
    assert "token_hit_rate" in named("summary.jsonl")
    assert "made_up_field" not in named("summary.jsonl")
