"""What plots put together follows from the fields of rows, and no two rows of a study look the same to the page."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.making import settings
from vllm_sim.plots.grouping import SEEDS, StudyFields, conditions, seeds
from vllm_sim.plots.page import write_page
from vllm_sim.replay.about import fields_of
from vllm_sim.replay.config import config_fields
from vllm_sim.sweep.results import find_rows

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_every_field_of_a_run_sets_rows_apart_but_lines_axes_and_seeds() -> None:
    base = settings(backend="engine").values()
    for field in config_fields():
        is_apart = conditions(base | {field.name: "another"}) != conditions(base)
        assert is_apart == (field.about.plot == "apart"), field.name
    others = {field.name: field.about.plot for field in config_fields() if field.about.plot != "apart"}
    lines, axes = (
        dict.fromkeys(("policy", "policy_params"), "line"),
        dict.fromkeys(("capacity_blocks", "block_size"), "axis"),
    )
    assert others == lines | axes | {"seed": "seed"}


@pytest.mark.parametrize("name", [field.name for field in fields_of(StudyFields)])
def test_a_field_of_a_study_is_read_by_its_name(name: str) -> None:
    about = {field.name: field.about for field in fields_of(StudyFields)}[name]
    assert (name in conditions({name: "another"})) == (about.plot == "apart")
    assert (seeds({name: 3}).count(3) == 1) == (name in SEEDS) == (about.plot == "seed")


def test_the_page_takes_no_two_rows_of_the_studies_for_one_but_for_seeds(tmp_path: Path) -> None:
    write_page(find_rows(RESULTS), tmp_path / "page.html")
    found = re.search(r'<script [^>]*type="application/json"[^>]*>(.*?)</script>', (tmp_path / "page.html").read_text())
    assert found
    data = json.loads(found[1])
    places = ("set", "trace", "policy", "at", "capacity", "block", "facets", "seed")
    rows = [row for row in data["rows"] if "curve" not in row]
    same = Counter(json.dumps([row[place] for place in places]) for row in rows)
    assert len(rows) > 1000
    assert [row for row, times in same.items() if times > 1] == []
