"""Plots of a sweep: which ones the rows allow, the same bytes again, and the share of the gap."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt

from tests.making import settings, small_trace
from vllm_sim.plots.curves import draw_all, gap_closed
from vllm_sim.plots.style import LOOKS, line_styles
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.grid import Grid, make_runs, sweep


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("sweep")
    capacities = ["80tok", "160tok", "320tok", "unlimited", "all"]
    runs = make_runs([small_trace(folder)], settings(), Grid(["lru", "arc", "belady"], capacities, [4, 8], [0]))
    return sweep(runs, folder / "rows.jsonl", jobs=1)


def test_a_plot_for_each_thing_that_varies(rows: list[Row], tmp_path: Path) -> None:
    names = {path.name for path in draw_all(rows, tmp_path, "x")}
    parts = [f"capacity-b{size}{workload}" for size in (4, 8) for workload in ("", "-agent", "-chat")]
    parts += [f"block-size-{tokens}" for tokens in ("80tok", "160tok", "320tok", "unlimited")]
    expected = {f"x-small-{part}.{suffix}" for part in parts for suffix in ("png", "pdf")}
    assert names == expected | {"x-gap.png", "x-gap.pdf"}


def test_a_name_that_looks_like_mathematics_is_drawn_as_it_is(rows: list[Row], tmp_path: Path) -> None:
    name = r"$\frac{$ [/b] \x1b[31m"
    parts = "by_workload"
    renamed = [row | {"trace": name, parts: {name: next(iter(row[parts].values()))}} for row in rows if parts in row]
    paths = draw_all(renamed, tmp_path, "x")
    assert len(paths) > 10
    assert all(path.stat().st_size > 5000 for path in paths)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are drawn, by name; they are not written, which takes most of the time."""
    drawn: dict[str, Any] = {}

    def keep(figure: Any, folder: Path, name: str, title: str, note: Sequence[str]) -> list[Path]:
        figure.suptitle(title)
        drawn[name] = figure
        plt.close(figure)
        return [folder / f"{name}.png"]

    monkeypatch.setattr("vllm_sim.plots.curves.save", keep)
    return drawn


def lines_of(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_the_whole_curve_is_drawn_in_steps_through_every_run_of_lru(
    rows: list[Row], tmp_path: Path, figures: dict[str, Any]
) -> None:
    unlimited = next(row for row in rows if row["capacity_blocks"] is None and row["policy"] == "lru")
    draw_all([*rows, unlimited | {"capacity_blocks": 300, "capacity_tokens": 1200}], tmp_path, "x")
    lines = lines_of(figures["x-small-capacity-b4"])
    curve, dots = lines["lru, every capacity"], lines["lru"]
    steps, rates = curve.get_xdata(), curve.get_ydata()
    assert curve.get_drawstyle() == "steps-post"
    assert not set(dots.get_xdata()) <= set(steps[:-1])
    for capacity, rate in dots.get_xydata():
        assert rates[np.searchsorted(steps, capacity, side="right") - 1] == pytest.approx(rate, abs=2e-6)
    assert steps[-1] == 300


def test_the_same_rows_give_the_same_bytes(rows: list[Row], tmp_path: Path) -> None:
    some = [row for row in rows if row["block_size"] == 4]
    one, two = draw_all(some, tmp_path / "one", "x"), draw_all(some[::-1], tmp_path / "two", "x")
    assert len(one) > 6
    assert {path.name: path.read_bytes() for path in one} == {path.name: path.read_bytes() for path in two}


def test_share_of_the_gap_is_a_ratio_of_sums_over_points_where_all_three_ran() -> None:
    def row(policy: str, capacity: int | None, hit: int) -> Row:
        names = {"trace": "t", "trace_sha256": "0", "backend": "fast", "policy": policy, "block_size": 4, "seed": 0}
        return names | {"capacity_blocks": capacity, "hit_tokens": hit}

    cells = [("lru", 1, 10), ("belady", 1, 20), ("arc", 1, 15), ("lru", 2, 100), ("belady", 2, 130), ("arc", 2, 95)]
    more = [("arc", 3, 900), ("lru", 3, 1), ("lru", None, 1), ("belady", None, 2), ("arc", None, 2)]
    assert gap_closed([row(*cell) for cell in cells + more]) == {"arc": (5 - 5) / (10 + 30)}
    assert gap_closed([row(*cell) for cell in cells[:3]]) == {"arc": 0.5}


def test_rows_with_nothing_to_compare_are_an_error(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_all([row for row in rows if row["capacity_blocks"] is None and row["block_size"] == 4], tmp_path, "x")
    with pytest.raises(ValueError, match="allowed: token_hit_rate"):
        draw_all(rows, tmp_path, "x", "best")


@pytest.mark.filterwarnings("error::UserWarning")
def test_plot_of_rows_without_a_rate_is_left_out(
    rows: list[Row], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = [
        {name: value for name, value in row.items() if name not in ("token_hit_rate", "by_workload", "curve")}
        for row in rows
        if row["block_size"] == 8
    ]
    with pytest.raises(ValueError, match="no row has token_hit_rate; allowed: rows of sweep or replay"):
        draw_all([row for row in without if row["policy"] == "lru"], tmp_path, "x")
    assert not list(tmp_path.iterdir())
    others = [row for row in rows if row["block_size"] == 4]
    names = {path.name for path in draw_all(others + without, tmp_path, "x") if "capacity" in path.name}
    assert {name for name in names if "b8" in name} == set()
    assert "x-small-capacity-b4.png" in names
    assert "x-small-capacity-b8: left out, no row of it has token_hit_rate" in caplog.messages


def test_rows_need_no_seed(rows: list[Row]) -> None:
    some = [row for row in rows if row["capacity_blocks"] == 20]
    assert gap_closed([{key: row[key] for key in row if key != "seed"} for row in some]) == gap_closed(some) != {}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_num_seqs", (8, 256)),
        ("max_num_batched_tokens", (512, 8192)),
        ("max_model_len", (128, 4096)),
        ("async_scheduling", (False, True)),
        ("latency_table", ({"base_ms": 1.0}, {"base_ms": 2.0})),
    ],
)
def test_rows_of_unlike_engine_settings_are_not_drawn_as_one(
    rows: list[Row], tmp_path: Path, figures: dict[str, Any], field: str, values: tuple[Any, Any]
) -> None:
    some = [row for row in rows if row["block_size"] == 4 and isinstance(row["capacity_blocks"], int)]
    made = []
    for value, rate in zip(values, (0.2, 0.4), strict=True):
        made += [row | {field: value, "token_hit_rate": rate, "by_workload": {}} for row in some]
    made += [row | {"token_hit_rate": 0.6, "by_workload": {}} for row in some if field != "async_scheduling"]
    draw_all(made, tmp_path, "x")
    drawn = [lines_of(figure)["lru"].get_ydata() for name, figure in figures.items() if name.endswith("capacity-b4")]
    assert [set(rates) for rates in drawn] == [{rate} for rate in (0.2, 0.4, 0.6)[: len(drawn)]]
    assert len(drawn) == len({str(row.get(field)) for row in made})
    bars = [label.get_text() for label in figures["x-gap"].axes[0].get_xticklabels()]
    assert len(set(bars)) == len(bars) == len(drawn) + 1
    most = [row | {"hit_tokens": 2 * row["hit_tokens"]} if row["policy"] == "belady" else row for row in some]
    unlike = [row | {field: values[0]} for row in some] + [row | {field: values[1]} for row in most]
    assert gap_closed(unlike) not in (gap_closed(some), gap_closed(most))


@pytest.mark.parametrize(
    ("given", "name", "title"),
    [
        ("100tok", "100tok", "100tok"),
        ("10%", "10-percent-of-the-working-set", "10% of the working set"),
        (None, "", ""),
    ],
)
def test_block_sizes_that_do_not_divide_a_capacity_are_in_one_plot(
    rows: list[Row], tmp_path: Path, figures: dict[str, Any], given: str | None, name: str, title: str
) -> None:
    made = []
    for row in rows:
        if row["policy"] == "lru" and row["capacity_blocks"] in (40, 20):
            blocks = {4: 25, 8: 12}[row["block_size"]]
            other = row | {"capacity_blocks": blocks, "capacity_tokens": blocks * row["block_size"], "capacity": given}
            made.append({field: value for field, value in other.items() if (field, value) != ("capacity", None)})
    some = [row for row in rows if row["policy"] == "lru" and row["block_size"] == 4 and "curve" not in row]
    draw_all(made + some, tmp_path, "x")
    drawn = {name: figure for name, figure in figures.items() if "block-size" in name}
    assert list(drawn) == ([] if given is None else [f"x-small-block-size-{name}"])
    for figure in drawn.values():
        assert figure.get_suptitle().endswith(f"capacity {title}")
        assert set(lines_of(figure)["lru"].get_xdata()) == {4, 8}


def test_no_two_policies_look_alike_in_black_and_white() -> None:
    assert len({(look.marker, str(look.line)) for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.color for look in LOOKS.values()}) == len(LOOKS)


def test_parameters_of_one_policy_do_not_look_alike_in_black_and_white() -> None:
    labels = ["slru", *(f"slru (protected=0.{tenths})" for tenths in range(1, 7))]
    styles = line_styles(labels)
    assert len({(style["marker"], str(style["linestyle"])) for style in styles.values()}) == len(labels) - 1
    assert "markerfacecolor" not in styles["slru"]
    assert {style["color"] for style in styles.values()} == {LOOKS["slru"].color}
