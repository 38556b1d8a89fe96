"""What the mixes of study two are, out of their configurations."""

import tomllib
from pathlib import Path
from typing import Any

from vllm_sim.study.report.texts import number

MIXES = Path("milestone3_code/mixes")
COMMIT = "3eba94041a329619c7a8fdf6516dac01f9ad4788"
"""Mixes, rates and splits, before the first line of the hybrid."""
KINDS = ("chat", "agents", "documents", "fewshot", "oneoff")


def mixes_numbers(root: Path) -> dict[str, Any]:
    """A line a mix.

    Args:
        root: the folder that holds milestone3_code/.

    Raises:
        ValueError: a mix has a source that the table has no column for.
    """
    table, ends = [], set()
    for path in sorted((root / MIXES).glob("report_*.toml")):
        text = path.read_text(encoding="utf-8")
        sources = tomllib.loads(text)["sources"]
        unknown = set(sources) - set(KINDS)
        if unknown:
            raise ValueError(f"{path} has the source {sorted(unknown)[0]!r}; allowed: {', '.join(KINDS)}")
        what = text.splitlines()[0].lstrip("# ").rstrip(".")
        counts = [number(sources[kind]["sessions"]) if kind in sources else "" for kind in KINDS]
        table.append([path.stem.removeprefix("report_"), what, *counts])
        ends |= {source["end_s"] for source in sources.values()}
    return {"table": table, "seconds": number(max(ends)), "commit": COMMIT[:7]}
