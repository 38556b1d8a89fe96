"""The table of measured speeds is made from results/bench.json, and from that alone."""

from pathlib import Path

import pytest

from benchmarks.rows import OUT, Measurement, keep, read_bench, table, this_machine
from report.readme import measured


def row(name: str, value: float) -> Measurement:
    return Measurement(
        name=name, what=f"what {name}", value=value, unit="times", at_least=0.95, parts={"a, ms": 1234.5}
    )


def test_a_new_measurement_replaces_the_one_of_its_name_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    for found in (row("a", 1.0), row("b", 2.0), row("a", 3.0)):
        keep(found, path)
    bench = read_bench(path)
    assert [(found.name, found.value) for found in bench.rows] == [("a", 3.0), ("b", 2.0)]
    assert bench.machine == this_machine()
    assert all(found.commit is not None and found.load is not None for found in bench.rows)


def test_rows_of_another_machine_go(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    keep(row("a", 1.0), path)
    path.write_text(path.read_text().replace('"python": "', '"python": "0.'))
    keep(row("b", 1.0), path)
    assert [found.name for found in read_bench(path).rows] == ["b"]


def test_a_changed_measurement_changes_the_table_and_a_bar_that_is_not_kept_is_named(tmp_path: Path) -> None:
    keep(row("a", 0.961), tmp_path / "bench.json")
    line = measured(tmp_path).splitlines()[-1]
    assert line == "| what a | 0.961 times | at least 0.95 | a, ms 1,234 |"
    keep(row("a", 0.9), tmp_path / "bench.json")
    assert "| 0.9 times | at least 0.95 (not kept, at load " in measured(tmp_path)


def test_an_aim_that_is_not_reached_stands_beside_the_bar() -> None:
    found = Measurement(name="a", what="what a", value=1.4, unit="times", at_most=1.5, aim=1.3, parts={})
    assert found.holds()
    assert found.bar() == "at most 1.5, aim 1.3"


@pytest.mark.parametrize(("text", "reason"), [("{}", "`machine`"), ("[", "allowed: what `make bench` writes")])
def test_a_file_that_is_no_bench_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"bench\.json: no such file; run `make bench`"):
        measured(tmp_path)
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        measured(tmp_path)


def test_the_committed_rows_are_of_committed_code_and_keep_their_bars_where_little_else_ran() -> None:
    bench = read_bench(OUT)
    assert all(found.commit and not found.commit.endswith("-dirty") for found in bench.rows)
    many = 2 * (bench.machine.cores or 1)
    assert all(found.holds() or (found.load or 0) > many for found in bench.rows)
    assert len(table(bench).splitlines()) == 4 + len(bench.rows)
