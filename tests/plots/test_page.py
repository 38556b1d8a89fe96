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
from vllm_sim.plots.style import LOOKS
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


def test_traces_of_one_name_are_told_apart(rows: list[Row], tmp_path: Path) -> None:
    write_page(
        {Path("rows.jsonl"): [*rows, *(row | {"trace_sha256": "ab" * 32} for row in rows)]}, tmp_path / "page.html"
    )
    text = (tmp_path / "page.html").read_text()
    assert text.count('(ababab)"') == len(rows)


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
WIDE, PHONE = 1280, 390


def pick(rows: list[Row], **values: object) -> list[Row]:
    return [row for row in rows if "curve" not in row and all(row[name] == value for name, value in values.items())]


def percent(rate: float) -> str:
    return f"{100 * rate:.2f}"


def show(page: Page, **values: str) -> None:
    """Makes choices, after which the page has its first view no more."""
    page.run("location.hash = ''")
    page.until("document.getElementById('over').value === 'capacity'")
    for control in ("set", "measure", "over", "split", "trace", "workload", "block", "capacity"):
        if control in values:
            page.choose(control, values[control])


@pytest.mark.slow
@browser
def test_browser_shows_a_point_for_each_row_and_loads_nothing(page: Page) -> None:
    show(page, measure="token_hit_rate", block="4")
    assert page.run("document.querySelectorAll('.point').length") == len(POLICIES) * 3
    assert page.run("document.querySelectorAll('.curve_marks path').length") == 1
    assert page.run("document.querySelectorAll('.ceiling_marks line').length") == 1
    assert page.run("performance.getEntriesByType('resource').length") == 0


@pytest.mark.slow
@browser
@pytest.mark.parametrize("rate", ["token_hit_rate", "block_hit_rate", "request_hit_rate"])
def test_browser_shows_the_chosen_definition_workload_and_block_size(page: Page, rows: list[Row], rate: str) -> None:
    show(page, measure=rate, workload="chat", block="8")
    table = page.run(TABLE)
    assert table[0] == ["policy", "10", "20", "40", "unlimited"]
    for line in table[1:]:
        same = sorted(pick(rows, policy=line[0], block_size=8), key=lambda row: row["capacity_blocks"] or 2**62)
        assert line[1:] == [percent(row["by_workload"]["chat"][rate]) for row in same]


@pytest.mark.slow
@browser
def test_browser_shows_block_sizes_at_equal_tokens(page: Page, rows: list[Row]) -> None:
    show(page, measure="token_hit_rate", over="block", capacity="160 tokens")
    table = page.run(TABLE)
    assert table[0] == ["policy", "4", "8"]
    same = pick(rows, policy="arc", capacity_tokens=160)
    assert next(line for line in table if line[0] == "arc")[1:] == [percent(row["token_hit_rate"]) for row in same]


@pytest.mark.slow
@browser
def test_gains_and_shares_of_the_gap_are_computed_where_lru_and_the_optimum_ran(page: Page, rows: list[Row]) -> None:
    def hits(policy: str) -> float:
        return pick(rows, policy=policy, block_size=4, capacity_tokens=160)[0]["token_hit_rate"]

    show(page, measure="gain_over_lru", block="4")
    table = {line[0]: line for line in page.run(TABLE)}
    assert table["arc"][2].removeprefix("-") == percent(abs(hits("arc") - hits("lru")))
    assert table["lru"][1:] == ["0.00"] * 4
    show(page, measure="gap_closed", block="4")
    table = {line[0]: line for line in page.run(TABLE)}
    assert set(table) == {"policy", "arc"}
    closed = (hits("arc") - hits("lru")) / (hits("belady") - hits("lru"))
    assert float(table["arc"][table["policy"].index("40")]) == pytest.approx(100 * closed, abs=0.02)


@pytest.mark.slow
@browser
def test_seeds_are_one_point_with_their_range_and_traces_are_panels(rows: list[Row], tmp_path: Path) -> None:
    """Instead of a trace to choose for each seed."""
    found = [
        row | {"experiment": "mix", "mix": mix, "mix_seed": seed, "token_hit_rate": 0.25 + seed / 10}
        for row in pick(rows, block_size=4)
        for mix in ("even", "chat")
        for seed in (0, 1)
    ]
    write_page({Path("mixed.jsonl"): found}, tmp_path / "page.html")
    with open_page(tmp_path / "page.html", tmp_path / "profile") as opened:
        opened.choose("measure", "token_hit_rate")
        assert opened.run("[...document.querySelectorAll('figcaption')].map(c => c.textContent)") == ["even", "chat"]
        assert opened.run("document.querySelectorAll('.point').length") == 2 * len(POLICIES) * 3
        assert opened.run("document.querySelectorAll('.bars_marks line').length") == 2 * len(POLICIES) * 3
        assert {cell for line in opened.run(TABLE)[1:] for cell in line[2:]} == {"30.00"}
        assert "mean of 2 seeds" in opened.run("document.querySelector('.point').getAttribute('aria-label')")


@pytest.mark.slow
@browser
def test_page_opens_on_the_main_result_and_has_the_matrix(rows: list[Row], tmp_path: Path) -> None:
    gaps = [
        row
        | {"experiment": "gap", "mix": "even", "capacity": capacity, "gap_closed": 0.4, "gap_closed_ci95": [0.3, 0.5]}
        for row in pick(rows, block_size=4, policy="arc")[:2]
        for capacity in ("5%", "10%")
    ]
    lost = {"experiment": "lost", "mix": "even", "share_of_prompt": {"workload": {"chat": {"chat": 0.123}}}}
    files = {Path("a.jsonl"): rows * 2, Path("gap.jsonl"): gaps[:2], Path("m.jsonl"): [gaps[0] | lost]}
    write_page(files, tmp_path / "page.html")
    with open_page(tmp_path / "page.html", tmp_path / "profile") as opened:
        assert opened.run("document.getElementById('set').selectedOptions[0].text") == "gap (gap.jsonl)"
        assert opened.run("document.getElementById('measure').value") == "gap_closed"
        assert opened.run(TABLE) == [["policy", "5%", "10%"], ["arc", "40.00", "40.00"]]
        assert "(30.00 to 50.00)" in opened.run("document.querySelector('.point').getAttribute('aria-label')")
        opened.choose("set", "2")
        assert opened.run("document.querySelector('.matrix').textContent") == "whose tokenschatchat12.3"


@pytest.mark.slow
@browser
def test_settings_that_no_row_has_together_are_not_chosen_together(rows: list[Row], tmp_path: Path) -> None:
    row = pick(rows, block_size=4, policy="arc")[0] | {"experiment": "tiers", "mix": "even", "capacity": "5%"}
    places = (("5%", "none"), ("5%", "10%"), ("5%", "20%"), ("10%", "50%"), ("20%", "50%"))
    found = [row | {"gpu": gpu, "cpu": cpu, "capacity": share} for gpu, cpu in places for share in ("5%", "10%")]
    write_page({Path("tiers.jsonl"): found}, tmp_path / "page.html")
    with open_page(tmp_path / "page.html", tmp_path / "profile") as opened:
        names = opened.run("[...document.querySelectorAll('#facets select')].map(s => s.name)")
        assert names == ["gpu", "cpu"]
        assert opened.run("[...document.querySelectorAll('#facets select')].map(s => s.value)") == ["5%", "none"]
        assert len(opened.run(TABLE)) == 2
        opened.run(
            "(s => { s.value = '20%'; s.dispatchEvent(new Event('change')) })"
            "(document.querySelector('#facets select[name=gpu]'))"
        )
        assert opened.run("[...document.querySelectorAll('#facets select')].map(s => s.name)") == ["gpu"]
        assert len(opened.run(TABLE)) == 2


@pytest.mark.slow
@browser
def test_rows_that_are_shown_can_be_downloaded(page: Page, rows: list[Row]) -> None:
    show(page, measure="token_hit_rate", block="4")
    head, *lines = page.run("table()").splitlines()
    assert len(lines) == len(pick(rows, block_size=4))
    place = head.split(",").index("token_hit_rate")
    assert sorted(float(line.split(",")[place]) for line in lines) == pytest.approx(
        sorted(row["token_hit_rate"] for row in pick(rows, block_size=4)), abs=1e-5
    )


@pytest.mark.slow
@browser
def test_mouse_and_keyboard_show_a_point_s_numbers(page: Page, rows: list[Row]) -> None:
    show(page, measure="token_hit_rate", block="4")
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
    assert [f"token hit rate: {percent(r['token_hit_rate'])}" in shown for r in row] == [True]
    page.hover(1, 1)
    page.run("document.querySelectorAll('.point')[4].focus()")
    assert not page.run("document.getElementById('tip').hidden")


@pytest.mark.slow
@browser
def test_policy_that_is_unticked_is_gone(page: Page) -> None:
    show(page, measure="token_hit_rate")
    before = page.run("document.querySelectorAll('.point').length")
    page.run("document.querySelector('input[name=arc]').click()")
    assert page.run("document.querySelectorAll('.point').length") == before - 3
    page.run("document.querySelector('input[name=arc]').click()")
    assert page.run("document.querySelectorAll('.point').length") == before


@pytest.mark.slow
@browser
def test_a_link_restores_what_was_shown(page: Page) -> None:
    show(page, measure="block_hit_rate", over="block", capacity="160 tokens")
    page.run("document.querySelector('input[name=arc]').click()")
    link, table = page.run("location.hash"), page.run(TABLE)
    for other in ("", "set=gone&policies=[&measure=gone"):  # a link that was cut gives the first view
        page.run(f"location.hash = {other!r}")
        page.until("document.querySelector('input[name=arc]').checked")
        shown = page.run("['over', 'measure'].map(id => document.getElementById(id).value)")
        assert shown == ["capacity", "gap_closed"]
        page.run(f"location.hash = {link!r}")
        page.until("!document.querySelector('input[name=arc]').checked")
        assert page.run(TABLE) == table


@pytest.mark.slow
@browser
@pytest.mark.parametrize("width", [WIDE, PHONE])
def test_page_fits_its_width_and_its_letters_can_be_read(page: Page, width: int) -> None:
    mobile = width == PHONE
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=mobile)
    show(page, measure="token_hit_rate", block="4")
    page.until(f"document.documentElement.clientWidth > {width - 30}")
    widths = "['.chart svg', '.chart'].map(name => document.querySelector(name)?.clientWidth ?? 0)"
    page.until(f"(([svg, chart]) => chart > 0 && Math.abs(svg - chart) < 2)({widths})")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.run("document.querySelectorAll('.point').length") == len(POLICIES) * 3
    sizes = page.run("[...document.querySelectorAll('.chart text')].map(t => parseFloat(getComputedStyle(t).fontSize))")
    assert min(sizes) >= 12
    inside = "b => b.left >= 0 && b.right <= document.documentElement.clientWidth + 1"
    boxes = "[...document.querySelectorAll('select, .chart text')].filter(t => t.getClientRects().length)"
    assert page.run(f"{boxes}.map(t => t.getBoundingClientRect()).every({inside})")
    page.call("Emulation.clearDeviceMetricsOverride")


def test_every_policy_and_class_of_ones_own_can_be_drawn() -> None:
    """`ttl` had a marker that the page did not have, and the page of the studies ended in a KeyError."""
    for policy in (*LOOKS, *map(str, range(20))):
        assert set(page_module._look(policy)) == {"color", "path", "dash"}
