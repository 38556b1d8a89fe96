"""The package installs into any vLLM without replacing a thing."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", ["vllm", "torch", "transformers", "fastapi", "tokenizers", "openai", "numpy"])
def test_what_vllm_bounds_has_no_bound_here(project: dict[str, Any], name: str) -> None:
    requirements = [*project["project"]["dependencies"]]
    for group in project["project"].get("optional-dependencies", {}).values():
        requirements += group
    for requirement in requirements:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert found is not None
        if found[0].lower() == name:
            assert requirement == name


def test_vllm_and_torch_are_not_required_at_all(project: dict[str, Any]) -> None:
    assert not {"vllm", "torch"} & set(project["project"]["dependencies"])


def test_only_our_package_is_packaged(project: dict[str, Any]) -> None:
    assert project["tool"]["setuptools"]["packages"]["find"] == {"include": ["vllm_sim*"]}
    assert not (ROOT / "vllm" / "__init__.py").exists()  # it would hide the real vLLM


def test_the_licence_is_the_one_that_is_named(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
