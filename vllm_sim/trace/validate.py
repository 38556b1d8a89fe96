"""Checks every line of a trace, as a stream; nothing is changed."""

from collections.abc import Iterator
from pathlib import Path

from vllm_sim.trace.files import OnBytes, decode_text, iter_raw_lines, parse_line, pass_over_unfinished
from vllm_sim.trace.record import TraceError


def find_faults(path: Path, on_bytes: OnBytes | None = None) -> Iterator[TraceError | None]:
    """Yields for every line that is not blank None if it is a record, else what is wrong with it.

    A record that its recorder has not finished is neither; a warning tells it.

    A file that cannot be read further, or that holds no record, gives one fault more at the end.
    """
    lines = 0
    try:
        for number, line in iter_raw_lines(path, on_bytes):
            if pass_over_unfinished(path, number, line):
                continue
            lines += 1
            try:
                parse_line(decode_text(line))
            except ValueError as error:
                yield TraceError(path, number, str(error))
            else:
                yield None
    except TraceError as error:
        yield error
        return
    if not lines:
        yield TraceError(path, 0, "the file holds no record")
