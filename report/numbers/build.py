"""Numbers of all chapters, and the PDF that Typst makes of them and of report/.

The same rows, figures and sources give the same bytes: fonts are those that Typst and matplotlib bring along, and the
date is fixed.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import matplotlib

from report.numbers.ablations import ablation_numbers
from report.numbers.chat import chat_numbers
from report.numbers.cost import cost_numbers
from report.numbers.engine import engine_numbers
from report.numbers.gap import gap_numbers
from report.numbers.hashes import hash_numbers
from report.numbers.hints import hints_numbers
from report.numbers.hybrid import hybrid_numbers, policy_numbers
from report.numbers.mixed import mixed_numbers
from report.numbers.mixes import mixes_numbers, traces_numbers
from report.numbers.models import model_numbers
from report.numbers.parity import parity_numbers, upstream_numbers
from report.numbers.routing import routing_numbers
from report.numbers.tiers import tiers_numbers

SOURCE = Path("report/report.typ")
DATE = datetime(2026, 12, 1, tzinfo=UTC)
"""Of the document, not of the rows."""
CHAPTERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "chat": ("chat.jsonl", chat_numbers),
    "mixed": ("mixed.jsonl", mixed_numbers),
    "gap": ("mixed_gap.jsonl", gap_numbers),
    "hybrid": ("mixed.jsonl", hybrid_numbers),
    "ablations": ("mixed.jsonl", ablation_numbers),
    "models": ("hybrids.jsonl", model_numbers),
    "engine": ("mixed_engine.jsonl", engine_numbers),
    "hashes": ("mixed_hash.jsonl", hash_numbers),
    "tiers": ("tiers.jsonl", tiers_numbers),
    "hints": ("hints.jsonl", hints_numbers),
    "routing": ("routing.jsonl", routing_numbers),
    "cost": ("pool_cost.json", cost_numbers),
    "parity": ("parity.json", parity_numbers),
    "upstream": ("upstream_tests.json", upstream_numbers),
}
"""The file that a chapter depends on, and what makes its numbers."""


def collect(results: Path, root: Path) -> dict[str, Any]:
    """The numbers of all chapters, all of them texts; None where a chapter's file is not there.

    Args:
        results: the folder of the rows.
        root: see typeset.

    Raises:
        ValueError: rows are no results, or some are missing.
    """
    numbers = {name: make(results) if (results / file).is_file() else None for name, (file, make) in CHAPTERS.items()}
    figures = sorted(path.stem for path in (root / "figures").glob("*.pdf"))
    return numbers | {
        "figures": figures,
        "mixes": mixes_numbers(root),
        "traces": traces_numbers(root),
        "policy": policy_numbers(),
    }


def typeset(numbers: dict[str, Any], root: Path, kind: Literal["pdf", "html", "png"] = "pdf") -> list[bytes]:
    """The report: one file, or one for each page where it has several.

    Args:
        numbers: see collect.
        root: the folder that holds report/ and figures/.
        kind: pdf, html (without layout) or png (144 dots an inch).

    Raises:
        ValueError: Typst or the sources are not there, or a text claims what the rows do not show.
    """
    compiler = make_compiler(numbers, root, kind)
    import typst

    try:
        found = compiler.compile(format=kind, ppi=144.0, timestamp=DATE)
    except typst.TypstError as error:
        raise ValueError(f"{root / SOURCE} cannot be typeset\n{error.diagnostic}") from None
    return found if isinstance(found, list) else [found or b""]


def make_compiler(numbers: dict[str, Any], root: Path, kind: str) -> Any:
    """Typst's compiler of the report; see typeset.

    Raises:
        ValueError: Typst or the sources are not there.
    """
    try:
        import typst
    except ImportError:
        raise ValueError('the report needs the package typst: pip install "vllm-sim[report]"') from None
    source = root / SOURCE
    if not source.is_file():
        raise ValueError(f"no {source}; allowed: a folder that holds {SOURCE} and figures/")
    return typst.Compiler(
        str(source),
        root=str(root),
        ignore_system_fonts=True,
        font_paths=[str(Path(matplotlib.get_data_path()) / "fonts/ttf")],
        sys_inputs={"numbers": json.dumps(numbers), "kind": kind},
    )


def build(results: Path, root: Path, out: Path) -> int:
    """Writes the PDF; returns its size in bytes.

    Raises:
        ValueError: see collect and typeset.
    """
    (document,) = typeset(collect(results, root), root)
    temporary = out.with_name(f"{out.name}.tmp")
    temporary.write_bytes(document)
    temporary.replace(out)
    return len(document)
