"""The public names of the package, and that nothing is imported before one is used."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import vllm_sim

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", vllm_sim.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(vllm_sim, name)
    assert found.__name__ == name
    assert found.__doc__
    assert f"`{name}" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def documented(found: object, seen: set[object]) -> Iterator[tuple[str, str | None]]:
    """What a public name leads to, with docstrings: its methods, and the types of its fields and parameters."""
    module = str(getattr(found, "__module__", ""))
    if not module.startswith("vllm_sim.") or found in seen or not (inspect.isclass(found) or inspect.isfunction(found)):
        return
    seen.add(found)
    yield f"{module}:{found.__qualname__}", inspect.getdoc(found)
    for hint in get_type_hints(found).values():
        for part in (hint, *get_args(hint)):
            yield from documented(part, seen)
    if inspect.isclass(found):
        inherited = {name for base in found.__mro__[1:] for name in vars(base)}  # an override needs none of its own
        for name in vars(found).keys() - inherited:
            if not name.startswith("_"):
                member = vars(found)[name]
                yield from documented(member.fget if isinstance(member, property) else member, seen)


def test_all_that_the_public_names_lead_to_is_documented() -> None:
    seen: set[object] = set()
    found = dict(pair for name in vllm_sim.__all__ for pair in documented(getattr(vllm_sim, name), seen))
    assert len(found) > 80
    assert [name for name, text in found.items() if not text] == []


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
