"""The ladder on the page: what is in the file, and what a real browser shows of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vllm_sim
from tests.making import settings, small_trace
from tests.plots.chromium import Page, open_page
from tests.plots.test_page import PHONE, TABLE, WIDE, browser
from tests.serving import MODEL
from vllm_sim.plots.ladder import STEP_WORDS
from vllm_sim.plots.page import write_page
from vllm_sim.replay.ladder import STEPS, explain, file_rows
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import load

BACK = 300
"""Tokens that routing gives back to one workload, which a small trace does not show by itself."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    loaded = load(small_trace(tmp_path_factory.mktemp("trace")), str(MODEL))
    found = file_rows(explain(loaded, settings(capacity_blocks=90, replicas=3, router="round_robin", policy="lfu")))
    place = next(place for place, row in enumerate(found) if row["by"] == "workload")
    steps, negative = found[place]["steps"], found[place]["negative_requests"]
    changed = {"routing": -BACK, "policy": steps["policy"] + steps["routing"] + BACK}
    found[place] |= {"steps": steps | changed, "negative_requests": negative | {"routing": 7}}
    return found


def data_of(path: Path) -> dict[str, Any]:
    """What a page holds of its rows."""
    begin = '<script type="application/json" id="data">'
    return json.loads(path.read_text().split(begin)[1].split("</script>")[0])


def test_the_page_has_the_whole_ladder_of_each_part(rows: list[Row], tmp_path: Path) -> None:
    assert write_page({Path("ladder.jsonl"): rows}, tmp_path / "page.html") == len(rows)
    data = data_of(tmp_path / "page.html")
    for shown, row in zip(data["rows"], rows, strict=True):
        steps = shown["steps"]
        assert (steps["by"], steps["value"], steps["lost"]) == (row["by"], row["value"], row["steps"])
        assert steps["of"] - sum(steps["lost"].values()) == row["hit_tokens"]
        assert steps["negative"] == row["negative_requests"]
        assert shown["facets"]["router"] == "round_robin"
        assert shown["at"] == "90 blocks"
    assert {steps["by"] for steps in (row["steps"] for row in data["rows"])} == {"all", "workload", "turn"}
    assert set(rows[0]["steps"]) <= data["steps"].keys()


def test_the_page_says_what_each_step_is_lost_to() -> None:
    assert tuple(STEP_WORDS) == STEPS


def test_the_ladder_of_a_study_is_in_shares(rows: list[Row], tmp_path: Path) -> None:
    of_study = {name: value for name, value in rows[0].items() if name not in ("by", "value", "negative_requests")}
    of_study |= {"experiment": "ladder", "steps": {"capacity": 0.25}}
    write_page({Path("routing.jsonl"): [of_study]}, tmp_path / "page.html")
    steps = data_of(tmp_path / "page.html")["rows"][0]["steps"]
    assert (steps["by"], steps["of"], steps["lost"], steps["negative"]) == ("all", 1, {"capacity": 0.25}, None)


def test_explain_writes_the_page_that_plot_makes_of_its_rows(tmp_path: Path) -> None:
    words = ["--block-size", "4", "--capacity-blocks", "60", "--out", tmp_path / "ladder"]
    assert vllm_sim("explain", small_trace(tmp_path), *words).returncode == 0
    found = vllm_sim("plot", tmp_path / "ladder" / "ladder.jsonl", "--html", tmp_path / "page.html")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "ladder" / "ladder.html").read_bytes()


@pytest.fixture(scope="module")
def page(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    write_page({Path("ladder.jsonl"): rows}, folder / "ladder.html")
    with open_page(folder / "ladder.html", folder / "profile") as opened:
        yield opened


def split(page: Page, value: str) -> None:
    page.run("location.hash = ''")
    page.until("document.getElementById('split').value === 'none'")
    page.choose("split", value)


def panels(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('figcaption')].map(c => c.textContent)")


def labels(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('.point')].map(p => p.getAttribute('aria-label'))")


def in_words(step: str) -> str:
    return step.replace("_", " ")


@pytest.mark.slow
@browser
def test_browser_shows_the_ladder_from_the_prompt_down_to_what_was_found(page: Page, rows: list[Row]) -> None:
    split(page, "none")
    whole = rows[0]
    names = ["prompt", *whole["steps"], "found cached"]
    page.until(f"document.querySelectorAll('.point').length === {len(names)}")
    assert [label.split(", ")[0] for label in labels(page)] == [in_words(name) for name in names]
    tokens = [whole["prompt_tokens"], *whole["steps"].values(), whole["hit_tokens"]]
    below = ["", *(f"{whole['negative_requests'].get(name, 'never')}" for name in whole["steps"]), ""]
    lines = [
        [in_words(name), f"{count:,}", f"{100 * count / tokens[0]:.2f}", negative]
        for name, count, negative in zip(names, tokens, below, strict=True)
    ]
    assert page.run(TABLE) == [["step", "prompt tokens", "%", "requests below 0"], *lines]
    bars = "[...document.querySelectorAll('.bars_marks path')].map(bar => bar.getBoundingClientRect())"
    lefts, rights = page.run(f"{bars}.map(box => box.left)"), page.run(f"{bars}.map(box => box.right)")
    # Each step begins where the one before it ends, and what is found cached ends where the last one does.
    assert rights == pytest.approx([rights[0], rights[0], *lefts[1:-1]], abs=3)
    assert page.run("performance.getEntriesByType('resource').length") == 0


@pytest.mark.slow
@browser
@pytest.mark.parametrize("by", ["workload", "turn"])
def test_browser_has_a_panel_for_each_part(page: Page, rows: list[Row], by: str) -> None:
    split(page, by)
    parts = [row for row in rows if row["by"] == by]
    names = [f"turn {row['value']}" if by == "turn" else row["value"] for row in parts]
    assert panels(page) == names
    table = page.run(TABLE)
    assert table[0] == ["step", *names]
    for line in table[2:-3]:
        step = line[0].replace(" ", "_")
        assert line[1:] == [f"{100 * row['steps'][step] / row['prompt_tokens']:.2f}" for row in parts]
    assert table[-2] == ["prompt tokens", *(f"{row['prompt_tokens']:,}" for row in parts)]


@pytest.mark.slow
@browser
def test_a_step_that_gave_tokens_back_is_marked(page: Page, rows: list[Row]) -> None:
    split(page, "none")
    assert "hollow green" not in page.run("document.getElementById('caption').textContent")
    split(page, "workload")
    page.until("document.querySelectorAll('.bars_marks path[stroke=\"#009E73\"]').length === 1")
    assert page.run("document.querySelector('.bars_marks path[stroke=\"#009E73\"]').getAttribute('fill')") == "#ffffff"
    part = next(row for row in rows if row["by"] == "workload")
    found = [label for label in labels(page) if "gave back" in label]
    assert len(found) == 1
    assert found[0].startswith(f"routing, {part['value']}, -")
    assert f": -{BACK}, " in found[0]
    assert found[0].endswith(f"below 0 in 7 of {part['requests']} requests")
    assert "hollow green" in page.run("document.getElementById('caption').textContent")


@pytest.mark.slow
@browser
def test_a_link_restores_the_parts(page: Page) -> None:
    split(page, "turn")
    link, table = page.run("location.hash"), page.run(TABLE)
    split(page, "none")
    page.run(f"location.hash = {link!r}")
    page.until("document.getElementById('split').value === 'turn'")
    assert page.run(TABLE) == table


@pytest.mark.slow
@browser
def test_ladders_that_are_shown_can_be_downloaded(page: Page, rows: list[Row]) -> None:
    split(page, "turn")
    head, *lines = (line.split(",") for line in page.run("table()").splitlines())
    parts = [row for row in rows if row["by"] == "turn"]
    assert [line[head.index("value")] for line in lines] == [row["value"] for row in parts]
    shares = [float(line[head.index("capacity_share")]) for line in lines]
    assert shares == pytest.approx([row["steps"]["capacity"] / row["prompt_tokens"] for row in parts])


@pytest.mark.slow
@browser
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_ladders_fit_the_page_s_width_and_their_letters_can_be_read(page: Page, width: int) -> None:
    mobile = width == PHONE
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=mobile)
    for value in ("none", "workload"):
        split(page, value)
        page.until(f"document.documentElement.clientWidth > {width - 30}")
        page.until("document.querySelector('.chart svg')?.clientWidth > 0")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        letters = "[...document.querySelectorAll('.chart text')]"
        assert min(page.run(f"{letters}.map(t => parseFloat(getComputedStyle(t).fontSize))")) >= 12
        inside = "b => b.left >= 0 && b.right <= document.documentElement.clientWidth + 1"
        assert page.run(f"{letters}.map(t => t.getBoundingClientRect()).every({inside})")
    page.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
@browser
def test_runs_of_two_routers_have_a_panel_each(rows: list[Row], tmp_path: Path) -> None:
    other = [row | {"router": "session"} for row in rows]
    write_page({Path("one/ladder.jsonl"): rows, Path("two/ladder.jsonl"): other}, tmp_path / "page.html")
    with open_page(tmp_path / "page.html", tmp_path / "profile") as opened:
        assert panels(opened) == []
        opened.choose("split", "facet router")
        assert panels(opened) == ["round_robin", "session"]
        opened.choose("split", "workload")
        workloads = [row["value"] for row in rows if row["by"] == "workload"]
        assert panels(opened) == workloads  # of the router that is chosen
