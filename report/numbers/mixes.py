"""What the mixes of study two are, out of their configurations."""

import tomllib
from pathlib import Path
from typing import Any

from report.numbers.texts import number

MIXES = Path("milestone3_code/mixes")
TRACES = Path("milestone3_code/traces.toml")
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
    for name, path in _named(root / MIXES, "report"):
        text = path.read_text(encoding="utf-8")
        sources = tomllib.loads(text)["sources"]
        unknown = set(sources) - set(KINDS)
        if unknown:
            raise ValueError(f"{path} has the source {sorted(unknown)[0]!r}; allowed: {', '.join(KINDS)}")
        what = text.splitlines()[0].lstrip("# ").rstrip(".")
        counts = [number(sources[kind]["sessions"]) if kind in sources else "" for kind in KINDS]
        table.append([name, what, *counts])
        ends |= {source["end_s"] for source in sources.values()}
    return {"table": table, "seconds": number(max(ends)), "commit": COMMIT[:7], **_tuned(root / MIXES)}


def traces_numbers(root: Path) -> dict[str, str]:
    """What each trace of hash ids is, by its name."""
    tables = tomllib.loads((root / TRACES).read_text(encoding="utf-8"))
    return {name: table["what"] for name, table in tables.items()}


def _tuned(folder: Path) -> dict[str, list[str]]:
    """Mixes of the report that begin sessions as the tuning mix of their name does, and those without such a mix."""
    report, tune = ({name: _traffic(path) for name, path in _named(folder, part)} for part in ("report", "tune"))
    return {
        "same": [name for name, traffic in report.items() if traffic == tune.get(name)],
        "alone": [name for name in report if name not in tune],
    }


def _named(folder: Path, part: str) -> list[tuple[str, Path]]:
    return [(path.stem.removeprefix(f"{part}_"), path) for path in sorted(folder.glob(f"{part}_*.toml"))]


def _traffic(path: Path) -> dict[str, Any]:
    """How many sessions of each source begin, and how."""
    sources = tomllib.loads(path.read_text(encoding="utf-8"))["sources"]
    return {name: (source["sessions"], source["arrivals"], source["end_s"]) for name, source in sources.items()}
