"""The README is short, and links and pictures of the README and the manual lead somewhere."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_page_links_to_exists(page: str) -> None:
    folder = (ROOT / page).parent
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert "://" in target or (folder / target).exists(), f"{page}: {target}"


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_in_the_navigation() -> None:
    groups = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [
        entry
        for group in groups
        for value in group.values()
        for entry in ([value] if isinstance(value, str) else value)
    ]
    shown = {entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries}
    assert {Path(page).name for page in PAGES if page.startswith("docs/")} <= shown


@pytest.mark.slow
def test_the_manual_loads_nothing_from_another_host(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "docs", copy / "docs")
    for name in ("mkdocs.yml", "Makefile", *("README.md", "vllm/README.md", "parity/README.md")):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "figures", copy / "figures")
    subprocess.run(["make", "docs"], cwd=copy, check=True, timeout=500)
    pages = list((copy / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src="|<link[^>]*href=")(?:https?:)?//[^"]*', text), page
