"""Files of rows: JSON lines that a sweep appends to, and that plots, page and check read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_sim.replay.old_rows import upgraded
from vllm_sim.replay.rows import Row
from vllm_sim.trace.files import iter_objects

RATES = {
    "token_hit_rate": "token hit rate",
    "block_hit_rate": "block hit rate",
    "request_hit_rate": "request hit rate",
}
NEEDED = ("trace", "trace_sha256", "backend", "policy", "capacity_blocks", "block_size")

_BEGINNINGS = (b'{"key":', b'{"trace":', b'{"schema":')
"""Of a grid's row; the others are of rows from before they began with the key."""


def run_file(rows: Path) -> Path:
    """The file next to a file of rows that says what run computed them last, and of which commit their code is."""
    return rows.with_name(rows.name.removesuffix(".jsonl") + ".run.json")


def check_commit(rows: Path, maker: str) -> None:
    """Checks that the code that made a file's rows is that of a commit.

    Args:
        rows: the file.
        maker: the command that writes it.

    Raises:
        ValueError: it is of a tree with changes that were not committed, or nothing says of which.
    """
    info = run_file(rows)
    commit = json.loads(info.read_text(encoding="utf-8")).get("commit") if info.is_file() else None
    if commit is None or commit.endswith("-dirty"):
        found = f"no commit is in {info}" if commit is None else f"{info} names {commit}"
        raise ValueError(
            f"{rows}: {found}; allowed: rows of committed code. Commit the sources, then run `{maker}`, which keeps "
            "the rows that the same code gave"
        )


def cut_torn_line(path: Path) -> bool:
    """Cuts off a last line that has no end, which a killed writer left; returns whether there was one.

    Raises:
        ValueError: as `whole_bytes`; the file is left as it is.
    """
    if not path.exists():
        return False
    whole = whole_bytes(path)
    if whole == path.stat().st_size:
        return False
    with path.open("r+b") as file:
        file.truncate(whole)
    return True


def whole_bytes(path: Path, of_studies: bool = True) -> int:
    """How many bytes of a grid's file are whole rows; after them may be the beginning of one more, and nothing else.

    Args:
        path: the file.
        of_studies: whether rows of a study are allowed.

    Raises:
        ValueError: a line is no such row, so that the file is another one's, with file and line.
    """
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    for number, line in enumerate(lines, 1):
        _check_key(line, f"{path}, line {number}", of_studies)
    torn, where = content[whole:], f"{path}, line {len(lines) + 1}"
    if torn and not torn.startswith(_BEGINNINGS):
        if not (lines and any(beginning.startswith(torn) for beginning in _BEGINNINGS)):
            raise ValueError(f"{where}: not the beginning of a row; allowed: rows of replay or sweep")
    elif torn and _value(torn) is not None:
        _check_key(torn, where, of_studies)
    return whole


def read_rows(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        ValueError: a line is not a row, with file and line.
    """
    with path.open("rb") as file:
        return [upgraded(_parse(line, f"{path}, line {number}")) for number, line in enumerate(file, 1)]


def _check_key(line: bytes, where: str, of_studies: bool) -> None:
    row = upgraded(_parse(line, where))
    if "key" not in row:
        raise ValueError(f"{where}: the row has no key; allowed: rows of a sweep or a study")
    if "experiment" in row and not of_studies:
        raise ValueError(f"{where}: a row of a study; allowed: rows of a sweep")


def _parse(line: bytes, where: str) -> Row:
    row = _value(line)
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object; allowed: rows of replay or sweep")
    missing = [name for name in NEEDED if name not in row]
    if missing:
        raise ValueError(f"{where}: the row has no {', '.join(missing)}")
    return row


def _value(text: bytes) -> Any:
    """What JSON holds; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_made_rows(path: Path, maker: str) -> list[Row]:
    """The rows of a file that a script makes.

    Raises:
        ValueError: there are none yet, with the script's name.
    """
    if not path.is_file():
        raise ValueError(f"no {path}; first run {maker}")
    return read_rows(path)


def pick(rows: Sequence[Row], experiment: str, **wanted: Any) -> list[Row]:
    """The rows of an experiment whose fields have these values, in the file's order."""
    return [
        row
        for row in rows
        if row["experiment"] == experiment and all(row.get(name) == value for name, value in wanted.items())
    ]


def pick_one(rows: Sequence[Row], experiment: str, *, maker: str, **wanted: Any) -> Row:
    """The first row that `pick` finds among those that a script makes.

    Raises:
        ValueError: there is none.
    """
    found = pick(rows, experiment, **wanted)
    if not found:
        raise ValueError(f"no row of {experiment}, {wanted}; first run {maker} to its end")
    return found[0]


def find_rows(folder: Path) -> dict[Path, list[Row]]:
    """The rows under a folder, by file; files NAME.jsonl and lines that hold other things are passed over.

    Raises:
        ValueError: there is none.
    """
    found = {}
    for path in sorted(folder.rglob("*.jsonl")):
        rows = [upgraded(row) for _, row in iter_objects(path) if all(name in row for name in NEEDED)]
        if rows:
            found[path] = rows
    if not found:
        raise ValueError(f"{folder} holds no rows; `vllm-sim sweep TRACE --out {folder}/sweep.jsonl` makes some")
    return found
