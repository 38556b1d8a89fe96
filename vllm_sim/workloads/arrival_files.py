"""Arrivals of public traces that hold times and lengths alone: Azure's LLM inference traces and BurstGPT, as CSV.

Azure: column `TIMESTAMP`, a time of day (AzurePublicDataset, AzureLLMInferenceTrace_*.csv). BurstGPT: column
`Timestamp`, seconds (HPMLL/BurstGPT). Other columns are not read. Times are counted from the first one. Read:
descriptions of both; not checked against a real file.
"""

import csv
from pathlib import Path

from vllm_sim.trace.files import iter_lines
from vllm_sim.trace.formats.fields import refuse
from vllm_sim.trace.formats.sources import time_ms
from vllm_sim.trace.record import TraceError

COLUMNS = ("TIMESTAMP", "Timestamp")


def read_arrivals(path: Path) -> list[float]:
    """Milliseconds from the first arrival, ascending.

    Raises:
        TraceError: the file has neither column, no row, or a value that is no time.
    """
    rows = csv.DictReader(text for _, text in iter_lines(path))
    column = next((name for name in COLUMNS if name in (rows.fieldnames or ())), None)
    if column is None:
        raise TraceError(path, 1, f"the columns are {rows.fieldnames}; allowed: one of them {' or '.join(COLUMNS)}")
    times = []
    for row in rows:
        try:
            times.append(time_ms(row, column) if column == "TIMESTAMP" else _seconds(row[column]) * 1000)
        except ValueError as error:
            raise TraceError(path, rows.line_num, str(error)) from None
    if not times:
        raise TraceError(path, 0, "the file has no row")
    return sorted(time - min(times) for time in times)


def _seconds(text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise refuse("Timestamp", text, "seconds, 0 or more")
    return value
