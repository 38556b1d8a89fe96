"""The scripts of study one as a user meets them, and the tables of README and manual against results/."""

import subprocess
from pathlib import Path

import pytest

from report.readme import PAGES, rewrite, table
from tests.commands import script
from vllm_sim.sweep.lock import only_writer
from vllm_sim.sweep.results import read_rows

ROOT = Path(__file__).parents[2]
PLOTS = ("visualize_task2.py", "visualize_task2_advance.py")


def run(name: str, *words: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return script(f"milestone2_code/{name}", *words, folder=folder)


def test_a_missing_input_names_the_step_before(tmp_path: Path) -> None:
    done = run("compare_multi_vs_single_turn.py", "--data", str(tmp_path))
    assert (done.returncode, "first run preprocess_sharegpt.py" in done.stderr) == (1, True)
    for name in PLOTS:
        done = run(name, "--results", str(tmp_path))
        assert (done.returncode, "compare_multi_vs_single_turn.py" in done.stderr) == (1, True)


def test_a_second_run_into_one_folder_is_one_clear_error(tmp_path: Path) -> None:
    for name in ("single_turn.jsonl", "multi_turn.jsonl"):
        (tmp_path / name).write_text('{"prompt_token_ids": [1, 2], "output_length": 1, "session_id": "a"}\n')
    rows = tmp_path / "chat.jsonl"
    with only_writer(rows):
        done = run("compare_multi_vs_single_turn.py", "--data", str(tmp_path), "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {rows} is being written by another run; allowed: one at a time"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_the_results_say(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    rewrite(tmp_path / "page.md", PAGES[page], ROOT / "results")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == text


def test_quick_rows_make_no_table() -> None:
    rows = read_rows(ROOT / "results" / "chat.jsonl")
    rows[0]["quick"] = True
    with pytest.raises(ValueError, match="quick run"):
        table(rows)
