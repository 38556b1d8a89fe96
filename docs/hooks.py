"""Takes files from outside docs/ into the site, so that one link works in the repository and on a page.

A link `../PATH` of a page leads to a file of the repository. A README of a folder becomes a page of the site, a figure
is copied, and the project's README is the page `index.md`. Any other path is left as it is, and `mkdocs build --strict`
refuses it.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "vllm/README.md": "vllm.md", "parity/README.md": "parity.md"}
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and the figures that pages link to."""
    for path, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for figure in sorted((ROOT / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links out of docs/ into links within the site."""
    return OUTSIDE.sub(lambda found: f"]({PAGES.get(found[1], found[1])}", markdown)
