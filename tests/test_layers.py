"""No module imports upwards, and the package imports nothing that only this repository has."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_sim

PACKAGE = Path(vllm_sim.__file__).parent
LAYERS = (
    {"trace", "models"},
    {"workloads", "eviction"},
    {"fleet"},
    {"engine"},
    {"replay"},
    {"sweep"},
    {"plots"},
    {"proxy"},
    {"cli", "__init__.py", "model_export.py"},
)
"""Folders, the lowest first, and modules beside them; the other modules are below all."""
OUTSIDE = {"tests", "benchmarks", "parity", "report", "milestone2_code", "milestone3_code"}
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def place(name: str) -> int:
    """Where a folder or module of the package is among the layers; -1: below all."""
    return next((number for number, layer in enumerate(LAYERS) if name in layer), -1)


def imports(text: str) -> Iterator[str]:
    """Dotted names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def faults(file: str, text: str) -> list[str]:
    """The imports of a module that it must not have."""
    found, own = [], file.partition("/")[0]
    for name in imports(text):
        top, _, rest = name.partition(".")
        folder = rest.partition(".")[0]
        is_upward = top == "vllm_sim" and folder != own and place(folder) > place(own)
        if is_upward or top in OUTSIDE or (top in ("vllm", "torch") and own != "engine"):
            found.append(name)
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_module_imports_from_lower_layers_alone(file: str) -> None:
    assert faults(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("eviction/simulate.py", "from vllm_sim.replay.rows import Row"),
        ("eviction/policies/lru.py", "def f():\n    import vllm_sim.engine.pool"),
        ("replay/rows.py", "from tests.making import rows"),
        ("sweep/grid.py", "import benchmarks.rows"),
        ("replay/run.py", "from vllm.config import VllmConfig"),
        ("block_rules.py", "from vllm_sim.trace.files import iter_records"),
    ],
)
def test_an_import_upwards_or_from_outside_is_found(file: str, text: str) -> None:
    assert len(faults(file, text)) == 1


def test_every_folder_has_a_layer_and_is_on_the_page_of_layers() -> None:
    folders = {file.partition("/")[0] for file in FILES if "/" in file}
    assert folders <= set().union(*LAYERS)
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {
        folder for folder in folders if f"| `vllm_sim/{folder}`" not in page and f", `vllm_sim/{folder}`" not in page
    } == set()
