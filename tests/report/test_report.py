"""The report says what the rows say, and refuses rows that are no results."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.__main__ import main
from report.numbers.build import collect, make_compiler, typeset
from report.numbers.mixes import COMMIT, MIXES, mixes_numbers
from report.numbers.rows import matches
from vllm_sim.sweep.results import check_commit, run_file

ROOT = Path(__file__).parents[2]
CHAPTERS = [path for path in sorted((ROOT / "report").glob("*.typ")) if path.name not in ("lib.typ", "report.typ")]


def copy_rows(folder: Path) -> Path:
    """A copy of the rows, under a commit."""
    copy = Path(shutil.copytree(ROOT / "results", folder / "results"))
    for path in copy.glob("*.jsonl"):
        run_file(path).write_text(json.dumps({"commit": "0" * 40}))
    return copy


@pytest.fixture
def results(tmp_path) -> Path:
    return copy_rows(tmp_path)


def text_of(results: Path) -> str:
    (page,) = typeset(collect(results, ROOT), ROOT, "html")
    return re.sub(r"<[^>]+>", "", page.decode()).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the committed rows."""
    return text_of(copy_rows(tmp_path_factory.mktemp("committed")))


def change(path: Path, wanted: Callable[[dict], bool], **values: Any) -> None:
    """Sets fields of the rows of a file that are wanted."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [row for row in rows if wanted(row)]
    assert found
    for row in found:
        row |= values
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def is_main(row: dict) -> bool:
    return row["experiment"] == "capacity" and row["workload"] == "multi" and row["capacity_share"] is None


def unseen(committed: str, least: int) -> str:
    """The first per cent, with one digit, from so many tenths on that the report does not have."""
    return next(f"{tenths / 10:.1f}" for tenths in range(least, 1000) if f"{tenths / 10:.1f}" not in committed)


def test_a_changed_row_changes_the_text(results, committed):
    rate = unseen(committed, 610)
    change(results / "chat.jsonl", is_main, token_hit_rate=float(rate) / 100)
    assert text_of(results).count(rate) >= 2  # in the summary and in the chapter


def test_a_changed_row_of_the_engine_changes_the_table(results):
    change(results / "chat_engine.jsonl", lambda row: True, ttft_ms_p99=98765.4)
    assert "98,765.4" in text_of(results)


CHANGED = (
    (
        "mixed.jsonl",
        {"experiment": "guarantee", "workload": "chat", "block_size": 64, "capacity": "5%"},
        {"gain_over_lru": -0.0678},
        "6.78 points",
    ),
    ("mixed.jsonl", {"variant": "without ghosts"}, {"gain_over_default": -0.0345}, "3.45 points are lost"),
    (
        "routing.jsonl",
        {"experiment": "fleet", "mix": "chat", "capacity": "10%", "replicas": 4, "router": "session", "policy": "lru"},
        {"token_hit_rate": 0.4321},
        "43.2 (43.2 to 43.2)",
    ),
    ("routing.jsonl", {"experiment": "stale", "mix": "agents"}, {"gain_over_fresh": -0.0767}, "7.7 points (agents)"),
)


def test_changed_rows_of_studies_two_and_three_change_the_text(results, committed):
    """All at once, as a text costs a second of CPU; each row stands in a sentence of its own."""
    for file, wanted, values, _ in CHANGED:
        change(results / file, lambda row, wanted=wanted: matches(row, wanted), **values)
    rate = unseen(committed, 900)
    is_unseen_half = {"policy": "hybrid", "part": "second"}
    change(results / "mixed_hash.jsonl", lambda row: matches(row, is_unseen_half), token_hit_rate=float(rate) / 100)
    after = text_of(results)
    assert rate in after
    for *_, expected in CHANGED:
        assert expected not in committed
        assert expected in after


def test_the_main_result_and_its_aim_are_those_of_its_rows(results, committed):
    is_hybrid = {"experiment": "gap", "mix": "all", "policy": "hybrid", "block_size": 16, "capacity": None}
    for least, expected in ((10, "and it is not met"), (500, "and it is met")):
        closed = unseen(committed, least)
        change(results / "mixed_gap.jsonl", lambda row: matches(row, is_hybrid), gap_closed=float(closed) / 100)
        after = " ".join(text_of(results).split())
        assert expected in after
        assert closed in after


def test_a_changed_row_of_the_grid_changes_the_table(results):
    change(results / "mixed_engine.jsonl", lambda row: row["policy"] == "lru", ttft_ms_p50=7654.3)
    assert "7,654.3 /" in text_of(results)


def test_the_main_part_has_at_most_ten_pages_six_figures_and_six_tables(results):
    """Sources apart: they end it."""
    compiler = make_compiler(collect(results, ROOT), ROOT, "pdf")
    (page,) = json.loads(compiler.query("<appendix-page>", field="value"))
    assert page <= 12
    for kind, most in (("image", 6), ("table", 6)):
        (count,) = json.loads(compiler.query(f"<main-{kind}s>", field="value"))
        assert 1 <= count <= most


def test_letters_of_the_report_are_embedded(results):
    """Of figures as TrueType; in the PDF every font has its program."""
    (document,) = typeset(collect(results, ROOT), ROOT)
    assert b"/Type3" not in document
    for path in (ROOT / "figures").glob("*.pdf"):
        text = path.read_bytes()
        assert b"/FontFile2" in text, path
        assert b"/Type3" not in text, path


def test_counts_of_parity_are_those_of_its_file(results):
    path = results / "parity.json"
    found = json.loads(path.read_text())
    found["http"][0]["cached_tokens"] = 7654321
    path.write_text(json.dumps(found))
    assert "7,654,321" in text_of(results)
    found["cases"][0]["differences"] = 1
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="the rows no longer show what the report claims"):
        text_of(results)


def test_costs_are_those_of_their_file(results):
    path = results / "pool_cost.json"
    found = json.loads(path.read_text())
    (row,) = (row for row in found["policies"] if row["policy"] == "hybrid")
    row["bytes_a_block"] = 987
    path.write_text(json.dumps(found))
    assert "keeps 987 bytes" in text_of(results)


def test_same_rows_give_the_same_bytes(results):
    assert typeset(collect(results, ROOT), ROOT) == typeset(collect(results, ROOT), ROOT)


def test_the_committed_report_is_made_of_the_committed_rows(tmp_path, monkeypatch):
    for path in (ROOT / "results").glob("*.jsonl"):
        try:
            check_commit(path, "make study")
        except ValueError as error:
            pytest.skip(f"no report can be made yet: {error}")
    monkeypatch.chdir(ROOT)
    assert main(["--pdf", str(tmp_path / "report.pdf")]) == 0
    assert (tmp_path / "report.pdf").read_bytes() == (ROOT / "report.pdf").read_bytes(), "run `make report`"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"quick": True}, "the row of a quick run"),
        ({"conversations": 1999}, "1,999 conversations; allowed: 2,000 or more"),
    ],
)
@pytest.mark.parametrize("file", ["chat.jsonl", "chat_engine.jsonl"])
def test_rows_that_are_no_results_are_refused(results, file, values, reason):
    lines = (results / file).read_text().splitlines()
    change(results / file, lambda row: row == json.loads(lines[2]), **values)
    with pytest.raises(ValueError, match=rf"{file}, line 3: .*{reason}.*make study"):
        collect(results, ROOT)


@pytest.mark.parametrize("file", ["chat_engine.jsonl", "mixed_matrix.jsonl"])
def test_rows_whose_code_was_not_committed_are_refused(results, file):
    beside = run_file(results / file)
    for commit, reason in (("57c4093-dirty", rf"{beside} names 57c4093-dirty"), (None, rf"no commit is in {beside}")):
        beside.write_text(json.dumps({"commit": commit}))
        with pytest.raises(
            ValueError, match=rf"{file}: {reason}; allowed: .*Commit the sources, then run `.*make study"
        ):
            collect(results, ROOT)
    beside.unlink()
    with pytest.raises(ValueError, match=rf"{file}: no commit is in"):
        collect(results, ROOT)
    assert main(["--check", "--results", str(results), "--traces", str(results)]) == 1


def test_a_missing_row_is_named(results):
    change(results / "chat.jsonl", is_main, experiment="other")
    with pytest.raises(ValueError, match=r"no row of capacity with .*multi.*make study"):
        collect(results, ROOT)


def test_what_the_rows_do_not_show_is_not_claimed(results):
    change(results / "chat.jsonl", lambda row: row["experiment"] == "agree" and row["backend"] == "fast", hit_tokens=1)
    with pytest.raises(ValueError, match="the rows no longer show what the report claims"):
        typeset(collect(results, ROOT), ROOT)


CLAIMS = (
    ("mixed.jsonl", {"experiment": "isolation", "tenants": "tenant"}, {"cost": 0.01}, "own pay nothing"),
    ("mixed.jsonl", {"experiment": "isolation", "tenants": "2"}, {"cost": 0.01}, "and pays twice"),
    ("mixed.jsonl", {"experiment": "mix", "policy": "fifo"}, {"gain_over_lru": 0.02}, "equals LRU at blocks of"),
    ("chat.jsonl", {"experiment": "capacity", "workload": "multi"}, {"hit_generated_tokens": 1}, "misses most of it"),
)


def test_sentences_that_rows_do_not_show_are_left_out(results, committed):
    for file, wanted, values, _ in CLAIMS:
        change(results / file, lambda row, wanted=wanted: matches(row, wanted), **values)
    before, after = (" ".join(text.split()) for text in (committed, text_of(results)))
    for *_, claimed in CLAIMS:
        assert claimed in before
        assert claimed not in after


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        ({"experiment": "capacity", "workload": "single", "capacity_share": None}, {"token_hit_rate": 0.3}),
        ({"experiment": "capacity", "workload": "multi"}, {"token_hit_rate": 0.5}),
        ({"experiment": "arrival", "sessions_per_s": 4.0}, {"token_hit_rate": 0.99}),
    ],
)
def test_a_report_whose_main_claims_do_not_hold_is_not_built(results, wanted, values):
    change(results / "chat.jsonl", lambda row: matches(row, wanted), **values)
    with pytest.raises(ValueError, match="the rows no longer show what the report claims"):
        text_of(results)


def test_no_digit_of_a_chapter_is_typed():
    typed = [f"{path.name}: {word}" for path in CHAPTERS for word in digits_in(path.read_text(encoding="utf-8"))]
    assert not typed


CODE = (
    r"(?m)^\s*//.*$",  # comments
    r"`[^`\n]*`",
    r"\.at\(\d\)|left: \d",  # arguments
    r"#[a-z][\w.]*",  # numbers out of the rows
    r"<[\w-]+>|@[\w-]+",  # labels
)
NAMES = {"S3-FIFO", "sha256"}


def digits_in(source: str) -> list[str]:
    """Words with digits in what is neither code nor a number out of the rows; p50 and the like are names."""
    for pattern in CODE:
        source = re.sub(pattern, " ", source)
    words = [word.strip('.,:;()"') for word in re.findall(r"\S*\d\S*", source)]
    return [word for word in words if word not in NAMES and not re.fullmatch(r"p\d\d", word)]


def test_no_punctuation_is_swallowed():
    """Typst takes a semicolon after an expression for its end."""
    assert not [path.name for path in CHAPTERS if re.search(r"#[a-z][\w.]*(\([^)]*\))?;|\];", path.read_text())]


def test_a_typed_rate_is_found():
    assert digits_in("The hybrid closes 21 % of the gap, #n.x.p50 of it `at 5`.") == ["21"]


def test_a_mix_is_told_to_be_a_tuning_mix_again_only_if_its_sessions_begin_alike(tmp_path):
    shutil.copytree(ROOT / MIXES, tmp_path / MIXES)
    assert "even" in mixes_numbers(tmp_path)["same"]
    tune = tmp_path / MIXES / "tune_even.toml"
    tune.write_text(tune.read_text().replace("requests_per_s = 0.7", "requests_per_s = 0.8"))
    assert "even" not in mixes_numbers(tmp_path)["same"]
    tune.unlink()
    assert "even" in mixes_numbers(tmp_path)["alone"]


def test_the_mixes_are_those_of_the_commit_that_the_report_names():
    known = subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", COMMIT], capture_output=True)
    if known.returncode:
        pytest.skip("no repository, or one without its history")

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    names = git("ls-tree", "--name-only", COMMIT, f"{MIXES}/").split()
    reported = [name for name in names if Path(name).name.startswith("report_")]
    assert len(reported) == 5
    for name in reported:
        assert git("show", f"{COMMIT}:{name}") == (ROOT / name).read_text(encoding="utf-8"), name
    assert not git("ls-tree", COMMIT, "vllm_sim/eviction/hybrid.py")
