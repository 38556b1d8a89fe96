"""The page of results: what is in the file, and what a real browser shows of it."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.making import settings, small_trace
from tests.plots.chromium import PROGRAM, Page, open_page
from vllm_sim.plots import page as page_module
from vllm_sim.plots.page import write_page
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.grid import Grid, make_runs, sweep

LIBRARIES = Path(page_module.__file__).with_name("vega")
POLICIES = ["lru", "arc", "belady"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("sweep")
    capacities = ["80tok", "160tok", "320tok", "unlimited", "all"]
    runs = make_runs([small_trace(folder)], settings(), Grid(POLICIES, capacities, [4, 8], [0]))
    return sweep(runs, folder / "rows.jsonl", jobs=1)


def test_page_needs_nothing_from_outside(rows: list[Row], tmp_path: Path) -> None:
    assert write_page({Path("rows.jsonl"): rows}, tmp_path / "page.html") == len(rows)
    text = (tmp_path / "page.html").read_text()
    for script in LIBRARIES.glob("*.js"):
        assert text.count(script.read_text()) == 1
        text = text.replace(script.read_text(), "")
    # What a library could load, the policy forbids: nothing from anywhere, and no code made of text.
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"" in text
    assert not re.search(r"<(?:link|img|iframe)|\bsrc=|@import|\burl\(|fetch\(|XMLHttp", text)


def test_libraries_are_those_that_were_fetched_and_their_licences_are_in_the_page(
    rows: list[Row], tmp_path: Path
) -> None:
    write_page({Path("rows.jsonl"): rows}, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    sums = dict(reversed(line.split()) for line in (LIBRARIES / "SHA256SUMS").read_text().splitlines())
    there = {path.name: path for pattern in ("*.js", "LICENSE.*") for path in LIBRARIES.glob(pattern)}
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()}
    assert {name.removeprefix("LICENSE.") for name in sums} >= {"vega", "vega-lite", "vega-interpreter", "d3"}
    for path in LIBRARIES.glob("LICENSE.*"):
        assert path.read_text() in text


def test_text_of_a_row_cannot_end_the_script(rows: list[Row], tmp_path: Path) -> None:
    bad = [row | {"trace": "</script><script>alert(1)</script>"} for row in rows]
    write_page({Path("rows.jsonl"): bad}, tmp_path / "page.html")
    assert "</script><script>alert" not in (tmp_path / "page.html").read_text()


def test_rows_of_other_arrivals_are_not_averaged(rows: list[Row], tmp_path: Path) -> None:
    found = [row | {"arrival_seed": seed} for row in rows for seed in (0, 1)]
    write_page({Path("rows.jsonl"): found}, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count('"group":0') == text.count('"group":1') == len(rows)
    assert "arrival seed 1" in text


def test_rows_without_rates_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row has token_hit_rate"):
        write_page({Path("a.jsonl"): [{"trace": "t"}]}, tmp_path / "page.html")


@pytest.fixture(scope="module")
def page(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    write_page({Path("rows.jsonl"): rows}, folder / "page.html")
    with open_page(folder / "page.html", folder / "profile") as opened:
        yield opened


browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium")
TABLE = "[...document.querySelectorAll('#table tr')].map(r => [...r.children].map(c => c.textContent))"


def pick(rows: list[Row], **values: object) -> list[Row]:
    return [row for row in rows if "curve" not in row and all(row[name] == value for name, value in values.items())]


@pytest.mark.slow
@browser
def test_browser_shows_a_point_for_each_row_and_loads_nothing(page: Page, rows: list[Row]) -> None:
    page.choose("over", "capacity")
    page.choose("block", "4")
    assert page.run("document.querySelectorAll('.point').length") == len(POLICIES) * 3
    assert page.run("document.querySelectorAll('.curve_marks path').length") == 1
    assert page.run("document.querySelectorAll('.ceiling_marks line').length") == 1
    assert page.run("performance.getEntriesByType('resource').length") == 0


@pytest.mark.slow
@browser
@pytest.mark.parametrize("rate", ["token_hit_rate", "block_hit_rate", "request_hit_rate"])
def test_browser_shows_the_chosen_definition_workload_and_block_size(page: Page, rows: list[Row], rate: str) -> None:
    page.choose("over", "capacity")
    page.choose("block", "8")
    page.choose("workload", "chat")
    page.choose("rate", rate)
    table = page.run(TABLE)
    assert table[0] == ["policy", "10", "20", "40", "unlimited"]
    for line in table[1:]:
        same = sorted(pick(rows, policy=line[0], block_size=8), key=lambda row: row["capacity_blocks"] or 2**62)
        assert line[1:] == [f"{row['by_workload']['chat'][rate]:.4f}" for row in same]
    page.choose("workload", "")


@pytest.mark.slow
@browser
def test_browser_shows_block_sizes_at_equal_tokens(page: Page, rows: list[Row]) -> None:
    page.choose("over", "block")
    page.choose("rate", "token_hit_rate")
    page.choose("capacity", "160 tokens")
    table = page.run(TABLE)
    assert table[0] == ["policy", "4", "8"]
    same = pick(rows, policy="arc", capacity_tokens=160)
    assert next(line for line in table if line[0] == "arc")[1:] == [f"{row['token_hit_rate']:.4f}" for row in same]


@pytest.mark.slow
@browser
def test_mouse_and_keyboard_show_a_point_s_numbers(page: Page, rows: list[Row]) -> None:
    page.choose("over", "capacity")
    page.choose("block", "4")
    page.choose("rate", "token_hit_rate")
    box = page.run(
        "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('.point').getBoundingClientRect())"
    )
    page.hover(1, 1)
    assert page.run("document.getElementById('tip').hidden")
    page.hover(*box)
    assert not page.run("document.getElementById('tip').hidden")
    shown = page.run("document.getElementById('tip').textContent")
    assert page.run("document.querySelector('.point').getAttribute('aria-label')") == shown.replace("\n", ", ")
    row = pick(rows, policy=shown.split("\n")[0], block_size=4, capacity_tokens=80)
    assert [f"token hit rate: {r['token_hit_rate']:.4f}" in shown for r in row] == [True]
    page.hover(1, 1)
    page.run("document.querySelectorAll('.point')[4].focus()")
    assert not page.run("document.getElementById('tip').hidden")


@pytest.mark.slow
@browser
def test_policy_that_is_unticked_is_gone(page: Page) -> None:
    page.choose("over", "capacity")
    before = page.run("document.querySelectorAll('.point').length")
    page.run("document.querySelector('input[name=arc]').click()")
    assert page.run("document.querySelectorAll('.point').length") == before - 3
    page.run("document.querySelector('input[name=arc]').click()")
    assert page.run("document.querySelectorAll('.point').length") == before


@pytest.mark.slow
@browser
def test_a_link_restores_what_was_shown(page: Page) -> None:
    page.choose("over", "block")
    page.choose("rate", "block_hit_rate")
    page.choose("capacity", "160 tokens")
    page.run("document.querySelector('input[name=arc]').click()")
    link, table = page.run("location.hash"), page.run(TABLE)
    for other in ("", "trace=gone&hidden=[&rate=gone"):  # a link that was cut gives the first view
        page.run(f"location.hash = {other!r}")
        page.until("document.querySelector('input[name=arc]').checked")
        shown = page.run("['over', 'rate'].map(id => document.getElementById(id).value)")
        assert shown == ["capacity", "token_hit_rate"]
        page.run(f"location.hash = {link!r}")
        page.until("!document.querySelector('input[name=arc]').checked")
        assert page.run(TABLE) == table
    page.run("document.querySelector('input[name=arc]').click()")


@pytest.mark.slow
@browser
def test_page_fits_a_phone(page: Page) -> None:
    page.choose("over", "capacity")
    wide = page.run("document.querySelector('#chart svg').clientWidth")
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    page.until("document.querySelector('#chart svg')?.clientWidth < 390")
    assert page.run("document.documentElement.scrollWidth") == 390
    assert page.run("document.querySelectorAll('.point').length") == len(POLICIES) * 3
    page.call("Emulation.clearDeviceMetricsOverride")
    page.until(f"document.querySelector('#chart svg')?.clientWidth === {wide}")


@pytest.mark.slow
@browser
def test_page_opens_on_the_trace_with_the_most_policies(rows: list[Row], tmp_path: Path) -> None:
    few = [row | {"trace": "few.jsonl", "trace_sha256": "0" * 64} for row in rows if row["policy"] == "lru"]
    write_page({Path("a.jsonl"): few * 9, Path("b.jsonl"): rows}, tmp_path / "page.html")
    with open_page(tmp_path / "page.html", tmp_path / "profile") as opened:
        assert opened.run("document.getElementById('trace').selectedIndex") == 1
        assert opened.run(TABLE)[1:]
