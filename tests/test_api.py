"""The public names of the package, and that nothing is imported before one is used."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_sim

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", vllm_sim.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(vllm_sim, name)
    assert found.__name__ == name
    assert found.__doc__
    assert f"`{name}" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_other_names_are_none_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = vllm_sim.Nothing  # type: ignore[attr-defined]
    assert set(vllm_sim.__all__) <= set(dir(vllm_sim))


def test_the_package_imports_no_module_by_itself() -> None:
    script = "import sys; before = set(sys.modules); import vllm_sim; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["vllm_sim"]


def test_type_checkers_see_the_names_that_are_resolved() -> None:
    tree = ast.parse((ROOT / "vllm_sim" / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        f"{n.module}:{a.name}"
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.level == 0
        for a in n.names
    }
    assert seen - {"importlib:import_module"} == set(vllm_sim._PUBLIC.values())
    assert list(vllm_sim._PUBLIC) == vllm_sim.__all__ == sorted(vllm_sim.__all__)


def test_the_page_names_only_what_is_public() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)", page, re.MULTILINE)) == set(vllm_sim.__all__)
