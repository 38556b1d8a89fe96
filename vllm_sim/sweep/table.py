"""Rows as a table that other tools read: CSV, or Parquet by pyarrow, which the extra `parquet` brings.

A field of a field becomes a column NAME.FIELD; lists, such as LRU's whole curve, become JSON texts. Columns come in the
order of their first row; where a row lacks one the cell is empty.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vllm_sim.replay.rows import Row
from vllm_sim.trace.output import open_output

FORMATS = ("csv", "parquet")


def write_table(rows: Iterable[Row], out: Path, format: str) -> tuple[int, int]:
    """Writes rows as a table, under a temporary name until the file is whole.

    Args:
        rows: of replay, sweep or plan.
        out: the file.
        format: one of FORMATS.

    Returns:
        Rows and columns.

    Raises:
        ValueError: the format is not known, or there is no row.
        ImportError: Parquet without pyarrow.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; allowed: {', '.join(FORMATS)}")
    flat = [dict(_cells(row)) for row in rows]
    if not flat:
        raise ValueError("there is no row to write; allowed: a file with one or more")
    columns = list(dict.fromkeys(name for row in flat for name in row))
    if format == "csv":
        with open_output(out) as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(flat)
    else:
        _write_parquet(flat, columns, out)
    return len(flat), len(columns)


def _cells(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _cells(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list) else value


def _write_parquet(rows: list[Row], columns: list[str], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        elif len(kinds) > 1:  # a capacity is a number or a word
            values = [None if value is None else str(value) for value in values]
        arrays[name] = pa.array(values)
    partial = out.with_name(f".{out.name}.partial")
    try:
        pq.write_table(pa.table(arrays), partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
