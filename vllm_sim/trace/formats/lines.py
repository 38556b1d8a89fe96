"""A file of one record a line, each of which may be bad: it is left out, counted, and the first few are named."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.files import decode_text, iter_raw_lines, parse_json, pass_over_unfinished
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, TraceError


def convert_lines(
    path: Path, options: Options, report: Report, records_of: Callable[[dict[str, Any], int], Iterable[Record]]
) -> Iterator[Record]:
    """Yields the records of every line, in the file's order.

    Args:
        path: The file.
        options: Settings of the conversion.
        report: Is given what is left out.
        records_of: Makes records of a line's object and number; raises ValueError where it is none of the format.

    Raises:
        TraceError: the file cannot be read; or a line is bad, and the report is strict.
    """
    for number, line in iter_raw_lines(path, options.on_bytes):
        if pass_over_unfinished(path, number, line):
            continue
        try:
            row = parse_json(decode_text(line))
            if not isinstance(row, dict):
                raise ValueError(f"the line is {line.decode().strip()[:60]}; allowed: a JSON object")
            records = list(records_of(row, number))
        except ValueError as error:
            if report.strict:
                raise TraceError(path, number, str(error)) from None
            report.drop("line: not of the format", f"line {number}: {error}")
            continue
        yield from records
