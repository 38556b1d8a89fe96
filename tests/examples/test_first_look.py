"""The notebook runs as it is, cell by cell, in the order of its cells; the dashboard asks for metrics that vLLM has."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "first_look.ipynb").read_text(encoding="utf-8"))
BOARD = json.loads((EXAMPLES / "grafana.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_notebook_runs_from_a_trace_to_a_plan(tmp_path: Path) -> None:
    (tmp_path / "exported_models").symlink_to(EXAMPLES.parent / "exported_models")
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    (tmp_path / "cells.py").write_text("\n\n".join(cells))
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "50% of the working set: hit 0." in done.stdout
    assert "shortest prompt that can be hit again" in done.stdout
    plans = [json.loads(line) for line in (tmp_path / "plan" / "plan.jsonl").read_text().splitlines()]
    assert [plan["load"] for plan in plans] == [1.0, 2.0]
    assert all(plan["met"] for plan in plans)


def test_no_cell_has_outputs_and_all_compile() -> None:
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            compile("".join(cell["source"]), "cell", "exec")


def test_the_dashboard_asks_for_metrics_that_vllm_has() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    text = (Path(spec.submodule_search_locations[0]) / "v1" / "metrics" / "loggers.py").read_text(encoding="utf-8")
    wanted = {
        name for panel in BOARD["panels"] for one in panel["targets"] for name in re.findall(r"vllm:\w+", one["expr"])
    }
    assert len(wanted) > 10
    for name in wanted:
        assert f'"{name.removesuffix("_total").removesuffix("_bucket")}"' in text, name
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
